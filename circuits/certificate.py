"""Is a search right? A share of its decisions, measured again by the plain engine where each was made."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from circuits.decisions import Decision
from circuits.engine.reference import Reference
from circuits.engine.writes import Mask
from circuits.graph import Graph


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
