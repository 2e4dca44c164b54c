"""ACDC (Conmy et al. 2023): walk the edges from the logits down and cut each one that the loss can spare.

For every reader, from the last to the first, and for every writer that it hears, the nearest first: cut the edge; if
the loss rises by less than the threshold over the circuit so far, leave it cut. The rise is signed, so a cut that helps
is always made. Readers whose node no longer reaches the logits lose their edges without a test. The order is part of
the result: another order gives another circuit.

Two engines behind one function. `reference` runs the whole model once for each edge. `fast` gives the same decisions:
it computes only what changed (`circuits/engine/incremental.py`) and tries nested cuts together. Of a batch "e1", "e1
e2", "e1 e2 e3", each rise over the row before is exactly what the plain search would have measured, up to the first
edge that must be kept, which is decided too. The rows after it stand on a cut that was not made, and are thrown away;
but their rises, and what the last readers kept, say which edges to expect to be kept, and the rows after such an edge
leave its cut out. A batch is exact up to and with the first edge that is not decided as expected. (Thresholding the
total of a block, or trying edges one by one from the same circuit, would be something else than ACDC.) Rounding depends
on the shape of a batch, so a rise within the guard of the threshold is measured by the plain engine instead; the guard
is at least ten times the largest difference between the engines at the beginning of any layer so far.

All that the fast engine carries along begins anew with each layer, from the circuit alone. A search that was stopped
therefore goes back to the beginning of its layer, and then gives the same numbers to the last bit
(`circuits/decisions.py` says what is taken over).

Use it for a threshold in the loss's unit; use EAP for a first look or for models where even this takes too long.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, get_args

import numpy as np
import torch

from circuits.certificate import certify as certified
from circuits.certificate import rise
from circuits.decisions import Decision, is_dead, journal_key, layer_of, recorded, shared_prefix, whole_layers
from circuits.engine.incremental import Fast
from circuits.engine.plan import Plan
from circuits.engine.reference import Reference
from circuits.engine.writes import Mask
from circuits.graph import Graph
from circuits.method import EdgeChoice
from factscope.errors import StoreError, UserError
from factscope.model.weights import fingerprint
from factscope.progress import progress
from factscope.runs.journal import Journal
from factscope.runs.workers import ALONE, Workers

LARGEST = 64  # variants in one batch; the fast engine takes fewer where more would not pay
RECENT = 4  # readers that are asked which writers to expect; of more, fewer agree
GUARD = {torch.float64: 1e-6, torch.float32: 5e-4}  # on SmolLM2 rises near the threshold differ by up to 1.3e-4
Engines = Literal["fast", "reference"]


@dataclass(frozen=True)
class ACDC:
    """How to search."""

    name: ClassVar[str] = "acdc"
    convention: ClassVar[str] = (
        "measured rise of the loss when the edge was cut from the circuit so far; positive: the edge helps"
    )
    prefers: ClassVar[str] = "zero"
    shared: ClassVar[bool] = True

    threshold: float = 0.1  # in the loss's unit; Knowledge Circuits' 0.01 is this, divided by some ten positions
    engine: Engines = "fast"
    largest_batch: int = LARGEST
    certify: float = 0.0  # share of the decisions that the plain engine measures again
    earlier: tuple[Decision, ...] = field(default=(), repr=False)  # of a search with another threshold

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engines):
            raise UserError(f"there is no engine {self.engine!r}; choose {' or '.join(get_args(Engines))}")
        if not (np.isfinite(self.threshold) and self.threshold >= 0):
            raise UserError(f"the threshold is {self.threshold}; give one of at least 0 in the metric's unit, as 0.01")
        if not 0 <= self.certify <= 1:
            raise UserError(f"certify is a share from 0 to 1, not {self.certify}")

    def choose(
        self,
        reference: Reference,
        *,
        journal: Path | None = None,
        seed: int = 0,
        shown: bool | None = False,
        workers: Workers = ALONE,
    ) -> EdgeChoice:
        """Search, and measure a share of the decisions again, drawn by `seed`; workers can share the latter alone."""
        with contextlib.ExitStack() as stack:
            record = None
            if journal is not None:
                key = journal_key(reference.task, reference.graph, self.threshold, fingerprint(reference.model))
                record = stack.enter_context(Journal(journal, key))
            found = acdc(reference, self, record, shown)
        scores = torch.zeros(found.kept.shape, dtype=torch.float64)
        tested = torch.zeros(found.kept.shape, dtype=torch.bool)
        for decision in found.decisions:
            scores[decision.writer, decision.reader] = decision.increment
            tested[decision.writer, decision.reader] = True
        settings = {
            "threshold": self.threshold,
            "engine": self.engine,
            "tested": len(found.decisions),
            "cut without a test": found.n_dead,
            "decided by the plain engine": sum(decision.tie for decision in found.decisions),
            "order": "readers from the logits down, writers from the nearest down",
            "selection": "search",
        }
        share = self.certify
        certificate = None
        if share:
            certificate = certified(reference, found.decisions, self.threshold, share, seed, workers, shown)
        return EdgeChoice(found.kept, scores, tested, settings, certificate)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The kept edges and how they were decided."""

    kept: Mask
    decisions: tuple[Decision, ...]
    n_dead: int  # edges cut without a test, because their reader reaches nothing
    n_evaluated: int  # losses computed, thrown away ones included
    loss: float  # of the circuit, by the plain engine


