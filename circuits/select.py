"""From scores to a circuit: the most, the largest, or the best connected edges, and then only those on a path.

Scores are compared by size, for an edge that hurts is part of the mechanism too; `signed` compares them as they are.
"""

import heapq

import numpy as np
from torch import Tensor

from circuits.engine.writes import Mask
from circuits.graph import Edges
from factscope.errors import UserError


def top(graph: Edges, scores: Tensor, edges: int, signed: bool = False) -> Mask:
    """The `edges` edges of largest score; among equal ones the earlier."""
    _check_count(graph, edges)
    size = _sizes(graph, scores, signed)
    chosen = np.argsort(-size, axis=None, kind="stable")[:edges]
    kept = graph.empty()
    kept.flat[chosen] = True
    kept &= graph.allowed
    return kept


def above(graph: Edges, scores: Tensor, threshold: float, signed: bool = False) -> Mask:
    """Every edge whose score is at least `threshold`."""
    return graph.allowed & (_sizes(graph, scores, signed) >= threshold)


def greedy(graph: Edges, scores: Tensor, edges: int, signed: bool = False) -> Mask:
    """Grow from the logits: always the largest edge into what is reached already, until there are `edges`."""
    _check_count(graph, edges)
    size = _sizes(graph, scores, signed)
    size = size.reshape(len(size), -1)  # [writer, input]
    kept = graph.empty()
    chosen = kept.reshape(size.shape)
    heap: list[tuple[float, int, int, int]] = []  # of each reached input its largest edge that is not kept
    order: dict[int, np.ndarray] = {}  # of each reached input its writers, the largest first

    def offer(number: int, place: int) -> None:
        if place < len(order[number]):
            writer = int(order[number][place])
            heapq.heappush(heap, (-size[writer, number], writer, number, place))

    def reach(number: int) -> None:
        if number not in order:
            heard = np.flatnonzero(np.isfinite(size[:, number]))
            order[number] = heard[np.argsort(-size[heard, number], kind="stable")]
            offer(number, 0)

    reach(graph.end)
    for _ in range(edges):
        if not heap:
            break
        _, writer, number, place = heapq.heappop(heap)
        chosen[writer, number] = True
        offer(number, place + 1)
        for further in graph.inputs_of(writer, number):
            reach(further)
    return kept


def _sizes(graph: Edges, scores: Tensor, signed: bool) -> np.ndarray:
    values = scores.double().cpu().numpy()
    return np.where(graph.allowed, values if signed else np.abs(values), -np.inf)


def _check_count(graph: Edges, edges: int) -> None:
    if not 0 < edges <= graph.n_edges:
        raise UserError(f"{edges} edges were asked for, and {graph} has 1 to {graph.n_edges} to give")
