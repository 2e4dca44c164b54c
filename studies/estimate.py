"""What a kind of work would take on a model that is not here: bytes and operations, counted on a model without numbers.

The work runs as it always does, on fake tensors of the architecture's sizes (factscope/model/weightless.py), while
every tensor and every product is counted (factscope/runs/counting.py). So no formula has to be kept beside the code,
and the tests hold the counts against real runs. Bytes are those of tensors at their highest, the weights among them; an
operation is a multiplication or an addition of a matrix product.

    load      the weights, and the proofs of what is assumed of a model
    trace     one short prompt, every state from the subject on, three kinds, ten samples
    eap_ig    every edge's score for one prompt and its counterfactual twin, in five steps
    acdc      the state of an exact search on one prompt, whole heads, and a decision about every edge
    moments   second moments of the keys of one layer, from as many tokens as are asked for by default
    rome      one edit, the second moments at hand
    memit     one edit of many facts, in the layers that MEMIT writes to, the second moments at hand

*Scope*: what a model says decides nothing here. So a descent takes all its steps, and a search tests every edge in the
full graph: an upper bound of both. What repeats is counted once or twice and multiplied: steps of a descent, batches of
facts (`CHUNK`), pieces of text, and the decisions about two heads' edges (`GAUSS`). Edits are counted as computed in
float32 (factscope/model/forward/widened.py). Everything is counted on the CPU. For a GPU the work goes the way that it
takes there (as many cells at once as are fast and find room there, torch's own products); what it leaves to the
processor (sums of second moments, an edit's equation, in float64) is counted with the rest.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.scorers.eap_ig import EAPIG
from circuits.task import Task
from editing.method import CHUNK, MethodInputs, method
from editing.solve import corpus
from editing.solve.moments import Moments, add_piece
from editing.solve.sums import Sums
from editing.solve.values import Values
from factscope.data.load import load_facts
from factscope.data.request import EditRequest, requests_of
from factscope.errors import ModelError, UserError
from factscope.model.bridge import Bridge, info, without_gradients
from factscope.model.forward.widened import widened
from factscope.model.load import place_of
from factscope.model.prompts import Prompt, make_prompt
from factscope.model.source.registry import DEFAULT, REGISTRY
from factscope.model.source.room import as_on, free
from factscope.model.weightless import UNKNOWN, weightless
from factscope.model.weights import NO_NUMBERS, key_width
from factscope.runs.counting import Counted, counted
from tracing.causal import Config as TraceConfig
from tracing.causal import trace

PROMPT, SUBJECT, ANSWER = "The Eiffel Tower is located in the city of", "The Eiffel Tower", "Paris"
WORDS = "The report that came out last week says so"  # before edited prompts: as long as contexts that a model writes
GAUSS = (0.2113, 0.7887)  # of the readers: two that give the mean of all, whose cost is nearly a cubic of their depth
SHAPE = "width,layers,heads,key heads,MLP width,vocabulary"


@dataclass(frozen=True)
class Setting:
    """What decides how much the work takes, beside the model."""

    facts: int = CHUNK  # of MEMIT's edit
    trace: TraceConfig = field(default_factory=TraceConfig)
    descent: tuple[str, ...] = ()  # settings of edits
    tokens: int | None = None  # of second moments; None: as many as are asked for by default


@dataclass(frozen=True)
class Machine:
    """What decides how much the work takes, beside what is done, and how long."""

    kind: str = "cpu"  # of device, or "cuda"
    room: float | None = None  # bytes that are free on it; None: as many as are asked for
    speed: float | None = None  # operations a second
    load: float | None = None  # processes that ran for each core before the speed was measured; None: it was given


@dataclass(frozen=True)
class Cost:
    """What one kind of work takes."""

    work: str
    bytes_most: int  # of tensors at their highest, weights included
    bytes_more: int  # of these, beyond what was there before the work
    operations: int

    def seconds(self, speed: float) -> float:
        """At the least, by a device that does so many operations a second."""
        return self.operations / speed


@dataclass(frozen=True)
class Sizes:
    """An architecture, in the numbers that decide what it takes."""

    architecture: str
    layers: int
    width: int
    heads: int
    key_width: int
    vocabulary: int
    parameters: int


@dataclass(frozen=True, eq=False)
class Work:
    """What a kind of work is given."""

    model: Bridge
    count: Counted
    setting: Setting


def estimate(
    config: Any,
    tokenizer: Any,
    kinds: Sequence[str] = (),
    setting: Setting = Setting(),
    *,
    dtype: torch.dtype = torch.float32,
    machine: Machine | None = None,
) -> Iterator[Sizes | Cost]:
    """The sizes of a model of this Hugging Face configuration, and what each kind of work (default: all) takes on it.

    Without a machine it is a CPU with all the memory that is asked for.

    Raises UserError for a kind that is not counted, and ModelError for an architecture that cannot be loaded.
    """
    chosen = checked(kinds)
    there = machine or Machine()

    def left() -> float | None:
        return None if there.room is None else there.room - count.bytes_now

    with counted() as count, as_on(there.kind, left), weightless(config, tokenizer, dtype) as model:
        loaded = Cost("load", count.bytes_most, count.bytes_most, count.operations)
        yield Sizes(
            type(model.original_model).__name__, int(model.cfg.n_layers), int(model.cfg.d_model),
            int(model.cfg.n_heads), key_width(model), int(model.cfg.d_vocab),
            sum(one.numel() for one in model.parameters()),
        )  # fmt: skip
        yield loaded
        yield from costs(Work(model, count, setting), chosen)


def checked(kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds of work in their order, all where none is named; UserError for one that is not counted."""
    asked = [kind.replace("-", "_") for kind in kinds]
    known = ("load", *KINDS)
    if unknown := [kind for kind in asked if kind not in known]:
        raise UserError(f"{unknown[0]!r} is not counted; choose among {', '.join(known)}")
    return tuple(kind for kind in known if kind in asked or not asked)


