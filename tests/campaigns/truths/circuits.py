"""Circuits drawn at random and compiled into a model's weights: what exact methods must find to the edge.

A wiring is drawn by a seed: four to seven heads and MLPs of a model of three layers, each of which hears one or two of
those below it, and the logits hear the last; whatever does not reach the logits is left out. Weights are written as
`circuits.mib.planted` writes them, with numbers of the words that the seed draws.

    exact     ACDC, single cuts above a threshold, and causal tracing with swapped subjects: which heads and MLPs bring
              the answer back when their output at the last token is restored. Each must find all, and nothing else.
    scorers   EAP and its kin are estimates: reported with what they miss among as many edges as there are
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from circuits.circuit import Circuit
from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.mib.planted import HEADS, Planted, compiled
from circuits.mib.track import scores_of
from circuits.task import Task
from tracing.causal import Config as TraceConfig
from tracing.causal import trace

LAYERS = 3
SCORERS = ("eap", "eap_ig", "atp_star", "relp")
EXACT = ("acdc", "exact cuts", "causal tracing")
ALIVE = 0.05  # logits: an edge of a planted circuit is worth ten times as much, another a hundredth
Wiring = dict[str, list[str]]


@dataclass(frozen=True)
class Found:
    """What a method found of what was planted."""

    seed: int
    method: str
    planted: tuple[str, ...]  # edges; nodes of a trace
    missed: tuple[str, ...]
    false: tuple[str, ...]


def wiring(seed: int) -> Wiring:
    """Which writers each reader hears; every node reaches the logits, by five edges or more in all."""
    rng = np.random.default_rng(seed)
    while len(edges(wired := _drawn(rng))) < 5:
        pass
    return wired


def _drawn(rng: np.random.Generator) -> Wiring:
    every = [(layer, head) for layer in range(LAYERS) for head in range(HEADS + 1)]  # the last of a layer is its MLP
    chosen = sorted(rng.choice(len(every), int(rng.integers(4, 8)), replace=False).tolist())
    wired: Wiring = {}
    for place, (layer, head) in enumerate(nodes := [every[number] for number in chosen]):
        below = ["embed", *(_name(*node) for node in nodes[:place] if node[0] < layer or head == HEADS)]
        count = min(len(below), int(rng.integers(1, 3)))
        wired[_name(layer, head)] = [below[i] for i in sorted(rng.choice(len(below), count, replace=False).tolist())]
    names = list(wired)
    wired["logits"] = sorted({names[-1], names[int(rng.integers(len(names)))]}, key=names.index)
    return alive(wired)


def _name(layer: int, head: int) -> str:
    return f"m{layer}" if head == HEADS else f"a{layer}.h{head}"


def alive(wired: Wiring) -> Wiring:
    """What is heard from the embedding and reaches the logits."""
    heard = {"embed"}
    kept: Wiring = {}
    for reader, writers in wired.items():  # from below
        if known := [writer for writer in writers if writer in heard]:
            kept[reader] = known
            heard.add(reader)
    reached, asked = {"logits"}, ["logits"]
    while asked:
        new = [writer for writer in kept.get(asked.pop(), []) if writer not in reached]
        reached.update(new)
        asked += new
    return {reader: writers for reader, writers in kept.items() if reader in reached}


def edges(wired: Wiring) -> set[str]:
    """By name; heads hear by their values."""
    return {f"{writer}->{_reader(reader)}" for reader, writers in wired.items() for writer in writers}


def _reader(name: str) -> str:
    return f"{name}.v" if name.startswith("a") else name


def plant(seed: int) -> Planted:
    """The model of a seed."""
    return compiled(wiring(seed), f"by seed {seed}", seed=seed, device="cpu", layers=LAYERS)


def recovered(seed: int, planted: Planted, task: Task, circuit: Circuit, scorers: bool) -> Iterator[Found]:
    """What each method finds of the circuit of a seed; `circuit` is ACDC's."""
    wired, reference = set(planted.edges), Reference(planted.model, circuit.graph, task)
    yield found(seed, "acdc", wired, set(circuit.graph.names(circuit.mask)))
    cuts = scores_of(reference, "exact").abs().numpy() > ALIVE
    yield found(seed, "exact cuts", wired, set(circuit.graph.names(cuts)))
    yield _traced(seed, planted)
    for name in SCORERS if scorers else ():
        yield found(seed, name, wired, _largest(circuit.graph, scores_of(reference, name), len(wired)))


def found(seed: int, method: str, planted: set[str], named: set[str]) -> Found:
    """Beside what was planted."""
    missed, false = (tuple(sorted(some)) for some in (planted - named, named - planted))
    return Found(seed, method, tuple(sorted(planted)), missed, false)


def _largest(graph: Graph, scores: torch.Tensor, count: int) -> set[str]:
    chosen = np.zeros(graph.allowed.shape, dtype=bool)
    size = scores.abs().numpy() * graph.allowed
    chosen.flat[np.argsort(-size, axis=None, kind="stable")[:count]] = True
    return set(graph.names(chosen))


def _traced(seed: int, planted: Planted) -> Found:
    """Heads and MLPs whose restored output at the last token brings the logit difference back."""
    task = planted.task(1, seed=seed)
    config = TraceConfig(
        sites=("head", "mlp"), corruption="swap", swaps=(task.corrupt[0].text,), samples=1, window=1,
        metric="logit_difference",
    )  # fmt: skip
    result: Any = trace(planted.model, task.prompts[0], config)
    heads, mlps = (result.grid(kind).effect[..., -1].abs() > ALIVE / 10 for kind in ("head", "mlp"))
    named = {f"a{layer}.h{head}" for layer, head in torch.nonzero(heads).tolist()}
    named |= {f"m{layer}" for (layer,) in torch.nonzero(mlps).tolist()}
    nodes = {name for edge in planted.edges for name in edge.replace(".v", "").split("->")}
    return found(seed, "causal tracing", nodes - {"embed", "logits"}, named)
