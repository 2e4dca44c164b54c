"""ACDC (Conmy et al. 2023): walk the edges from the logits down and cut each one that the loss can spare.

For every reader, from the last to the first, and for every writer that it hears, the nearest first: cut the edge; if
the loss rises by less than the threshold over the circuit so far, leave it cut. The rise is signed, so a cut that helps
is always made. Readers whose node no longer reaches the logits lose their edges without a test. The order is part of
the result: another order gives another circuit.

Two engines behind one function. `reference` runs the whole model once for each edge. `fast` gives the same decisions:
it computes only what changed (`circuits/fast.py`) and tries nested cuts together. Of a batch "e1", "e1 e2", "e1 e2 e3",
each rise over the row before is exactly what the plain search would have measured, up to the first edge that must be
kept, which is decided too. The rows after it stand on a cut that was not made, and are thrown away; but their rises,
and what the last readers kept, say which edges to expect to be kept, and the rows after such an edge leave its cut out.
A batch is exact up to and with the first edge that is not decided as expected. (Thresholding the total of a block, or
trying edges one by one from the same circuit, would be something else than ACDC.) Rounding depends on the shape of a
batch, so a rise within the guard of the threshold is measured by the plain engine instead; the guard is at least ten
times the largest difference between the engines at the beginning of any layer so far.

All that the fast engine carries along begins anew with each layer, from the circuit alone. A search that was stopped
therefore goes back to the beginning of its layer, and then gives the same numbers to the last bit.

Use it for a threshold in the loss's unit; use EAP for a first look or for models where even this takes too long.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from circuits.engine import Mask, Reference
from circuits.fast import Fast, Plan
from circuits.graph import Graph
from circuits.task import Task
from workbench.errors import StoreError, UserError
from workbench.journal import Journal
from workbench.progress import progress

LARGEST = 64  # variants in one batch; the fast engine takes fewer where more would not pay
RECENT = 4  # readers that are asked which writers to expect; of more, fewer agree
GUARD = {torch.float64: 1e-6, torch.float32: 5e-4}  # on SmolLM2 rises near the threshold differ by up to 1.3e-4


@dataclass(frozen=True)
class Config:
    """How to search."""

    threshold: float = 0.1  # in the loss's unit; Knowledge Circuits' 0.01 is this, divided by some ten positions
    engine: str = "fast"  # or "reference"
    largest_batch: int = LARGEST

    def __post_init__(self) -> None:
        if self.engine not in ("fast", "reference"):
            raise UserError(f"there is no engine {self.engine!r}; choose fast or reference")
        if not np.isfinite(self.threshold):
            raise UserError(f"the threshold is {self.threshold}; give a number in the metric's unit, as 0.01")


@dataclass(frozen=True)
class Decision:
    """One tested edge: what cutting it cost over the circuit so far, and whether it was kept."""

    writer: int
    reader: int
    increment: float  # of the loss, signed
    kept: bool
    tie: bool = False  # within the guard, so the plain engine decided


@dataclass(frozen=True, eq=False)
class Found:
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
    config: Config | None = None,
    journal: Journal | None = None,
    earlier: Sequence[Decision] = (),
    shown: bool | None = False,
    fast: Fast | None = None,
) -> Found:
    """Search the circuit of the reference's task.

    `journal` takes up what it holds and records each batch of decisions. `earlier` are the decisions of a search with
    another threshold: those that this one would have made alike, up to the first difference, are taken over.

    Raises StoreError for a journal whose decisions are not this search's.
    """
    config = config or Config()
    graph = reference.graph
    known = recorded(journal) if journal is not None else []
    taken = known or list(shared_prefix(earlier, config.threshold, guard(reference, fast)))
    if config.engine == "fast":
        taken = whole_layers(graph, taken)
    engine: Engine = _Quick(reference, config, fast) if config.engine == "fast" else _Plain(reference, config)
    kept = graph.full()
    decisions: list[Decision] = []
    n_dead = 0
    layer = None
    if journal is not None and taken and not known:
        journal.add({"place": 0, "decisions": [vars(each) for each in taken]})
    with progress("edges", graph.n_edges, shown=shown) as advance:
        for number in range(len(graph.readers) - 1, -1, -1):
            writers = list(range(graph.below(graph.readers[number]) - 1, -1, -1))
            if is_dead(graph, kept, number):
                kept[:, number] = False
                n_dead += len(writers)
                advance(len(writers))
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
            advance(done)
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
    return Found(kept, tuple(decisions), n_dead, evaluated, reference.loss(kept))


def layer_of(graph: Graph, number: int) -> int:
    """The layer that a reader is searched with; the logits go with the last."""
    return min(graph.readers[number].layer, graph.n_layers - 1)


def is_dead(graph: Graph, kept: Mask, number: int) -> bool:
    """Whether nothing that a reader feeds still reaches the logits."""
    nodes = list(graph.nodes_of(graph.readers[number]))
    return bool(nodes) and not graph.alive(kept)[nodes].any()


def recorded(journal: Journal) -> list[Decision]:
    """The decisions in a journal.

    Each line says where its decisions stand among all; those of a layer that was begun anew replace the first ones.
    """
    found: list[Decision] = []
    for line in journal.done:
        found[line["place"] :] = [Decision(**each) for each in line["decisions"]]
    return found


def whole_layers(graph: Graph, decisions: list[Decision]) -> list[Decision]:
    """The decisions without those of a last layer that was not finished."""
    kept, place, whole, layer = graph.full(), 0, 0, None
    for number in range(len(graph.readers) - 1, -1, -1):
        if layer != layer_of(graph, number):
            layer, whole = layer_of(graph, number), place
        if is_dead(graph, kept, number):
            kept[:, number] = False
            continue
        end = place + graph.below(graph.readers[number])
        if end > len(decisions):
            return decisions[:whole]
        for decision in decisions[place:end]:
            kept[decision.writer, number] = decision.kept
        place = end
    return decisions


def shared_prefix(decisions: Sequence[Decision], threshold: float, margin: float) -> Iterator[Decision]:
    """The decisions that a search with `threshold` makes alike; stops before one too near to tell."""
    for decision in decisions:
        if (decision.increment >= threshold) != decision.kept or abs(decision.increment - threshold) < margin:
            return
        yield decision


def guard(reference: Reference, fast: Fast | None = None) -> float:
    """Rises nearer to the threshold than this are measured by the plain engine."""
    least = GUARD.get(reference.replacement.dtype, 1e-2)
    return max(least, 20 * fast.difference) if fast is not None else least


class _Plain:
    """One full forward pass for each edge."""

    def __init__(self, reference: Reference, config: Config) -> None:
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

    def __init__(self, reference: Reference, config: Config, fast: Fast | None) -> None:
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
            for place, decision in enumerate(batch):
                if not decision.kept:
                    x, self.current = rows[place], losses[place]
            rest = rest[len(batch) :]
            stays -= set(tried)
            stays |= {w for w, r in zip(tried, rises, strict=True) if r >= self.config.threshold}
            if len(batch) == len(tried):
                self.batch = min(2 * len(tried), good) if len(tried) >= self.batch else self.batch
            elif 2 * len(batch) < len(tried):
                self.batch = max(4, len(tried) // 2)
            yield batch
        fast.losses(plan, x[None], commit=True)

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


def rise(reference: Reference, kept: Mask, writer: int, reader: int) -> float:
    """What cutting one edge of `kept` costs, by the plain engine."""
    with_edge, without = kept.copy(), kept.copy()
    with_edge[writer, reader], without[writer, reader] = True, False
    return reference.loss(without) - reference.loss(with_edge)


@dataclass(frozen=True)
class Certificate:
    """How the decisions compare with the plain engine's."""

    n_checked: int
    n_decisions: int
    differences: tuple[str, ...]  # edges decided otherwise, in words
    largest_gap: float  # between the two engines' increments

    def __str__(self) -> str:
        verdict = "none differs" if not self.differences else f"{len(self.differences)} differ: {self.differences}"
        return (
            f"{self.n_checked} of {self.n_decisions} decisions measured again by the plain engine, {verdict}; "
            f"increments agree to {self.largest_gap:.1e}"
        )


