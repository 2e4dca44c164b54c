"""Inputs of every kind: the files that are laid into a folder, and the command that reads them.

`Seeds` holds what sound documents are grown from: runs, edits and circuits that the toy has made, as bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from hypothesis import strategies as st

from campaigns.fuzz import commands, grammar
from campaigns.fuzz.commands import EDIT, MODEL, PROMPT, QUICK, TOWN
from campaigns.fuzz.grammar import PROMPTS, TEXTS, VALUES
from factscope.runs import store
from helpers import records
from helpers.commands import invoke
from helpers.models import TOY

RECORDS = {
    name: value for name, value in vars(records).items() if name.isupper() and isinstance(value, dict | list)
}  # one of each public format
CONFIGS = {
    "trace": {"samples": 1, "sites": "mlp", "prompt": PROMPT, "model": str(TOY), "seed": 3, "set": {"window": 1}},
    "edit apply": {"prompt": PROMPT, "target": "Vey", "method": "ft-m", "layer": "0", "model": str(TOY), "batch": 1},
    "circuit find": {"prompt": PROMPT, "method": "eap", "edges": 5, "model": str(TOY), "split_qkv": True},
    "edit bench": {"suite": TOWN, "methods": "ft-m", "limit": 1, "set": ["ft_m.steps=1"], "general": False},
}


@dataclass(frozen=True)
class Input:
    """Files by name, and a command line."""

    kind: str
    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)

    def put(self, folder: Path) -> None:
        """Write the files."""
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


@dataclass(frozen=True)
class Seeds:
    """Files of sound results, by their place in a folder."""

    files: Mapping[str, bytes]

    @classmethod
    def made(cls, place: Path) -> "Seeds":
        """Let the toy make a trace, an edit and a circuit in `place`, which is the current folder."""
        for line in (
            ("trace", PROMPT, *QUICK, *MODEL, "--out", "run", "--light"),
            ("edit", "apply", PROMPT, *EDIT, *MODEL, "--out", "edit", "--light"),
            ("circuit", "find", PROMPT, "--method", "eap", "--edges", "5", "--no-split-qkv", "--ablation", "zero",
             *MODEL, "--out", "circuit", "--light"),
            ("circuit", "export", "circuit", "--out", "c.graphml"),
        ):  # fmt: skip
            ended = invoke(*line)
            assert ended.exit_code == 0, ended.stderr
        kept = [file for file in place.rglob("*") if file.suffix in (".json", ".safetensors", ".yaml", ".graphml")]
        return cls({str(file.relative_to(place)): file.read_bytes() for file in kept})

    def of(self, *folders: str) -> dict[str, bytes]:
        """Those of some folders."""
        return {name: data for name, data in self.files.items() if name.startswith(folders)}


def kinds(seeds: Seeds) -> dict[str, tuple[int, st.SearchStrategy[Input]]]:
    """Every kind of input with its share of a hundred."""
    return {
        "config": (12, _configs()),
        "facts": (16, _facts()),
        "edit": (10, _saved(seeds, "edit", (("edit", "show"), ("edit", "weights"), ("edit", "evaluate")))),
        "circuit": (8, _saved(seeds, "circuit", (("circuit", "show"), ("circuit", "export"), ("circuit", "evaluate")))),
        "graphml": (6, _graphml(seeds)),
        "gguf": (5, grammar.gguf().map(lambda data: Input("gguf", ("trace", PROMPT, *QUICK, "--model", "m.gguf"),
                                                          {"m.gguf": data}))),
        "safetensors": (5, _weights()),
        "flag": (24, commands.lines(commands.tree()).map(lambda line: Input("flag", line, seeds.files))),
        "prompt": (14, _prompts()),
    }  # fmt: skip


def _prompts() -> st.SearchStrategy[Input]:
    ways = st.sampled_from(
        (("trace", *QUICK), ("trace", "lens"), ("trace", "patchscope"), ("trace", "flow"),
         ("circuit", "find", "--method", "eap", "--edges", "5"), ("edit", "apply", *EDIT))
    )  # fmt: skip

    def line(way: tuple[str, ...], prompt: str, answer: str | None) -> Input:
        verb = 1 if len(way) == 1 or way[1].startswith("-") else 2
        more = () if answer is None or way[1:2] in (("patchscope",), ("lens",)) else ("--answer", answer)
        words = (*way[:verb], *way[verb:], *more, *MODEL, "--", prompt)
        return Input("prompt", words)

    return st.builds(line, ways, PROMPTS, st.one_of(st.none(), st.none(), TEXTS, st.sampled_from(["Brask", " Brask"])))


def _configs() -> st.SearchStrategy[Input]:
    def whole(name: str) -> st.SearchStrategy[Input]:
        values = grammar.changed(CONFIGS[name], 3)
        written = st.one_of(
            values.map(grammar.as_json),
            values.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")),
            grammar.flipped(yaml.safe_dump(CONFIGS[name]).encode()),
            st.dictionaries(st.one_of(TEXTS, st.sampled_from(sorted(CONFIGS[name]))), VALUES, max_size=4).map(
                grammar.as_json
            ),
        )
        line = (*name.split(), "--config", "c.yaml")
        return written.map(lambda data: Input("config", line, {"c.yaml": data}))

    return st.sampled_from(sorted(CONFIGS)).flatmap(whole)


def _facts() -> st.SearchStrategy[Input]:
    def file(name: str) -> st.SearchStrategy[Input]:
        value = RECORDS[name]
        whole = value if isinstance(value, list) or name in ("RELATION", "LRE", "SANITATION") else [value, value]
        lines = grammar.changed(value).map(lambda one: b"\n".join([grammar.as_json(one), grammar.as_json(value)]))
        written = st.one_of(
            grammar.document(whole).map(lambda data: ("f.json", data)), lines.map(lambda data: ("f.jsonl", data))
        )
        ways = st.sampled_from(((), (), ("--skip-bad",), ("--extra", "keep"), ("--json",), ("--target", "true")))
        return st.builds(
            lambda one, way: Input("facts", ("edit", "facts", "check", one[0], *way), {one[0]: one[1]}), written, ways
        )

    return st.sampled_from(sorted(RECORDS)).flatmap(file)


def _saved(seeds: Seeds, name: str, ways: tuple[tuple[str, ...], ...]) -> st.SearchStrategy[Input]:
    """A saved run: what its JSON says is changed, or its tensors with a hash that fits, or any of its bytes."""
    file, packed = f"{name}/{store.JSON}", f"{name}/{store.TENSORS}"
    sound, tensors = json.loads(seeds.files[file]), seeds.files[packed]

    def hashed(data: bytes) -> dict[str, bytes]:
        said = {**sound, "tensors_sha256": hashlib.sha256(data).hexdigest()}
        return {file: grammar.as_json(said), packed: data}

    result = grammar.changed(sound["result"], 3).map(lambda value: {file: grammar.as_json({**sound, "result": value})})
    other = st.one_of(
        result,
        result,
        grammar.document(sound).map(lambda data: {file: data}),
        grammar.safetensors(tensors).map(hashed),
        grammar.flipped(tensors).map(lambda data: {packed: data}),
    )

    def line(way: tuple[str, ...], files: dict[str, bytes]) -> Input:
        more = ("--out", "c.json") if way[1] == "export" else ()
        return Input(name, (*way, name, *more), {**seeds.of(f"{name}/"), **files})

    return st.builds(line, st.sampled_from(ways), other)


def _graphml(seeds: Seeds) -> st.SearchStrategy[Input]:
    text = seeds.files["c.graphml"]
    written = st.one_of(grammar.xml(text.decode()), grammar.xml(text.decode()), grammar.flipped(text))
    return written.map(lambda data: Input("graphml", ("circuit", "import", "c.graphml"), {"c.graphml": data}))


def _weights() -> st.SearchStrategy[Input]:
    sound = {name: (TOY / name).read_bytes() for name in ("config.json", "tokenizer.json", "tokenizer_config.json")}
    line = ("trace", PROMPT, *QUICK, "--model", "m")

    def model(data: bytes) -> Input:
        return Input("safetensors", line, {**{f"m/{n}": one for n, one in sound.items()}, "m/model.safetensors": data})

    return grammar.safetensors((TOY / "model.safetensors").read_bytes()).map(model)


def clear(folder: Path) -> None:
    """Empty a folder for the next input."""
    for one in folder.iterdir():
        shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()
