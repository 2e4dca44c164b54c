"""What a verb would take on a model that is not here: bytes and operations, counted on a model without numbers.

The verbs run as they always do, on fake tensors of the architecture's sizes (factscope/model/weightless.py), while
every tensor and every product is counted (factscope/runs/counting.py). So no formula has to be kept beside the code,
and the tests hold the counts against runs of real models. Bytes are those of tensors at their highest, the weights
among them; an operation is a multiplication or an addition of a matrix product.

    load      the weights, and the proofs of what is assumed of a model
    trace     one prompt, every state from the subject on, by the trace's own settings
    eap-ig    every edge's score for one prompt, and its counterfactual twin
    moments   second moments of the keys of one layer, from as many tokens as are asked for by default
    rome      one edit, the second moments at hand, computed in float32; its descent never ends early
    memit     an edit of 32 facts, in the layers that MEMIT writes to, in the same way

*Scope*: what a model says decides nothing here, so a descent takes all its steps. Moments are counted over one piece of
text, and their operations for all pieces are those times their number.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.scorers.eap_ig import EAPIG
from circuits.task import Task
from editing.method import MethodInputs, method
from editing.solve import corpus
from editing.solve.moments import Moments, add_piece
from editing.solve.sums import Sums
from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.data.request import requests_of
from factscope.errors import ModelError, UserError
from factscope.model.bridge import Bridge, info, without_gradients
from factscope.model.forward.widened import widened
from factscope.model.load import place_of
from factscope.model.prompts import Prompt, make_prompt
from factscope.model.source.registry import DEFAULT, REGISTRY
from factscope.model.weightless import weightless
from factscope.model.weights import NO_NUMBERS, key_width
from factscope.runs.counting import Counted, counted
from tracing.causal import Config as TraceConfig
from tracing.causal import trace

PROMPT, SUBJECT, ANSWER = "The Eiffel Tower is located in the city of", "The Eiffel Tower", "Paris"
WORDS = "The report that came out last week says so"  # before edited prompts: as long as contexts that a model writes
TRACE = TraceConfig()
DESCENT: dict[str, Any] = {"descent.stop": 0.0}
FACTS = 32  # of MEMIT's edit: as many as find their values side by side


@dataclass(frozen=True)
class Cost:
    """What one verb takes."""

    verb: str
    bytes_most: int  # of tensors at their highest, weights included
    bytes_more: int  # of these, beyond what was there before the verb
    operations: int


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


def estimate(
    config: Any, tokenizer: Any, verbs: Sequence[str] = (), *, dtype: torch.dtype = torch.float32
) -> tuple[Sizes, tuple[Cost, ...]]:
    """What `verbs` (all, if none is named) take on a model of this Hugging Face configuration.

    Raises UserError for a verb that is not counted, and ModelError for an architecture that cannot be loaded.
    """
    chosen = checked(verbs)
    with counted() as count, weightless(config, tokenizer, dtype) as model:
        loaded = Cost("load", count.bytes_most, count.bytes_most, count.operations)
        sizes = Sizes(
            type(model.original_model).__name__, int(model.cfg.n_layers), int(model.cfg.d_model),
            int(model.cfg.n_heads), key_width(model), int(model.cfg.d_vocab),
            sum(one.numel() for one in model.parameters()),
        )  # fmt: skip
        return sizes, tuple(chain([loaded], costs(model, chosen, count)))


def checked(verbs: Sequence[str]) -> tuple[str, ...]:
    """The verbs in their order, all where none is named; UserError for one that is not counted."""
    if unknown := [verb for verb in verbs if verb not in (*VERBS, "load")]:
        raise UserError(f"{unknown[0]!r} is not counted; choose among load, {', '.join(VERBS)}")
    return tuple(verb for verb in VERBS if verb in verbs or not verbs)


def costs(model: Bridge, verbs: Sequence[str], count: Counted) -> Iterator[Cost]:
    """What each verb takes on this model, with numbers or without; the weights must be counted already."""
    for verb in verbs:
        before = count.bytes_now
        count.since()
        operations = VERBS[verb](model, count)
        yield Cost(verb, count.bytes_most, count.bytes_most - before, operations or count.operations)


# ---- the verbs ----


def _prompt(model: Bridge) -> Prompt:
    return make_prompt(model, PROMPT, subject=SUBJECT, answer=ANSWER)


def _trace(model: Bridge, _: Counted) -> None:
    trace(model, _prompt(model), TRACE)


def _eap_ig(model: Bridge, _: Counted) -> None:
    prompt = _prompt(model)  # its own twin: what a tensor holds makes no difference
    reference = Reference(model, Graph.of(model), Task((prompt,), ablation="counterfactual", corrupt=(prompt,)))
    with without_gradients(model):
        EAPIG(edges=1).examples(reference)


def _moments(model: Bridge, count: Counted) -> int:
    """One piece, and the operations of all."""
    config, layer = corpus.Config(), info(model).edit_layer
    document = min(config.document, int(model.cfg.n_ctx))
    keys = config.rows * (document - 1)
    sums = Sums.of({str(layer): key_width(model, layer)}, corpus.NOTHING)
    after = {"pieces": 1, "tokens": keys, "left_out": config.rows}
    add_piece(sums, model, [[1] * document] * config.rows, after, keys)
    read = count.operations
    sums.estimated(str(layer), keys, None)
    return round(read * config.wanted(model) / keys) + count.operations - read


def _rome(model: Bridge, _: Counted) -> None:
    _edit("rome", model, 1)


def _memit(model: Bridge, _: Counted) -> None:
    _edit("memit", model, FACTS)


VERBS: dict[str, Callable[[Bridge, Counted], int | None]] = {
    "trace": _trace,
    "eap-ig": _eap_ig,
    "moments": _moments,
    "rome": _rome,
    "memit": _memit,
}


def _edit(name: str, model: Bridge, facts: int) -> None:
    """Compute an edit, and leave it at that."""
    spec = method(name)
    config: Any = spec.config_for(model, DESCENT)
    given: list[Fact] = [fact for fact in load_facts("landmark_city") if fact.foil]
    requests = requests_of((given * facts)[:facts])
    contexts = ("{}", *(f"{WORDS} {number}. {{}}" for number in range(spec.contexts(config))))
    moments = _stand_in(model, spec.layers(config))
    inputs = MethodInputs(spec, model, requests, contexts, moments, "auto", 0, None, False, None, None)
    with without_gradients(model), widened(model, [str(name) for name in spec.weights(config)]):
        spec.compute(inputs, config)


def _stand_in(model: Bridge, layers: Sequence[int]) -> Moments:
    """Second moments of the right size."""
    like = next(model.parameters())
    matrices = {str(layer): torch.eye(key_width(model, layer)).to(like) for layer in layers}
    return Moments(matrices, 1, 1, NO_NUMBERS, "", "", corpus.Config(), {}, {})


# ---- the model ----


def described(spec: str) -> tuple[Any, Any]:
    """The configuration and a tokenizer for a model by name, or a folder or file that holds its config.json.

    The weights are neither read nor downloaded. Where there is no tokenizer, the default model's stands in, with idle
    tokens up to the vocabulary's size: it only makes a few prompts. Raises ModelError where there is no configuration.
    """
    from transformers import AutoConfig, AutoTokenizer

    entry = REGISTRY.get(spec)
    where = place_of(spec, entry) if entry is not None else str(Path(spec).expanduser())
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as trouble:
        said = " ".join(str(trouble).split())[:200]
        raise ModelError(f"there is no configuration of a model at {spec}: {said}") from trouble
    rows = int(config.get_text_config().vocab_size)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError):  # a config.json alone
        tokenizer = AutoTokenizer.from_pretrained(place_of(DEFAULT, REGISTRY[DEFAULT]), trust_remote_code=False)
        tokenizer.add_tokens([f"<idle {number}>" for number in range(rows - len(tokenizer))])
    return config, tokenizer
