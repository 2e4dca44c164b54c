"""Hostile files: whatever of a stranger's a command reads, made so that it explodes, lies, leads elsewhere or is code.

The readers were found by looking for everything that opens a file: models (config, tokenizer, weights, adapters, GGUF),
facts, circuits (GraphML, JSON, drawings), run folders, stacks, shards, configs, and the requests to a list of runs.
Each attack is a file and a command that reads it, and the command must refuse it in a sentence, run no code and write
nothing outside its folder. Texts that would be obeyed by a browser or a terminal are no mistake: the command does its
work, and the text stays text.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaigns import files, requests
from campaigns.files import DEEP, ESCAPES, LIES, SCRIPT, graphml, model_folder, run_folder
from campaigns.trial import Fall, Report, attempt, new_room, prepare
from helpers.models import TOY

PROMPT = "[Oda Voss] lives in"
TRACE = ("trace", PROMPT, "--samples", "1", "--sites", "mlp")


@dataclass(frozen=True)
class Attack:
    """What is written into the folder, and the commands that are to withstand it."""

    kind: str
    name: str
    make: Callable[[Path], Any]
    commands: tuple[tuple[Any, ...], ...]
    refused: bool = True  # else it may also succeed
    slow: bool = False  # a whole piece of work, or a whole model loaded: left out of the suite's sample


def attacks() -> Iterator[Attack]:
    """All of them."""
    yield from _circuits()
    yield from _facts()
    yield from _configs()
    yield from _runs()
    yield from _models()
    yield from _ggufs()
    yield from _adapters()
    yield from _paths()
    yield from _texts()


def run(place: Path, only: str = "") -> Report:
    """Run the attacks whose kind and name hold `only`, each in a room of its own."""
    prepare()
    tried: dict[str, int] = {}
    fell: list[Fall] = []
    chosen = (attack for attack in attacks() if only in f"{attack.kind}: {attack.name}")
    for number, attack in enumerate(chosen):
        room = new_room(place / str(number))
        attack.make(room / "inside")
        for arguments in attack.commands:
            tried[attack.kind] = tried.get(attack.kind, 0) + 1
            if fall := attempt(f"{attack.kind}: {attack.name}", arguments, room, attack.refused):
                fell.append(fall)
    if only in "request":
        for number, (_, trouble) in enumerate(requests.falls(new_room(place / "served"))):
            tried["request"] = number + 1
            fell += [trouble] if trouble else []
        if words := requests.crowd(place / "served"):
            fell.append(Fall("request: a silent crowd", "", words))
    return Report(tried, fell)


def _write(name: str, content: str | bytes) -> Callable[[Path], Any]:
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return make


# ---- circuits ----


def _circuits() -> Iterator[Attack]:
    edge = '<edge source="embed" target="logits"><data key="r">{}</data><data key="s">{}</data></edge>'
    layout = '<data key="l">{}</data>'
    own = {"kind": "factscope circuit", "edges": [{"edge": "embed->logits", "score": 1.0}]}
    big = {"n_layers": 10**9, "n_heads": 12, "n_kv_heads": 12, "parallel": False, "split": True}
    documents: dict[str, str | bytes] = {
        "laughs.graphml": files.laughs(),
        "quadratic.graphml": graphml(f'<node id="{"&a;" * 50_000}"/>', f'<!DOCTYPE g [<!ENTITY a "{"a" * 50_000}">]>'),
        "external.graphml": graphml('<node id="&e;"/>', '<!DOCTYPE g [<!ENTITY e SYSTEM "file:///etc/passwd">]>'),
        "dtd.graphml": graphml('<node id="x"/>', '<!DOCTYPE g SYSTEM "http://127.0.0.1:9/x.dtd">'),
        "deep.graphml": graphml("<a>" * DEEP + "</a>" * DEEP),
        "nested.graphml": graphml("<node><graph>" * 20_000 + "</graph></node>" * 20_000),
        "layers.graphml": graphml(layout.format(json.dumps(big)) + edge.format("logits", 1)),
        "layout-deep.graphml": graphml(layout.format("[" * DEEP) + edge.format("logits", 1)),
        "layout-list.graphml": graphml(layout.format("[1]") + edge.format("logits", 1)),
        "layout-text.graphml": graphml(layout.format('{"n_layers": "x"}') + edge.format("logits", 1)),
        "score.graphml": graphml(edge.format("logits", "one")),
        "key.graphml": graphml('<edge source="a" target="b"><data key="no">1</data></edge>'),
        "no-target.graphml": graphml('<edge source="a"/>'),
        "hyper.graphml": graphml("<hyperedge/>"),
        "pickle.graphml": files.pickled(),
        "deep.json": '{"edges":' * DEEP,
        "digits.json": '{"edges": ' + "9" * 10_000 + "}",
        "layers.json": json.dumps(own | {"graph": big}),
        "negative.json": json.dumps(own | {"graph": big | {"n_layers": -1}}),
        "text.json": json.dumps(own | {"graph": big | {"n_layers": "many"}}),
        "groups.json": json.dumps(own | {"graph": big | {"n_layers": 2, "n_kv_heads": 0}}),
        "edge-layers.json": json.dumps({"edges": {"a999999999.h1->m9999999999": {"score": 1, "in_graph": True}}}),
        "cfg.json": json.dumps({"cfg": {"n_layers": "x"}, "edges": {"m0->logits": {"score": 1, "in_graph": True}}}),
        "cfg-list.json": json.dumps({"cfg": [1], "edges": {"m0->logits": {"score": 1, "in_graph": True}}}),
        "cfg-huge.json": json.dumps({"cfg": {"n_layers": 1e300}, "edges": {"m0->logits": {"in_graph": True}}}),
        "score.json": json.dumps({"edges": {"m0->logits": {"score": "high", "in_graph": True}}}),
        "infinite.json": '{"kind": "factscope circuit", "edges": [{"edge": "embed->logits", "score": 1e999}]}',
        "layers.gv": "digraph x {\n  a999999999.h7 -> m99999999999 [penwidth=1];\n}",
        "lines.gv": "digraph x {\n" + "\n" * 300_000 + "}",
        "spaces.gv": "digraph x {\n" + " " * 300_000 + "x -> \n}",
        "width.gv": 'digraph x {\n  m0 -> m1 [penwidth="1.2.3"];\n}',
        "pickle.gv": files.torch_pickled(),
    }
    for name, document in documents.items():
        # Some of these are circuits that can be drawn: all that is asked is that nothing falls.
        asked = not name.startswith(("infinite", "width"))
        yield Attack("circuit", name, _write(name, document), (("circuit", "import", name),), refused=asked)


# ---- facts ----


def _facts() -> Iterator[Attack]:
    record = {"prompt": "{} lives in", "subject": "Oda Voss", "answer": "Brask"}
    documents: dict[str, str | bytes] = {
        "deep.json": "[" * DEEP,
        "deep-object.json": '{"facts":' * DEEP,
        "deep.jsonl": json.dumps(record) + "\n" + "[" * DEEP,
        "digits.json": '[{"subject": ' + "9" * 10_000 + "}]",
        "pickle.json": files.pickled(),
        "torch.jsonl": files.torch_pickled(),
        "keys.json": "{" + ",".join(f'"{n}": 0' for n in range(100_000)) + "}",
        "inside.json": json.dumps([record | {"paraphrases": json.loads("[" * 900 + "]" * 900)}]),
    }
    for name, document in documents.items():
        readers = (("edit", "facts", "check", name), ("trace", "--facts", name, "--model", TOY))
        yield Attack("facts", name, _write(name, document), readers)

    def script(folder: Path) -> None:
        (folder / "owner" / "name").mkdir(parents=True)
        (folder / "owner" / "name" / "name.py").write_text(f"open({files.CANARY!r}, 'w')")
        (folder / "owner" / "name" / "dataset_infos.json").write_text("{}")

    yield Attack("facts", "a data set's script", script, (("trace", "--facts", "owner/name", "--model", TOY),))
    yield Attack(
        "facts",
        "a path for a data set",
        lambda _: None,
        (
            ("trace", "--facts", "../..:x.json", "--model", TOY),
            ("trace", "--facts", "a/b:../../x.json", "--model", TOY),
        ),
    )


# ---- options from files ----


def _configs() -> Iterator[Attack]:
    call = f"!!python/object/apply:builtins.open ['{files.CANARY}', 'w']"
    documents: dict[str, str | bytes] = {
        "call.yaml": f"prompt: {call}\n",
        "call-set.yaml": f"set: {{noise: {call}}}\n",
        "aliases.yaml": files.aliases(),
        "aliases-text.yaml": files.aliases().replace("sites:", "prompt:"),
        "aliases-set.yaml": files.aliases().replace("sites:", "set:\n  noise:"),
        "merge.yaml": "a0: &a0 {x: 1}\n"
        + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9)),
        "self.yaml": "sites: &a [*a, *a]\n",
        "self-set.yaml": "set: &a {noise: *a}\n",
        "deep.yaml": "sites: " + "[" * 20_000,
        "deep.json": '{"sites":' * DEEP,
        "keys.yaml": "? [a, b]\n: 1\n",
        "infinite.yaml": "samples: .inf\n",
        "huge.yaml": "samples: " + "9" * 10_000 + "\n",
        "date.yaml": "prompt: 2020-01-01\n",
        "binary.yaml": "prompt: !!binary aGVsbG8=\n",
        "set.yaml": "prompt: !!set {a, b}\n",
        "pickle.yaml": files.pickled(),
        "documents.yaml": "prompt: a\n---\nprompt: b\n",
        "zero.yaml": "prompt: a\0b\n",
    }
    for name, document in documents.items():
        yield Attack("config", name, _write(name, document), (("trace", "--config", name, "--model", TOY),))

    def shard(text: str) -> Callable[[Path], Any]:
        def make(folder: Path) -> None:
            place = folder / "work-1of2"
            place.mkdir()
            (place / "config.yaml").write_text(text)
            (place / "journal.jsonl").write_text("[" * DEEP)

        return make

    for name, text in {
        "call": f"command: {call}",
        "list": "[1]",
        "broken": "a: [",
        "aliases": files.aliases(),
        "empty": "",
        "deep journal": "command: trace\nfacts: country_capital\nmodel: " + str(TOY),
    }.items():
        yield Attack("shard", name, shard(text), (("factscope", "merge", "work-1of2"),))

    def before(text: str | bytes) -> Callable[[Path], Any]:
        def make(folder: Path) -> None:
            _write("runs/one/config.yaml", text)(folder)
            _write("runs/one/result.json", "{}")(folder)
            _write("runs/one/result.safetensors", "")(folder)

        return make

    there: dict[str, str | bytes] = {
        "call": call,
        "deep": "[" * 20_000,
        "bytes": files.pickled(),
        "laughs": files.aliases(),
    }
    for name, said in there.items():
        yield Attack(
            "config", f"of a run that is there: {name}", before(said), ((*TRACE, "--model", TOY, "--out", "runs/one"),)
        )


# ---- saved runs ----

READERS: tuple[tuple[Any, ...], ...] = (
    ("trace", "show"),
    ("circuit", "show"),
    ("circuit", "export"),
    ("circuit", "compare"),
    ("circuit", "evaluate"),
    ("circuit", "layers"),
    ("edit", "show"),
    ("edit", "evaluate"),
    ("edit", "compare"),
    ("edit", "weights"),
    ("edit", "merge"),
    ("edit", "undo"),
    ("edit", "export", "--out", "exported"),
)
KINDS = ("TraceResult", "Edit", "CircuitStudy", "Bench", "Trained", "SequenceResult", "LensResult")
NAMED = {
    "empty": {},
    "list": [1],
    "text": "x",
    "null": None,
    "digits": {"seed": 10**4000},
    "float": {"seed": {"$float": "x"}},
    "tensor": {"$tensor": "../../beside/mine.json"},
    "tensor list": {"seed": {"$tensor": ["x"]}},
    "deep": {"config": json.loads('{"x":' * 300 + "1" + "}" * 300)},
}


def _run(kind: str, result: Any, packed: bytes | None = None, where: str = "one") -> Callable[[Path], Any]:
    return lambda folder: run_folder(folder / where, kind, result, packed)


def _runs() -> Iterator[Attack]:
    for lie in (*LIES, "pickle", "torch pickle"):
        packed = {"pickle": files.pickled, "torch pickle": files.torch_pickled}.get(
            lie, lambda lie=lie: files.lying_safetensors(lie)
        )()
        yield Attack(
            "run",
            f"tensors: {lie}",
            _run("TraceResult", {}, packed),
            (("trace", "show", "one"), ("factscope", "view", ".", "--file")),
            refused=False,
        )
    for kind in KINDS:
        for name, result in NAMED.items():
            yield Attack(
                "run",
                f"{kind} of {name}",
                _run(kind, result),
                (("trace", "show", "one"),),
            )
    for verb in READERS:
        for kind, name in (("Edit", "empty"), ("os.system", "list"), ("Edit", "list")):
            yield Attack(
                "run",
                f"{kind} of {name} for {' '.join(verb)}",
                _run(kind, NAMED[name]),
                ((*verb[:2], *(["one", "one"] if verb[1] == "compare" else ["one"]), *verb[2:]),),
            )
    for name in NAMED:
        yield Attack(
            "run",
            f"listed: {name}",
            _run("Edit", NAMED[name], where="runs/one"),
            (("edit", "list"), ("factscope", "view", "runs", "--file")),
            refused=False,
        )
    for name, text in {
        "deep": "[" * DEEP,
        "object": '{"edits":' * DEEP,
        "number": '{"edits": 7}',
        "text": '{"edits": "abc"}',
        "outside": '{"edits": ["../../beside"]}',
        "zero": '{"edits": ["a\\u0000b"]}',
        "long": '{"edits": ["' + "x" * 5000 + '"]}',
    }.items():
        yield Attack(
            "run",
            f"stack: {name}",
            _write("runs/edits.json", text),
            (("edit", "undo"), ("edit", "export", "--out", "e")),
        )


# ---- models ----


def _models() -> Iterator[Attack]:
    code = f"open({files.CANARY!r}, 'w')\nclass C:\n    pass\n"
    remote = {"auto_map": {f"Auto{name}": "evil.C" for name in ("Config", "ModelForCausalLM", "Tokenizer")}}
    jinja = "{{ cycler.__init__.__globals__.os.system('touch " + files.CANARY + "') }}"
    changes: dict[str, dict[str, Any]] = {
        "remote code": {"config.json": remote | {"model_type": "evil"}, "evil.py": code},
        "remote code of a known type": {"config.json": remote, "evil.py": code},
        "remote tokenizer": {
            "tokenizer_config.json": remote
            | {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}},
            "evil.py": code,
        },
        "remote generation": {"generation_config.json": {"custom_generate": "."}, "custom_generate/generate.py": code},
        "a kernel": {"config.json": {"_attn_implementation": "evil/kernel", "attn_implementation": "evil/kernel"}},
        "a template": {"tokenizer_config.json": {"chat_template": jinja}},
        "pickle beside": {"pytorch_model.bin": files.torch_pickled()},
        "pickle as safetensors": {"model.safetensors": files.torch_pickled()},
        "an adapter beside": {
            "adapter_config.json": {"peft_type": "LORA", "base_model_name_or_path": "../beside", "r": 1},
            "adapter_model.bin": files.torch_pickled(),
        },
        "an index to elsewhere": {
            "model.safetensors": b"",
            "model.safetensors.index.json": {"metadata": {}, "weight_map": {"lm_head.weight": "../../beside/evil.bin"}},
        },
        "tokenizer of pickle": {"tokenizer.json": files.pickled()},
        "tokenizer deep": {"tokenizer.json": '{"a":' * DEEP},
        "tokenizer config deep": {"tokenizer_config.json": '{"a":' * DEEP},
        "config deep": {"config.json": '{"a":' * DEEP},
        "config list": {"config.json": "[1]"},
        "config of layers": {"config.json": {"num_hidden_layers": 10**9}},
        "config of width": {"config.json": {"hidden_size": 10**12}},
        "config of words": {"config.json": {"vocab_size": -1}},
        "config of no heads": {"config.json": {"num_attention_heads": 0}},
        "config of texts": {"config.json": {"hidden_size": "wide", "rope_parameters": 7}},
        "config of a type": {"config.json": {"dtype": "os.system", "torch_dtype": "os.system"}},
        "quantised by a text": {"config.json": {"quantization_config": "evil"}},
        "quantised by code": {"config.json": {"quantization_config": {"quant_method": "../evil"}}},
        "start deep": {"factscope.json": '{"a":' * DEEP},
        "start list": {"factscope.json": "[1]"},
        "start number": {"factscope.json": '{"start_token": ["x"]}'},
    }
    harmless = ("remote code of a", "remote gen", "a template", "pickle beside", "an adapter", "remote tok")

    def make(written: dict[str, Any]) -> Callable[[Path], Any]:
        def all_(folder: Path) -> None:
            nested = {name: written[name] for name in written if "/" in name}
            model_folder(folder / "m", **{name: one for name, one in written.items() if name not in nested})
            for name, content in nested.items():
                _write(f"m/{name}", content)(folder)

        return all_

    for name, written in changes.items():
        commands = ((*TRACE, "--model", "m"),)
        refused = not name.startswith(harmless)
        yield Attack("model", name, make(written), commands, refused, slow=not refused and "a type" not in name)
    for lie in LIES:
        yield Attack(
            "model",
            f"weights: {lie}",
            make({"model.safetensors": files.lying_safetensors(lie)}),
            ((*TRACE, "--model", "m"),),
        )


def _ggufs() -> Iterator[Attack]:
    for lie in files.GGUFS:
        yield Attack("gguf", lie, _write("m.gguf", files.gguf(lie)), ((*TRACE, "--model", "m.gguf"),))


def _adapters() -> Iterator[Attack]:
    base = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": str(TOY)}
    module = "model.layers.0.mlp.down_proj"

    def make(config: Any, weights: bytes | None, name: str = "adapter_model.safetensors") -> Callable[[Path], Any]:
        def write(folder: Path) -> None:
            from safetensors import torch as safetensors
            from torch import zeros

            good = {f"{module}.lora_A.weight": zeros(1, 128), f"{module}.lora_B.weight": zeros(48, 1)}
            (folder / "a").mkdir()
            text = config if isinstance(config, str) else json.dumps(config)
            (folder / "a" / "adapter_config.json").write_text(text)
            (folder / "a" / name).write_bytes(safetensors.save(good) if weights is None else weights)

        return write

    configs = {
        "deep": '{"a":' * DEEP,
        "list": "[1]",
        "no rank": base | {"r": "x", "lora_alpha": "x"},
        "an expression": base | {"alpha_pattern": {"(a|a|[a-z.0-9_])*!": 1}},
        "a slow expression": base | {"alpha_pattern": {"([a-z0-9_.]+)+!": 1}},
        "no expression": base | {"alpha_pattern": {"(": 1}},
        "pattern": base | {"alpha_pattern": [1]},
        "elsewhere": base | {"base_model_name_or_path": "../beside"},
        "base list": base | {"base_model_name_or_path": ["x"]},
    }
    for name, config in configs.items():
        yield Attack("adapter", name, make(config, None), ((*TRACE, "--model", "a"),))
    pickled = make(base, files.torch_pickled(), "adapter_model.bin")
    yield Attack("adapter", "pickled", pickled, ((*TRACE, "--model", "a"),))
    for lie in LIES:
        yield Attack(
            "adapter", f"weights: {lie}", make(base, files.lying_safetensors(lie)), ((*TRACE, "--model", "a"),)
        )


# ---- names that lead elsewhere, and texts that would be obeyed ----


def _paths() -> Iterator[Attack]:
    up = "../../beside/evil"
    yield Attack(
        "path", "a prompt", lambda _: None, (("trace", f"[{up}] lives in", *TRACE[2:], "--model", TOY),), refused=False
    )
    yield Attack("path", "a relation", lambda _: None, (("trace", "--facts", up, "--model", TOY),))
    circuit = json.dumps({"edges": {"m0->logits": {"score": 1, "in_graph": True}}})
    yield Attack(
        "path",
        "a circuit",
        _write("..json", circuit),
        (("circuit", "import", "..json", "--prompt", up),),
        refused=False,
    )
    relation = {"relation": up, "templates": ["{} lives in"], "facts": [{"subject": "Oda Voss", "answer": "Brask"}] * 1}
    yield Attack(
        "path",
        "a relation's own name",
        _write("r.json", json.dumps(relation)),
        (("trace", "--facts", "r.json", "--samples", "1", "--sites", "mlp", "--model", TOY),),
        refused=False,
    )


def _texts() -> Iterator[Attack]:
    for name, text in {"script": SCRIPT, "escapes": ESCAPES}.items():
        model = TOY
        fact = {"subject": f"{text} Oda", "answer": f"Brask {text}"}
        relation = {
            "relation": f"r{text}",
            "description": text,
            "subject_type": text,
            "answer_type": text,
            "templates": ["{} lives in " + text],
            "facts": [fact, {**fact, "subject": f"Mira {text}"}],
        }
        prompt = f"{text} [Oda Voss] lives in"
        quick = ("--samples", "1", "--sites", "mlp", "--model", model)
        circuit = json.dumps({"edges": {f"m0->logits{text}": {"score": 1, "in_graph": True}}})
        yield Attack(
            "text",
            name,
            _obeyed(text, relation, circuit),
            (
                ("trace", prompt, *quick, "--out", "runs/t"),
                ("trace", "show", "runs/t", "--table", "t.tex", "--figures", "figures"),
                ("trace", "--facts", "r.json", *quick),
                ("edit", "facts", "check", "r.json"),
                ("edit", "facts", "check", "broken.json"),
                ("circuit", "import", "c.json"),
                (*TRACE, "--model", "m"),
                (
                    "edit",
                    "apply",
                    prompt,
                    "--target",
                    f"Vey {text}",
                    "--method",
                    "ft-m",
                    "--model",
                    model,
                    "--out",
                    "runs/e",
                ),
                ("edit", "list"),
                ("edit", "show", "runs/e"),
                ("trace", "lens", prompt, "--texts", text, "--model", model),
                ("factscope", "view", "runs", "--file"),
                ("trace", "show", f"no{text}"),
                ("circuit", "import", f"no{text}"),
                ("trace", PROMPT, "--answer", text, *quick),
            ),
            refused=False,
        )


def _obeyed(text: str, relation: dict[str, Any], circuit: str) -> Callable[[Path], Any]:
    """Files with the text wherever one may stand: facts, a circuit, a broken file, a model's configuration."""

    def make(folder: Path) -> None:
        _write("r.json", json.dumps(relation))(folder)
        _write("c.json", circuit)(folder)
        _write("broken.json", '[{"' + text.replace('"', "'") + '": 1}]')(folder)
        model_folder(folder / "m", **{"config.json": {"model_type": text}})

    return make