def costs(work: Work, kinds: Sequence[str]) -> Iterator[Cost]:
    """What each kind takes on this model, with numbers or without; the weights must be counted already.

    Raises ModelError where work on this architecture asks for numbers that are not there.
    """
    count = work.count
    for kind in (one for one in kinds if one in KINDS):  # the model is loaded already
        before = count.bytes_now
        count.since()
        try:
            repeated = KINDS[kind](work) or 0.0
        except UNKNOWN as trouble:
            raise ModelError(
                f"{kind.replace('_', '-')} goes by what this architecture says, and cannot be counted on it "
                f"({type(trouble).__name__}): leave it out with --work"
            ) from trouble
        yield Cost(kind, count.bytes_most, count.bytes_most - before, round(count.operations + repeated))


# ---- the kinds of work: each runs, and gives the operations of what is not run because it repeats ----


def _prompt(model: Bridge) -> Prompt:
    return make_prompt(model, PROMPT, subject=SUBJECT, answer=ANSWER)


def _trace(work: Work) -> None:
    trace(work.model, _prompt(work.model), work.setting.trace)


def _eap_ig(work: Work) -> None:
    prompt = _prompt(work.model)  # its own twin: what a tensor holds makes no difference
    task = Task((prompt,), ablation="counterfactual", corrupt=(prompt,))
    with without_gradients(work.model):
        EAPIG(edges=1).examples(Reference(work.model, Graph.of(work.model), task))


def _acdc(work: Work) -> float:
    """The decisions about the edges of some readers, and what those of all take."""
    prompt, count = _prompt(work.model), work.count
    fast = Fast(Reference(work.model, Graph.of(work.model, split=False), Task((prompt,), ablation="zero")))
    graph, begun, mean = fast.graph, count.operations, 0.0
    heads = [number for number, reader in enumerate(graph.readers) if reader.kind == "head"]
    for reader in (heads[round(place * (len(heads) - 1))] for place in GAUSS):
        plan, before = fast.plan(reader), count.operations
        variants = fast.good_batch(plan)
        fast.losses(plan, fast.inputs[reader][None].repeat(variants, 1, 1, 1))
        mean += (count.operations - before) / variants * int(graph.allowed[:, reader].sum()) / len(GAUSS)
    return mean * len(graph.readers) - (count.operations - begun)


