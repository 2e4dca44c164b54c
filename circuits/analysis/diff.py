"""What two circuits share: edges gained, lost and kept, next to what two random circuits of these sizes would share.

For two runs on one model (other facts, thresholds, ablations), or on a model and its edit. A difference between two
circuits is no finding by itself: ACDC near its threshold is fickle, so compare with a second run of the same thing.

A circuit is a cut through a list of effects, and an edge at the cut falls on one side or the other by nothing. So the
effects are compared too, over every edge that was measured in both, kept or not: an edge has *moved* if its effect
changed by more than `level`, and an edge that was gained or lost without moving has only crossed the threshold. What
`level` should be is a question for nulls (`studies/edit_effects/study.py`): the largest change that they made to any
edge.

Where both were found on several facts, the bootstrap of each (`circuits/stability.py`) says how much of the
difference the choice of facts alone would give: an edge's change is *settled* if nearly all resampled circuits of the
one side keep it and nearly none of the other's; the Jaccard index between the two stands beside those within each.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.analysis.faithfulness import random_circuit
from circuits.circuit import Circuit
from circuits.graph import Graph, place_of
from circuits.method import INTEGRAL
from factscope.errors import GraphError, UserError
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs.journal import differing

MOST = 400  # moves that are kept by name; the counts and sums are over all
SETTLED = 0.95  # of the resampled circuits that keep an edge on one side, and that drop it on the other
COUNTED = ("selected", "after pruning", "tested", "cut without a test", "decided by the plain engine", *INTEGRAL)


class MixedSettings(UserError):
    """Two circuits that were not found in the same way, so that their difference says nothing about the model."""


@dataclass(frozen=True)
class Move:
    """One edge's effect in both circuits, in the loss's unit, and where it is kept: before, after, both or neither."""

    edge: str
    before: float
    after: float
    kept: str

    @property
    def change(self) -> float:
        """After less before."""
        return self.after - self.before


@shown("circuits.pages.diff")
@dataclass(frozen=True, eq=False)
class CircuitDiff(Result):
    """From `before` to `after`."""

    edges_before: int
    edges_after: int
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    shared: tuple[str, ...]
    jaccard: float  # shared of all in either
    jaccard_random: float  # mean over pairs of random circuits of these sizes
    jaccard_random_high: float  # the greatest of them
    nodes_gained: tuple[str, ...]
    nodes_lost: tuple[str, ...]
    by_layer: Float[Tensor, "change layer"]  # gained, lost, shared edges by the reader's layer
    moved_scores: float  # correlation of the scores of shared edges; nan for fewer than three
    level: float = 0.0  # a change of effect above it is a move; in the loss's unit
    moved: tuple[Move, ...] = ()  # the largest first, MOST at most
    n_moved: int = 0
    n_compared: int = 0  # edges measured in both circuits
    only_crossed: tuple[str, ...] = ()  # gained or lost, but not moved
    total_change: float = float("nan")  # sum of |change| over all compared edges; nan where units differ
    total_before: float = float("nan")  # sum of |effect before| over them
    largest_change: float = float("nan")
    change_by_layer: Float[Tensor, " layer"] | None = None  # sum of |change| by the reader's layer
    change_by_writer: Float[Tensor, " writer"] | None = None  # the same by the writer
    apart: tuple[str, ...] = ()  # in what the two were found differently
    inclusion: tuple[tuple[float, float], ...] = ()  # of each gained, then each lost edge: share of resampled circuits
    settled: tuple[str, ...] = ()  # gained or lost, whichever facts are drawn
    jaccard_within: tuple[float, float] | None = None  # of two resampled circuits, before and after
    names: tuple[str, str] = ("before", "after")
    roles: tuple[dict[str, int], dict[str, int]] | None = None  # how many heads have each role, where it was asked

    @property
    def relative_change(self) -> float:
        """Sum of |change| as a share of the sum of |effect before|."""
        return self.total_change / self.total_before if self.total_before > 0 else float("nan")


def diff(before: Circuit, after: Circuit, draws: int = 20, seed: int = 0, level: float = 0.0) -> CircuitDiff:
    """Compare the kept edges and the effects; GraphError if the two graphs are not the same.

    `draws` pairs of random circuits say what chance would share; `level` is how much an edge must change to have moved.
    """
    if before.graph != after.graph:
        raise GraphError(f"the circuits are cut from different graphs: {before.graph} and {after.graph}")
    graph, one, other = before.graph, before.mask, after.mask
    parts = [other & ~one, one & ~other, one & other]
    layers = _layers(graph)
    by_layer = torch.zeros(3, graph.n_layers)
    for row, part in enumerate(parts):
        for number in np.flatnonzero(part.any(0)):
            by_layer[row, layers[number]] += int(part[:, number].sum())
    generator = np.random.default_rng(seed)
    chance = [
        jaccard(*(random_circuit(graph, int(mask.sum()), generator) for mask in (one, other))) for _ in range(draws)
    ]
    first, second = before.scores.numpy()[parts[2]], after.scores.numpy()[parts[2]]
    steady = len(first) > 2 and first.std() > 0 and second.std() > 0
    nodes_before, nodes_after = before.nodes(), after.nodes()
    comparable = (before.unit, before.convention) == (after.unit, after.convention)
    return CircuitDiff(
        edges_before=int(one.sum()),
        edges_after=int(other.sum()),
        gained=tuple(graph.names(parts[0])),
        lost=tuple(graph.names(parts[1])),
        shared=tuple(graph.names(parts[2])),
        jaccard=jaccard(one, other),
        jaccard_random=float(np.mean(chance)) if chance else float("nan"),
        jaccard_random_high=float(max(chance, default=float("nan"))),
        nodes_gained=tuple(sorted(set(nodes_after) - set(nodes_before), key=_order)),
        nodes_lost=tuple(sorted(set(nodes_before) - set(nodes_after), key=_order)),
        by_layer=by_layer,
        moved_scores=float(np.corrcoef(first, second)[0, 1]) if steady else float("nan"),
        level=level,
        apart=tuple(differences(before, after)),
        **_resampled(before, after),
        **(_moves(before, after, level) if comparable else {}),
    )


def _resampled(before: Circuit, after: Circuit) -> dict[str, Any]:
    """How often resampled circuits have the edges that changed; nothing where one of the two was found on one fact."""
    one, other = before.stability, after.stability
    if one is None or other is None:
        return {}
    graph, kept, now = before.graph, before.mask, after.mask
    changed = [*graph.names(now & ~kept), *graph.names(kept & ~now)]
    shares = tuple(
        (float(one.inclusion[graph.edge(name)]), float(other.inclusion[graph.edge(name)])) for name in changed
    )
    settled = tuple(
        name for name, pair in zip(changed, shares, strict=True) if max(pair) >= SETTLED and min(pair) <= 1 - SETTLED
    )
    return {"inclusion": shares, "settled": settled, "jaccard_within": (one.jaccard, other.jaccard)}


def changes(before: Circuit, after: Circuit) -> Float[Tensor, "writer reader"]:
    """Effect after less effect before of every edge measured in both; nan elsewhere."""
    both = before.tested & after.tested
    return torch.where(both, after.scores.double() - before.scores.double(), torch.nan)


def _moves(before: Circuit, after: Circuit, level: float) -> dict[str, Any]:
    """What the effects say, whatever was kept."""
    graph, one, other = before.graph, before.mask, after.mask
    change = changes(before, after).numpy()
    compared = ~np.isnan(change)
    size = np.where(compared, np.abs(change), 0.0)
    far = size > level
    order = np.argsort(-np.where(far, size, -1.0), axis=None, kind="stable")[: min(MOST, int(far.sum()))]
    where = {(True, True): "both", (True, False): "before", (False, True): "after", (False, False): "neither"}
    moved = []
    for writer, reader in zip(*np.unravel_index(order, size.shape), strict=True):
        kept = where[bool(one[writer, reader]), bool(other[writer, reader])]
        ends = float(before.scores[writer, reader]), float(after.scores[writer, reader])
        moved.append(Move(graph.edge_name(int(writer), int(reader)), *ends, kept))
    by_layer = np.zeros(graph.n_layers)
    np.add.at(by_layer, _layers(graph), size.sum(0))
    return {
        "moved": tuple(moved),
        "n_moved": int(far.sum()),
        "n_compared": int(compared.sum()),
        "only_crossed": tuple(graph.names((one ^ other) & compared & ~far)),
        "total_change": float(size.sum()),
        "total_before": float(np.abs(before.scores.double().numpy()[compared]).sum()),
        "largest_change": float(size.max()) if compared.any() else float("nan"),
        "change_by_layer": torch.from_numpy(by_layer).float(),
        "change_by_writer": torch.from_numpy(size.sum(1)).float(),
    }


def same_settings(before: Circuit, after: Circuit) -> None:
    """MixedSettings unless both were found by the same method, settings, prompts, metric and ablation."""
    for other in differences(before, after):
        raise MixedSettings(
            f"the circuits before and after differ in their {other}, so their difference is not the edit's: find both "
            "in the same way"
        )


def differences(before: Circuit, after: Circuit) -> list[str]:
    """In what two circuits were found differently: "method (acdc and eap)", "settings (edges: 40, not 41)"."""
    said = [
        {
            "method": each.method,
            "settings": {key: value for key, value in each.settings.items() if key not in COUNTED},
            "prompts": tuple(prompt.text for prompt in each.task.prompts),
            "tokens": tuple(prompt.tokens for prompt in each.task.prompts),
            "answers": tuple((prompt.answer_ids[:1], prompt.foil_ids[:1]) for prompt in each.task.prompts),
            "metric": each.task.metric,
            "ablation": each.task.ablation,
            "corrupt prompts": tuple(prompt.tokens for prompt in each.task.corrupt),
            "reference prompts": tuple(prompt.tokens for prompt in each.task.reference),
            "graph": str(each.graph),
        }
        for each in (before, after)
    ]
    one, other = said
    return [name + _both(one[name], other[name]) for name in one if one[name] != other[name]]


def _both(one: Any, other: Any) -> str:
    """Both values in brackets, where a person can read them; of settings those that differ."""
    if isinstance(one, str) and isinstance(other, str):
        return f" ({one} and {other})"
    if isinstance(one, dict) and isinstance(other, dict):
        return f" ({', '.join(differing(other, one))})"
    return ""


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Shared edges among those in either; 1 for two empty circuits."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


def _layers(graph: Graph) -> np.ndarray:
    return np.array([min(reader.layer, graph.n_layers - 1) for reader in graph.readers])


def _order(name: str) -> tuple[int, int]:
    layer, head = place_of(name)
    return layer, 10**6 if head is None else head