class Engine(Protocol):
    """Decides the edges of one reader after another."""

    def enter(self, layer: int, kept: Mask) -> None:
        """Begin with the readers of a layer; called for every layer, also where all is decided already."""

    def decide(self, number: int, writers: Sequence[int], kept: Mask) -> Iterator[list[Decision]]:
        """Decide the edges from `writers` to reader `number`, in this order, cutting in `kept`."""


def acdc(
    reference: Reference,
    config: ACDC | None = None,
    journal: Journal | None = None,
    shown: bool | None = False,
    fast: Fast | None = None,
) -> SearchResult:
    """Search the circuit of the reference's task.

    `journal` gives back the decisions that it holds and records each new batch. Of the config's `earlier` decisions,
    those that this search would have made alike, up to the first difference, are taken over.

    Raises StoreError for a journal whose decisions are not this search's.
    """
    config = config or ACDC()
    graph = reference.graph
    known = recorded(journal) if journal is not None else []
    taken = known or list(shared_prefix(config.earlier, config.threshold, guard(reference, fast)))
    if config.engine == "fast":
        taken = whole_layers(graph, taken)
    engine: Engine = _Quick(reference, config, fast) if config.engine == "fast" else _Plain(reference, config)
    kept = graph.full()
    decisions: list[Decision] = []
    n_dead = 0
    layer = None
    if journal is not None and taken and not known:
        journal.add({"place": 0, "decisions": [vars(each) for each in taken]})
    with progress("edges", graph.n_edges, shown=shown, costs=costs(graph)) as advance:
        for number in range(len(graph.readers) - 1, -1, -1):
            writers = list(range(graph.below(graph.readers[number]) - 1, -1, -1))
            if is_dead(graph, kept, number):
                kept[:, number] = False
                n_dead += len(writers)
                advance(len(writers), free=True)
                continue
            if layer != layer_of(graph, number):
                layer = layer_of(graph, number)
                engine.enter(layer, kept)
            before = len(decisions)
            while len(decisions) < len(taken) and taken[len(decisions)].reader == number:
                decision = taken[len(decisions)]
                if decision.writer != writers[len(decisions) - before]:
                    raise StoreError("the journal's decisions are not in this search's order: begin anew with --out")
                kept[decision.writer, number] = decision.kept
                decisions.append(decision)
            done = len(decisions) - before
            advance(done, free=True)
            if done == len(writers):
                continue
            if len(decisions) < len(taken):
                raise StoreError("the journal's decisions are not in this search's order: begin anew with --out")
            for batch in engine.decide(number, writers[done:], kept):
                if journal is not None:
                    journal.add({"place": len(decisions), "decisions": [vars(each) for each in batch]})
                decisions += batch
                advance(len(batch))
    evaluated = getattr(engine, "n_evaluated", len(decisions))
    return SearchResult(kept, tuple(decisions), n_dead, evaluated, reference.loss(kept))


def costs(graph: Graph) -> list[float]:
    """What each edge's decision costs beside the others, in the order of the search: the layers above its reader.

    The search goes downward, and from the reader's layer on everything is computed again, and the readout. Edges that
    are dead, or were decided before, are free.
    """
    return [
        1.0 + graph.n_layers - layer_of(graph, number)
        for number in range(len(graph.readers) - 1, -1, -1)
        for _ in range(graph.below(graph.readers[number]))
    ]


def guard(reference: Reference, fast: Fast | None = None) -> float:
    """Rises nearer to the threshold than this are measured by the plain engine."""
    least = GUARD.get(reference.replacement.dtype, 1e-2)
    return max(least, 20 * fast.difference) if fast is not None else least


