"""What two circuits share: edges gained, lost and kept, next to what two random circuits of these sizes would share.

For two runs on one model (other facts, thresholds, ablations), or on a model and its edit. A difference between two
circuits is no finding by itself: ACDC near its threshold is fickle, so compare with a second run of the same thing.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.faithful import random_circuit
from circuits.graph import GraphError, place_of


@dataclass(frozen=True, eq=False)
class CircuitDiff:
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


def diff(before: Circuit, after: Circuit, draws: int = 20, seed: int = 0) -> CircuitDiff:
    """Compare the kept edges; GraphError if the two graphs are not the same."""
    if before.graph != after.graph:
        raise GraphError(f"the circuits are cut from different graphs: {before.graph} and {after.graph}")
    graph, one, other = before.graph, before.mask, after.mask
    parts = [other & ~one, one & ~other, one & other]
    layers = np.array([min(reader.layer, graph.n_layers - 1) for reader in graph.readers])
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
    return CircuitDiff(
        edges_before=int(one.sum()),
        edges_after=int(other.sum()),
        gained=tuple(graph.names(parts[0])),
        lost=tuple(graph.names(parts[1])),
        shared=tuple(graph.names(parts[2])),
        jaccard=jaccard(one, other),
        jaccard_random=float(np.mean(chance)),
        jaccard_random_high=float(max(chance)),
        nodes_gained=tuple(sorted(set(nodes_after) - set(nodes_before), key=_order)),
        nodes_lost=tuple(sorted(set(nodes_before) - set(nodes_after), key=_order)),
        by_layer=by_layer,
        moved_scores=float(np.corrcoef(first, second)[0, 1]) if steady else float("nan"),
    )


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Shared edges among those in either; 1 for two empty circuits."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


def _order(name: str) -> tuple[int, int]:
    layer, head = place_of(name)
    return layer, 10**6 if head is None else head