def _moments(work: Work) -> float:
    """One piece of text, and what the others take."""
    model, count, config = work.model, work.count, corpus.Config(tokens=work.setting.tokens)
    layer, document = info(model).edit_layer, min(config.document, int(model.cfg.n_ctx))
    wanted, keys = config.wanted(model), config.rows * (document - 1)
    sums = Sums.of({str(layer): key_width(model, layer)}, corpus.NOTHING)
    after = {"pieces": 1, "tokens": keys, "left_out": config.rows}
    add_piece(sums, model, [[1] * document] * config.rows, after, keys)
    read = count.operations
    sums.estimated(str(layer), keys, None)
    return read * (wanted / keys - 1)


def _rome(work: Work) -> float:
    return _edit(work, "rome", 1)


def _memit(work: Work) -> float:
    return _edit(work, "memit", work.setting.facts)


KINDS: dict[str, Callable[[Work], float | None]] = {
    "trace": _trace,
    "eap_ig": _eap_ig,
    "acdc": _acdc,
    "moments": _moments,
    "rome": _rome,
    "memit": _memit,
}


def _edit(work: Work, name: str, facts: int) -> float:
    """An edit whose descent takes two steps, over one batch of facts; the operations of its other steps and batches."""
    model, count, spec = work.model, work.count, method(name)
    whole: Any = spec.config_for(model, work.setting.descent)
    short: Any = replace(whole, descent=replace(whole.descent, steps=2, stop=0.0, patience=None))
    contexts = ("{}", *(f"{WORDS} {number}. {{}}" for number in range(spec.contexts(whole))))
    batch, marks = min(facts, CHUNK), list[int]()
    mark: Callable[..., None] = lambda *_: marks.append(count.operations)  # noqa: E731
    moments = _stand_in(model, spec.layers(whole))
    inputs = MethodInputs(spec, model, _asked(batch), contexts, moments, "auto", 0, mark, False)
    with without_gradients(model), widened(model, [str(one) for one in spec.weights(whole)]):
        before = count.operations
        values = inputs.values(short)
        found = count.operations - before
        step = sum(after - former for former, after in pairwise(marks))
        spec.compute(replace(inputs, requests=_asked(facts), ready=_repeated(values, facts)), short)
    more = step * (whole.descent.steps - 2)
    return float((found + more) * facts / batch - found)


def _asked(facts: int) -> tuple[EditRequest, ...]:
    known = [fact for fact in load_facts("landmark_city") if fact.foil]
    return requests_of([known[number % len(known)] for number in range(facts)])


def _repeated(values: Values, facts: int) -> Values:
    """The values of so many facts, of some."""
    some = torch.arange(facts) % len(values.delta)
    return Values(
        values.delta[some], values.init[some], values.losses[:, some], values.probability[some], (0,) * facts
    )  # fmt: skip


def _stand_in(model: Bridge, layers: Sequence[int]) -> Moments:
    """Second moments of the right size."""
    like: Tensor = next(model.parameters())
    matrices = {str(layer): torch.eye(key_width(model, layer)).to(like.device) for layer in layers}
    return Moments(matrices, 1, 1, NO_NUMBERS, "", "", corpus.Config(), {}, {})


# ---- the model ----