class _Plain:
    """One full forward pass for each edge."""

    def __init__(self, reference: Reference, config: ACDC) -> None:
        self.reference, self.threshold = reference, config.threshold
        self.current: float | None = None

    def enter(self, layer: int, kept: Mask) -> None:
        """Nothing is carried along but the circuit."""

    def decide(self, number: int, writers: Sequence[int], kept: Mask) -> Iterator[list[Decision]]:
        if self.current is None:
            self.current = self.reference.loss(kept)
        for writer in writers:
            kept[writer, number] = False
            loss = self.reference.loss(kept)
            increment = loss - self.current
            kept[writer, number] = increment >= self.threshold
            if not kept[writer, number]:
                self.current = loss
            yield [Decision(writer, number, increment, bool(kept[writer, number]))]


class _Quick:
    """Nested batches over what changed."""

    def __init__(self, reference: Reference, config: ACDC, fast: Fast | None) -> None:
        self.reference, self.config = reference, config
        self.fast = Fast(reference) if fast is None else fast
        self.guard = guard(reference, self.fast)
        self.current = 0.0
        self.batch = 8
        self.n_evaluated = 0
        self.fast.rebuild(reference.graph.full())  # an engine that is lent holds the end of another search

    def enter(self, layer: int, kept: Mask) -> None:
        self.current = self.fast.rebuild(kept, layer)  # what is below is clean, and stays
        self.guard = max(self.guard, 10 * abs(self.current - self.reference.loss(kept)))
        self.batch = 8

    def decide(self, number: int, writers: Sequence[int], kept: Mask) -> Iterator[list[Decision]]:
        fast = self.fast
        fast.kept = kept
        plan = fast.plan(number)
        x = fast.inputs[number][:, -1:] if plan.last else fast.inputs[number]
        x = x.clone()
        rest = list(writers)
        stays = self._expected(number, writers, kept)
        good = min(fast.good_batch(plan), self.config.largest_batch)
        cut, at = False, None  # whether an edge was, and where the circuit so far is among the last variants
        while rest:
            tried = rest[: min(good, self.batch)]
            self.n_evaluated += len(tried)
            expected = [writer in stays for writer in tried]
            cuts = fast.cuts(tried, plan.last)
            walked = x + (cuts * torch.tensor(expected).logical_not().to(cuts)[:, None, None, None]).cumsum(0)
            rows = walked + cuts * torch.tensor(expected).to(cuts)[:, None, None, None]
            losses = fast.losses(plan, rows).tolist()
            rises, base = [], self.current
            for loss, kept_one in zip(losses, expected, strict=True):
                rises.append(loss - base)
                base = base if kept_one else loss
            batch = self._scan(plan, tried, rises, expected, kept)
            at = max((place for place, decision in enumerate(batch) if not decision.kept), default=None)
            if at is not None:
                cut, x, self.current = True, rows[at], losses[at]
            rest = rest[len(batch) :]
            stays -= set(tried)
            stays |= {w for w, r in zip(tried, rises, strict=True) if r >= self.config.threshold}
            if len(batch) == len(tried):
                self.batch = min(2 * len(tried), good) if len(tried) >= self.batch else self.batch
            elif 2 * len(batch) < len(tried):
                self.batch = max(4, len(tried) // 2)
            yield batch
        if cut and at is None:  # all of the last batch was kept
            fast.losses(plan, x[None])
        if cut:
            fast.commit(at or 0)

    def _expected(self, number: int, writers: Sequence[int], kept: Mask) -> set[int]:
        """The writers that most of the last readers kept, of those that kept any."""
        recent = [later for later in range(number + 1, kept.shape[1]) if kept[:, later].any()][:RECENT]
        votes = kept[:, recent].sum(1)
        return {writer for writer in writers if 2 * votes[writer] > RECENT}

    def _scan(
        self, plan: Plan, tried: list[int], rises: list[float], expected: list[bool], kept: Mask
    ) -> list[Decision]:
        """Decide one edge after another, up to the first that is not decided as expected: later rows stand on it."""
        batch: list[Decision] = []
        for writer, increment, expectation in zip(tried, rises, expected, strict=True):
            tie = abs(increment - self.config.threshold) < self.guard or not np.isfinite(increment)
            if tie:
                increment = rise(self.reference, kept, writer, plan.reader)
            stays = increment >= self.config.threshold
            kept[writer, plan.reader] = stays
            batch.append(Decision(writer, plan.reader, increment, stays, tie))
            if stays != expectation:
                break
        return batch


METHOD = ACDC
