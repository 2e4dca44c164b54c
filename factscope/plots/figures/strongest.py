"""Which arrows of a large network are drawn first: those of the strongest paths, whole path by whole path.

A path is as strong as its weakest arrow. Every arrow lies on one strongest path from an input (nothing leads to it) to
an output (it leads to nothing); arrows are taken in the order of the strength of that path, and with each the rest of
its path. So whatever number is drawn, everything drawn leads from an input to an output, and more is only ever added.
The widest path of a graph without circles: one walk upward and one downward (Pollack 1960, "The maximum capacity
through a network").
"""

from collections.abc import Sequence

import numpy as np


def strongest(
    sources: Sequence[int], targets: Sequence[int], sizes: Sequence[float], most: Sequence[int]
) -> list[tuple[int, ...]]:
    """For each number of `most`, ascending, the places of at most so many arrows that are drawn; each holds the last.

    Args:
        sources, targets: nodes, numbered so that every arrow goes from a smaller number to a larger one.
        sizes: how large each arrow's effect is, at least 0.
        most: how many arrows may be drawn.

    A path longer than the smallest number is not drawn there; an empty tuple then says so.
    """
    groups = by_path(sources, targets, sizes)
    found: list[tuple[int, ...]] = []
    taken: list[int] = []
    at = 0
    for number in most:
        while at < len(groups) and len(taken) + len(groups[at]) <= number:
            taken += groups[at]
            at += 1
        found.append(tuple(sorted(taken)))
    return found


def by_path(sources: Sequence[int], targets: Sequence[int], sizes: Sequence[float]) -> list[list[int]]:
    """All arrows in groups, the strongest path first; a group is what its path adds to those before it."""
    strength, before, after = path_strengths(sources, targets, sizes)
    order = sorted(range(len(sizes)), key=lambda edge: (-strength[edge], -sizes[edge], edge))
    seen: set[int] = set()
    groups = []
    for edge in order:
        group = [] if edge in seen else _path(edge, sources, targets, before, after, seen)
        seen.update(group)
        if group:
            groups.append(group)
    return groups


def path_strengths(
    sources: Sequence[int], targets: Sequence[int], sizes: Sequence[float]
) -> tuple[np.ndarray, dict[int, int], dict[int, int]]:
    """The strength of the strongest path through each arrow; and, by node, its arrow before and its arrow after."""
    n_nodes = max([*sources, *targets], default=-1) + 1
    order = sorted(range(len(sizes)), key=lambda edge: (targets[edge], edge))
    up, before = _walk(order, sources, targets, sizes, n_nodes)
    order = sorted(range(len(sizes)), key=lambda edge: (-sources[edge], edge))
    down, after = _walk(order, targets, sources, sizes, n_nodes)
    each = [min(up[sources[edge]], sizes[edge], down[targets[edge]]) for edge in range(len(sizes))]
    return np.array(each, dtype=float), before, after


def _walk(
    order: Sequence[int], tails: Sequence[int], tips: Sequence[int], sizes: Sequence[float], n_nodes: int
) -> tuple[list[float], dict[int, int]]:
    """The strength of the strongest path to each node from where the walk begins, and its last arrow."""
    reached: list[float] = [-1.0] * n_nodes
    last: dict[int, int] = {}
    heads = {tips[edge] for edge in order}
    for node in range(n_nodes):
        if node not in heads:
            reached[node] = float("inf")
    for edge in order:
        through = min(reached[tails[edge]], sizes[edge])
        if through > reached[tips[edge]]:
            reached[tips[edge]], last[tips[edge]] = through, edge
    return reached, last


def _path(
    edge: int,
    sources: Sequence[int],
    targets: Sequence[int],
    before: dict[int, int],
    after: dict[int, int],
    seen: set[int],
) -> list[int]:
    """What the strongest path through an arrow adds to the arrows that were seen."""
    found = [edge]
    for steps, ends in ((before, sources), (after, targets)):
        node = ends[edge]
        while node in steps:
            found.append(steps[node])
            node = ends[steps[node]]
    return [each for each in found if each not in seen]