def certify(
    reference: Reference, decisions: Sequence[Decision], threshold: float, share: float = 0.02, seed: int = 0
) -> Certificate:
    """Measure a random share of the decisions again with the plain engine, each in the circuit that it was made in."""
    graph: Graph = reference.graph
    count = min(len(decisions), max(1, round(share * len(decisions)))) if decisions else 0
    chosen = set(np.random.default_rng(seed).choice(len(decisions), count, replace=False).tolist()) if count else set()
    kept = graph.full()
    different: list[str] = []
    gap = 0.0
    by_reader: dict[int, list[tuple[int, Decision]]] = {}
    for place, decision in enumerate(decisions):
        by_reader.setdefault(decision.reader, []).append((place, decision))
    for number in range(len(graph.readers) - 1, -1, -1):
        if number not in by_reader:
            kept[:, number] = False  # a dead reader
        for place, decision in by_reader.get(number, ()):
            if place in chosen:
                increment = rise(reference, kept, decision.writer, number)
                gap = max(gap, abs(increment - decision.increment))
                if (increment >= threshold) != decision.kept:
                    name = graph.edge_name(decision.writer, number)
                    different.append(f"{name} ({increment:.3g} and {decision.increment:.3g})")
            kept[decision.writer, number] = decision.kept
    return Certificate(count, len(decisions), tuple(different), gap)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What keeps one search (see `work`) from taking over another's decisions, in words; a threshold does not.

    The corrupt and the reference prompts count only under the ablations that read them.
    """
    unread = {"threshold"}
    if not str(now["ablation"]).startswith("mean"):
        unread.add("reference")
    if now["ablation"] != "counterfactual":
        unread.add("corrupt")
    named = {"corrupt": "corrupt prompts", "reference": "reference prompts", "answers": "answers or foils"}
    return [named.get(key, key) for key in now if key not in unread and before[key] != now[key]]


def work(task: Task, graph: Graph, config: Config, fingerprint: str) -> dict[str, Any]:
    """What a journal belongs to: anything that could change a decision."""
    return {
        "search": "acdc",
        "model": fingerprint,
        "graph": graph.described(),
        "prompts": [list(p.tokens) for p in task.prompts],
        "answers": [[p.answer_ids[0], p.foil_ids[0] if p.foil_ids else None] for p in task.prompts],
        "corrupt": [list(p.tokens) for p in task.corrupt],
        "reference": [list(p.tokens) for p in task.reference],
        "metric": task.metric,
        "ablation": task.ablation,
        "threshold": config.threshold,
    }
