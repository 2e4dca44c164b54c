"""A circuit: the kept edges, what was measured on each, for what task and by which method; saved, and drawn again.

`find` is the one way to make one. The kinds of search and scorer are the files in `search/` and `scorers/`; a file
that is added there can be chosen by its name.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.certificate import Certificate
from circuits.decisions import Decision
from circuits.graph import Graph
from circuits.stability import Examples, Stability
from circuits.task import Task
from factscope.errors import UserError
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs.provenance import Run


class EmptyCircuit(UserError):
    """A threshold or a number of edges that leaves nothing, or everything."""


@shown("circuits.pages.circuit")
@dataclass(frozen=True, eq=False)
class Circuit(Result):
    """The result of a search."""

    graph: Graph
    task: Task
    method: str  # acdc, eap, eap_ig, exact, or imported
    convention: str  # what a score means, and its sign
    settings: dict[str, Any]
    kept: Bool[Tensor, "writer reader"]
    scores: Float[Tensor, "writer reader"]  # in the loss's unit; 0 where nothing was measured
    tested: Bool[Tensor, "writer reader"]  # where something was
    unit: str
    loss_full: float  # smaller is better; of the full model, the circuit, and with every edge cut
    loss_circuit: float
    loss_empty: float
    rank_full: tuple[int, ...]  # of each prompt's answer, 1 for the most probable
    rank_circuit: tuple[int, ...]
    certificate: Certificate | None
    notes: tuple[str, ...]
    run: Run | None
    examples: Examples | None = None  # each prompt's own scores, where the method has them
    stability: Stability | None = None  # over these examples, where there are several

    @property
    def mask(self) -> np.ndarray:
        """The kept edges as the graph wants them; a copy."""
        return np.array(self.kept.numpy(), dtype=bool)

    @cached_property
    def drawn(self) -> np.ndarray:
        """The kept edges on some path from the inputs to the logits: what is worth drawing. Not to be written to."""
        found = self.graph.pruned(self.mask)
        found.flags.writeable = False
        return found

    @property
    def n_edges(self) -> int:
        """Kept edges, with those that only carry a constant."""
        return int(self.kept.sum())

    @property
    def faithfulness(self) -> float:
        """How much of the way from nothing to the full model the circuit goes: 1 is all of it."""
        return faithfulness(self.loss_circuit, self.loss_full, self.loss_empty)

    def nodes(self) -> tuple[str, ...]:
        """Writers of the drawn edges, in the order of computation."""
        return tuple(self.graph.writers[place] for place in np.flatnonzero(self.drawn.any(1)))

    def decisions(self) -> tuple[Decision, ...]:
        """The decisions of an ACDC search, in its order; its scores are the increments."""
        graph, tested, kept = self.graph, self.tested.numpy(), self.mask
        return tuple(
            Decision(writer, number, float(self.scores[writer, number]), bool(kept[writer, number]))
            for number in range(len(graph.readers) - 1, -1, -1)
            for writer in range(graph.below(graph.readers[number]) - 1, -1, -1)
            if tested[writer, number]
        )


def faithfulness(loss: float, full: float, empty: float) -> float:
    """(m(C) - m(empty)) / (m(full) - m(empty)); nan where full and empty do not differ enough to divide by."""
    gap = full - empty
    return (loss - empty) / gap if abs(gap) > 1e-6 else float("nan")
