"""Is a search right? A share of its decisions, measured again by the plain engine where each was made."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from circuits.decisions import Decision
from circuits.engine.reference import Reference, Sent
from circuits.engine.writes import Mask
from circuits.graph import Graph
from factscope.model.bridge import Bridge
from factscope.progress import progress
from factscope.runs.workers import ALONE, Workers, each


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
    reference: Reference,
    decisions: Sequence[Decision],
    threshold: float,
    share: float = 0.02,
    seed: int = 0,
    workers: Workers = ALONE,
    shown: bool | None = False,
) -> Certificate:
    """Measure a random share of the decisions again with the plain engine, each in the circuit that it was made in.

    Each is known with the circuit that it was made in, so that workers can share them, reader by reader.
    """
    graph: Graph = reference.graph
    count = min(len(decisions), max(1, round(share * len(decisions)))) if decisions else 0
    chosen = sorted(np.random.default_rng(seed).choice(len(decisions), count, replace=False).tolist()) if count else []
    pieces: dict[int, list[int]] = {}
    for place in chosen:
        pieces.setdefault(decisions[place].reader, []).append(place)
    again = _Again(reference.sent(workers), tuple(decisions))
    different: list[str] = []
    gap = 0.0
    with (
        progress("decisions measured again", count, shown=shown) as advance,
        closing(each(reference.model, again, [*pieces.values()], workers)) as found,
    ):
        for places, increments in zip(pieces.values(), found, strict=True):
            for place, increment in zip(places, increments, strict=True):
                decision = decisions[place]
                gap = max(gap, abs(increment - decision.increment))
                if (increment >= threshold) != decision.kept:
                    name = graph.edge_name(decision.writer, decision.reader)
                    different.append(f"{name} ({increment:.3g} and {decision.increment:.3g})")
            advance(len(places))
    return Certificate(count, len(decisions), tuple(different), gap)


@dataclass(frozen=True, eq=False)
class _Again:
    """What a worker does with decisions of one reader, given by their places: the rise of each, by the plain engine."""

    sent: Sent
    decisions: tuple[Decision, ...]

    def __call__(self, model: Bridge, places: Sequence[int]) -> list[float]:
        """The increments, each in the circuit as the search had it then; readers without a decision were dead."""
        reference, number = self.sent.on(model), self.decisions[places[0]].reader
        kept, found = reference.graph.full(), []
        kept[:, number + 1 :] = False
        for place, decision in enumerate(self.decisions[: places[-1] + 1]):
            if place in places:
                found.append(rise(reference, kept, decision.writer, number))
            kept[decision.writer, decision.reader] = decision.kept
        return found
