"""What cutting each single edge of the full graph really costs: measured, not estimated.

The yardstick for EAP and EAP-IG, and another question than ACDC's, which cuts from the circuit so far. One batch row
for each edge, and only what the edge's reader leads to is computed: minutes on a model of 135 million parameters.

No cut depends on another, so the readers' layers are pieces of work: each is journalled when it is done, a run that was
stopped goes on at the next one, and workers (factscope/runs/workers.py) share them. The numbers are the same to the
last bit whoever measured them.

Convention: the rise of the loss when the edge alone is cut, in the loss's unit; positive means that the edge helps.
`direction=denoising` measures the other end: how far the loss falls when the edge alone has its clean value in the
corrupt run.
Scope: single cuts do not add up; edges that stand in for each other each look dispensable.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from circuits.decisions import journal_key, layer_of
from circuits.engine.incremental import Fast
from circuits.engine.mirror import DENOISED, Direction, check_direction, seen_from
from circuits.engine.reference import Reference, Sent
from circuits.engine.writes import Mask
from circuits.graph import Graph
from circuits.method import EdgeChoice, Scorer
from factscope.model.bridge import Bridge
from factscope.model.weights import fingerprint
from factscope.progress import progress
from factscope.runs.journal import Journal
from factscope.runs.workers import ALONE, Workers, each


@dataclass(frozen=True)
class Exact(Scorer):
    """How it is run."""

    name: ClassVar[str] = "exact"
    convention: ClassVar[str] = (
        "measured rise of the loss when the edge alone is cut from the full graph; positive: the edge helps"
    )

    shared: ClassVar[bool] = True

    largest_batch: int = 64  # more is slower on two cores
    direction: Direction = field(default="noising", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_direction(self.direction)
        if self.direction == "denoising":
            object.__setattr__(self, "convention", f"measured {DENOISED}")

    def score(self, reference: Reference) -> Tensor:
        """Scores [writer, reader] in the loss's unit, zero where there is no edge."""
        return self._measured(reference, None, ALONE, False)

    def choose(
        self,
        reference: Reference,
        *,
        journal: Path | None = None,
        seed: int = 0,
        shown: bool | None = False,
        workers: Workers = ALONE,
    ) -> EdgeChoice:
        """Cut every edge and keep the best. Raises what `decided` does, and StoreError for a journal of other work."""
        return self.decided(reference, self._measured(reference, journal, workers, shown), seed=seed)

    def _measured(self, reference: Reference, journal: Path | None, workers: Workers, shown: bool | None) -> Tensor:
        """All scores; those of layers that the journal holds are taken from it."""
        graph = reference.graph
        layers = [layer_of(graph, number) for number in range(len(graph.readers))]
        readers = [[n for n, layer in enumerate(layers) if layer == own] for own in sorted(set(layers))]
        key = journal_key(reference.task, graph, 0.0, fingerprint(reference.model)) | {"search": "exact"}
        key |= {"direction": self.direction, "largest batch": self.largest_batch}
        scores = torch.zeros(graph.allowed.shape, dtype=torch.float64)
        with contextlib.ExitStack() as stack:
            log = None if journal is None else stack.enter_context(Journal(journal, key))
            done = [] if log is None else list(log.done)
            costs = [1.0 + graph.n_layers - layers[some[0]] for some in readers for _ in range(_edges(graph, some))]
            begun = sum(_edges(graph, some) for some in readers[: len(done)])
            advance = stack.enter_context(progress("edges", graph.n_edges, begun, shown, costs))
            cutting = _Cutting(reference.sent(workers), self.direction, self.largest_batch)
            found = stack.enter_context(
                contextlib.closing(each(reference.model, cutting, readers[len(done) :], workers))
            )
            for place, line in enumerate(chain(done, found)):
                for number, rises in zip(readers[place], line["rises"], strict=True):
                    scores[: len(rises), number] = torch.tensor(rises, dtype=torch.float64)
                if place >= len(done):
                    if log is not None:
                        log.add(line)
                    advance(_edges(graph, readers[place]))
        return scores


def _edges(graph: Graph, readers: Sequence[int]) -> int:
    """How many edges these readers have."""
    return sum(graph.below(graph.readers[number]) for number in readers)


@dataclass(frozen=True, eq=False)
class _Cutting:
    """What a worker does with the readers of a layer: each cut's score, as a line of the journal."""

    sent: Sent
    direction: Direction
    largest_batch: int
    made: "list[tuple[Cuts, int]]" = field(default_factory=list)  # at the first piece: the cuts, and their sign

    def __call__(self, model: Bridge, readers: Sequence[int]) -> dict[str, Any]:
        if not self.made:
            start, sign = seen_from(self.sent.on(model), self.direction)
            self.made.append((Cuts(Fast(start), start.graph.full()), sign))
        graph, ((cuts, sign),) = self.sent.graph, self.made
        rises = (
            cuts.rises(number, range(graph.below(graph.readers[number])), self.largest_batch) for number in readers
        )
        return {"rises": [(sign * one).tolist() for one in rises]}


class Cuts:
    """A circuit, and what it costs to cut one edge of it alone."""

    def __init__(self, fast: Fast, kept: Mask) -> None:
        self.fast, self.base, self.alive = fast, fast.rebuild(kept), fast.graph.alive(kept)

    def rises(self, number: int, writers: Sequence[int], largest_batch: int) -> Tensor:
        """Rise of the loss for each writer's edge to a reader; zero for a reader that leads nowhere."""
        fast, found = self.fast, torch.zeros(len(writers), dtype=torch.float64)
        nodes = list(fast.graph.moved_by(fast.graph.readers[number]))
        if not writers or (nodes and not self.alive[nodes].any()):
            return found
        plan = fast.plan(number)
        x = fast.inputs[number][:, -1:] if plan.last else fast.inputs[number]
        size = min(largest_batch, fast.largest_batch(plan))
        for first in range(0, len(writers), size):
            tried = list(writers[first : first + size])
            losses = fast.losses(plan, x + fast.cuts(tried, plan.last))
            found[first : first + len(tried)] = losses.double().cpu() - self.base
        return found


def single_cuts(fast: Fast, kept: Mask, tested: Mask, largest_batch: int = 64, shown: bool | None = False) -> Tensor:
    """Rise of the loss for each `tested` edge of the circuit `kept` when it alone is cut; zero elsewhere."""
    cuts, scores = Cuts(fast, kept), torch.zeros(tested.shape, dtype=torch.float64)
    with progress("edges", int(tested.sum()), shown=shown) as advance:
        for number in range(tested.shape[1]):
            writers = tested[:, number].nonzero()[0].tolist()
            scores[writers, number] = cuts.rises(number, writers, largest_batch)
            advance(len(writers))
    return scores


METHOD = Exact