def described(spec: str) -> tuple[Any, Any]:
    """The configuration and a tokenizer for a model by name, for a folder that holds a config.json, or for a shape.

    A shape is six numbers with commas (`SHAPE`), of a Llama. Weights are neither read nor downloaded. Where there is no
    tokenizer, the default model's stands in, shortened or with idle tokens up to the vocabulary's size: it only makes a
    few prompts. Raises ModelError where there is no configuration, UserError for numbers that are no shape, and for a
    vocabulary in which not every byte has a token.
    """
    from transformers import AutoConfig, AutoTokenizer

    if spec.replace(",", "").replace(" ", "").isdecimal():
        config = _shaped(spec)
        return config, _stand_in_tokenizer(int(config.vocab_size))
    entry = REGISTRY.get(spec)
    where = place_of(spec, entry) if entry is not None or spec.lower().endswith(".gguf") else spec
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as trouble:
        said = " ".join(str(trouble).split())[:200]
        raise ModelError(f"there is no configuration of a model at {spec}: {said}") from trouble
    try:
        return config, AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError):  # a config.json alone
        return config, _stand_in_tokenizer(int(config.get_text_config().vocab_size))


def _shaped(text: str) -> Any:
    """A Llama of this shape."""
    from transformers import LlamaConfig

    numbers = [int(part) for part in text.split(",") if part.strip()]
    if len(numbers) != 6 or min(numbers) < 1:
        raise UserError(f"a shape is six numbers, {SHAPE}, as 4096,32,32,8,14336,128256; not {text!r}")
    width, layers, heads, key_heads, mlp, vocabulary = numbers
    if width % heads or heads % key_heads:
        raise UserError(f"in the shape {text!r} the heads do not divide the width, or the key heads the heads")
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip


def _stand_in_tokenizer(rows: int) -> Any:
    """The default model's tokenizer, filled up to a larger vocabulary, or with the first of its merges for a smaller.

    A byte pair encoding learns its merges in order: the first of them are one that was trained for less long.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place_of(DEFAULT, REGISTRY[DEFAULT]), trust_remote_code=False)
    if rows < len(tokenizer):
        return _shortened(tokenizer, rows)
    tokenizer.add_tokens([f"<idle {number}>" for number in range(rows - len(tokenizer))])
    return tokenizer


def _shortened(tokenizer: Any, rows: int) -> Any:
    """The first `rows` tokens of a byte pair encoding. UserError where they do not hold every byte."""
    from tokenizers import Tokenizer

    body = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary, merges = body["model"]["vocab"], body["model"]["merges"]
    least = 1 + max(number for token, number in vocabulary.items() if len(token) == 1)  # a byte is one character
    if rows < least:
        raise UserError(
            f"with a vocabulary of {rows} no text can be spelt by the tokenizer that would stand in: give a shape with "
            f"a vocabulary of {least} or more, or a folder with the model's own tokenizer"
        )
    kept = {token: number for token, number in vocabulary.items() if number < rows}
    body["model"] |= {"vocab": kept, "merges": [pair for pair in merges if "".join(pair) in kept]}
    return type(tokenizer)(tokenizer_object=Tokenizer.from_str(json.dumps(body)), **tokenizer.init_kwargs)


# ---- the machine ----


def machine_of(device: str | None, dtype: torch.dtype, room: float | None, speed: float | None) -> Machine:
    """The machine that has this device; of a GPU that is not here no more is known than is given.

    `room` (bytes free) and `speed` (operations a second) are what is known of it already. The speed that is measured is
    that of a product of two large matrices. Raises UserError for a device that there is nowhere.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        if not name.startswith("cuda"):
            raise UserError(f"there is no device {name!r}; choose cpu or cuda") from None
        return Machine("cuda", room, speed)
    load = None if speed or name.startswith("cuda") else _load()
    return Machine(torch.device(name).type, room or free(name), speed or _speed(name, dtype), load)


def _load() -> float | None:
    """Processes that ran or waited for each core in the last minute; None where the system does not count them."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):
        return None


def _speed(device: str, dtype: torch.dtype) -> float:
    side = 8192 if device.startswith("cuda") else 1024
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    took = []
    for _ in range(6):
        begun = time.perf_counter()
        left @ right
        wait()
        took.append(time.perf_counter() - begun)
    return float(2 * side**3 / min(took))
