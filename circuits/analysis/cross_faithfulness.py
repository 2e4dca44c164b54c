"""Does one model's circuit serve another? A model and the same model under a change, each restricted to both circuits.

If an edit had only added a path, the edited model would still run on its old circuit plus the new edges, and the old
model would lose nothing on the new circuit. Four losses tell: {unchanged, changed} x {circuit before, circuit after},
each as faithfulness, the share of the way from that model's empty graph to that model's full one; beside them random
circuits as large. This package knows of editing only that a change can be put in and taken out again.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from circuits.analysis.diff import same_settings
from circuits.analysis.faithfulness import RandomBaseline, random_circuit
from circuits.circuit import Circuit, faithfulness
from circuits.engine.reference import Reference
from factscope.model.bridge import Bridge
from factscope.model.readout import rank


@runtime_checkable
class Change(Protocol):
    """Something that can be done to a model for the length of a `with`: an edit, a null."""

    def applied(self, model: Bridge) -> AbstractContextManager[None]:
        """The block runs on the changed model; afterwards it is as before, bit for bit."""
        ...


@dataclass(frozen=True)
class Restricted:
    """One model run on one circuit."""

    model: str  # before or after the change
    circuit: str  # found before or after it
    loss: float
    loss_full: float
    loss_empty: float
    rank: int  # of the first prompt's answer, 1 for the first
    rank_foil: int | None  # of its foil
    faithfulness: float


@dataclass(frozen=True, eq=False)
class CrossFaithfulness:
    """The four of them, and random circuits of the circuits' sizes in each model."""

    unit: str
    cells: tuple[Restricted, ...]
    random_before: RandomBaseline  # faithfulness of the unchanged model
    random_after: RandomBaseline

    def cell(self, model: str, circuit: str) -> Restricted:
        """One of the four by its names, "before" or "after" each."""
        return next(cell for cell in self.cells if (cell.model, cell.circuit) == (model, circuit))


@dataclass(frozen=True)
class Entry:
    """One edge out of an edited layer's MLP that is in either circuit."""

    edge: str
    before: float  # effects, in the loss's unit
    after: float
    kept: str  # before, after or both


def cross_faithfulness(
    model: Bridge, change: Change, before: Circuit, after: Circuit, n_random: int = 3, seed: int = 0
) -> CrossFaithfulness:
    """Run both models on both circuits; MixedSettings unless the circuits were found in the same way."""
    same_settings(before, after)
    cells, spreads = [], []
    for name in ("before", "after"):
        if name == "before":
            found, spread = _restricted(model, name, before, after, n_random, seed)
        else:
            with change.applied(model):
                found, spread = _restricted(model, name, before, after, n_random, seed)
        cells += found
        spreads.append(spread)
    return CrossFaithfulness(before.unit, tuple(cells), spreads[0], spreads[1])


def _restricted(
    model: Bridge, name: str, before: Circuit, after: Circuit, n_random: int, seed: int
) -> tuple[list[Restricted], RandomBaseline]:
    graph, task = before.graph, before.task
    reference = Reference(model, graph, task)
    full, empty = reference.loss(graph.full()), reference.loss(graph.empty())
    foils = task.prompts[0].foil_ids
    cells = []
    for which, circuit in (("before", before), ("after", after)):
        logits = reference.logits(circuit.mask)
        loss = float(reference.objective.losses(logits[None])[0])
        answer = reference.objective.ranks(logits)[0]
        foil = int(rank(logits[0], foils[0])) if foils else None
        cells.append(Restricted(name, which, loss, full, empty, answer, foil, faithfulness(loss, full, empty)))
    generator = np.random.default_rng(seed)
    size = (before.n_edges + after.n_edges) // 2
    drawn = [reference.loss(random_circuit(graph, size, generator)) for _ in range(n_random)]
    return cells, RandomBaseline.of([faithfulness(loss, full, empty) for loss in drawn])


def entries(before: Circuit, after: Circuit, layers: tuple[int, ...]) -> tuple[Entry, ...]:
    """Where the outputs of these layers' MLPs enter the circuits: every kept edge out of them, largest change first.

    What stands beside an MLP counts with it.
    """
    graph, one, other = before.graph, before.mask, after.mask
    found = []
    beside = [graph.beside_writer(layer) for layer in layers if layer in graph.beside]
    for writer in (*(writer for layer in layers for writer in graph.mlp_writers(layer)), *beside):
        for reader in np.flatnonzero(one[writer] | other[writer]):
            kept = (
                "both"
                if one[writer, reader] and other[writer, reader]
                else "before"
                if one[writer, reader]
                else "after"
            )
            ends = float(before.scores[writer, reader]), float(after.scores[writer, reader])
            found.append(Entry(graph.edge_name(writer, int(reader)), *ends, kept))
    return tuple(sorted(found, key=lambda entry: -abs(entry.after - entry.before)))
