"""Where the nodes of a layered network stand and how its lines run, in pixels: computed, so that no two names overlap.

Rows go upward, in the order of computation. Within a row nodes are ordered by the weighted mean place of what they are
joined to (Sugiyama, Tagawa and Toda 1981, "Methods for visual understanding of hierarchical system structures"), and
set as close to it as their widths allow (pool adjacent violators: least squares under an order). A row that is too wide
is broken into several lines. Of all orders that the sweeps try, the one with the fewest crossings is kept.

A line is straight where nothing is in its way. Where it would run under another node, it goes through the nearest gap
of that node's row, straight up, in a lane of its own: short lines inside, long ones around them. No line ever touches
a name that is not its own. The same network gives the same picture, to the last digit.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

HIGH = 22.0  # of a node
ROOM = 22.0  # between rows
GAP = 16.0  # between nodes of a row, at least
WIDEST = 1060.0  # of a row of nodes; a wider one is broken
MARGIN = 14.0  # on either side
SWEEPS = 12
CLEAR = 6.0  # between a line and a node that it passes
LANE = 5.0  # between lines that pass a node on one side


@dataclass(frozen=True)
class Box:
    """A node's place: its centre and its width."""

    x: float
    y: float
    width: float

    @property
    def left(self) -> float:
        """Its left side."""
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        """Its right side."""
        return self.x + self.width / 2


Point = tuple[float, float]
Line = tuple[Point, ...]  # points, from the source's upper side to the target's lower one


@dataclass(frozen=True)
class Layout:
    """Places of all nodes and lines; y grows downward, as on a screen."""

    left: float  # the smallest x of all, a margin included
    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    rows: tuple[tuple[float, float], ...]  # (the row's number, the y of its first line)

    def with_lines(self, links: Sequence[tuple[int, int]]) -> "Layout":
        """The same nodes with the lines of these links."""
        return replace(self, lines=_lines(self.boxes, links))


def layered(
    rows: Sequence[float], widths: Sequence[float], links: Sequence[tuple[int, int]], weights: Sequence[float]
) -> Layout:
    """Place nodes by row (larger is higher) and draw a line for each link, from a lower row to a higher one.

    Args:
        rows: one number for each node.
        widths: of each node, in pixels.
        links: source and target by their places in `rows`.
        weights: of each link; heavy ones pull harder.

    Raises ValueError for a link that does not go up.
    """
    for source, target in links:
        if not rows[source] < rows[target]:
            raise ValueError(f"a line must go up, but one goes from row {rows[source]} to row {rows[target]}")
    order = {row: [node for node, own in enumerate(rows) if own == row] for row in sorted(set(rows))}
    x, order = _ordered(order, np.asarray(widths, dtype=float), links, np.asarray(weights, dtype=float))
    y, tops, height = _heights(order, widths)
    boxes = tuple(Box(round(float(x[n]), 1), y[n], float(widths[n])) for n in range(len(rows)))
    boxes = _widened(boxes, links)
    lines = _lines(boxes, links)
    at = [side for box in boxes for side in (box.left, box.right)] + [point[0] for line in lines for point in line]
    low, high = (min(at), max(at)) if at else (0.0, 0.0)
    return Layout(low - MARGIN, high - low + 2 * MARGIN, height, boxes, lines, tuple(tops.items()))


def _ordered(
    order: dict[float, list[int]], widths: np.ndarray, links: Sequence[tuple[int, int]], weights: np.ndarray
) -> tuple[np.ndarray, dict[float, list[int]]]:
    """The best order of each row that the sweeps find, and the x of each node in it."""
    x = np.zeros(len(widths))
    for nodes in order.values():
        _set_row(nodes, x, widths, np.zeros(len(widths)))
    ends = np.array(links, dtype=int).reshape(-1, 2)
    rank = np.zeros(len(widths))
    for number, nodes in enumerate(order.values()):
        rank[nodes] = number
    best = (_crossings(x, rank, ends), x.copy(), {row: list(nodes) for row, nodes in order.items()})
    for sweep in range(SWEEPS):
        below, above = (sweep % 3 != 1), (sweep % 3 != 0)  # what is below, what is above, both
        for row in sorted(order, reverse=sweep % 3 == 1):
            wanted = _barycentres(x, ends, weights, below, above)
            order[row] = sorted(order[row], key=lambda node: (wanted[node], node))
            _set_row(order[row], x, widths, wanted)
        crossed = _crossings(x, rank, ends)
        if crossed < best[0]:
            best = (crossed, x.copy(), {row: list(nodes) for row, nodes in order.items()})
    _, x, order = best
    return x, order


def _barycentres(x: np.ndarray, ends: np.ndarray, weights: np.ndarray, below: bool, above: bool) -> np.ndarray:
    """The weighted mean x of each node's neighbours below, above or both; its own where it has none."""
    total, mass = np.zeros_like(x), np.zeros_like(x)
    for wanted, own, other in ((below, 1, 0), (above, 0, 1)):
        if wanted:
            np.add.at(total, ends[:, own], weights * x[ends[:, other]])
            np.add.at(mass, ends[:, own], weights)
    return np.where(mass > 0, total / np.where(mass > 0, mass, 1.0), x)


def broken(nodes: Sequence[int], widths: Sequence[float] | np.ndarray) -> list[list[int]]:
    """A row's nodes in as many lines as its width needs; neighbours go to different lines, so that x is kept."""
    wide = sum(float(widths[node]) + GAP for node in nodes)
    parts = max(1, int(np.ceil(wide / WIDEST)))
    return [list(nodes[part::parts]) for part in range(parts)]


def _set_row(nodes: Sequence[int], x: np.ndarray, widths: np.ndarray, wanted: np.ndarray) -> None:
    """Set the nodes of a row in this order, as close to where they want to be as their widths allow."""
    for line in broken(nodes, widths):
        size = widths[line]
        offsets = np.concatenate([[0.0], np.cumsum((size[1:] + size[:-1]) / 2 + GAP)])
        first, last = size[0] / 2 - WIDEST / 2, WIDEST / 2 - size[-1] / 2 - offsets[-1]  # inside the picture
        x[line] = np.clip(_isotonic(wanted[line] - offsets), first, max(first, last)) + offsets


def _isotonic(values: np.ndarray) -> np.ndarray:
    """The closest sequence that never falls, by least squares."""
    pools: list[tuple[float, int]] = []
    for value in values.tolist():
        mean, count = value, 1
        while pools and pools[-1][0] >= mean:
            other, more = pools.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        pools.append((mean, count))
    return np.array([mean for mean, count in pools for _ in range(count)])


def _crossings(x: np.ndarray, rank: np.ndarray, ends: np.ndarray) -> int:
    """How many pairs of straight lines cross, apart from those that share an end."""
    if len(ends) < 2:
        return 0
    low, high = rank[ends[:, 0]], rank[ends[:, 1]]
    slope = (x[ends[:, 1]] - x[ends[:, 0]]) / (high - low)
    bottom, top = np.maximum(low[:, None], low[None]), np.minimum(high[:, None], high[None])
    at = x[ends[:, 0]][:, None] + slope[:, None] * (bottom - low[:, None])
    end = x[ends[:, 0]][:, None] + slope[:, None] * (top - low[:, None])
    swapped = (at - at.T) * (end - end.T) < -1e-9
    return int((swapped & (bottom < top)).sum()) // 2


def _heights(
    order: dict[float, list[int]], widths: Sequence[float]
) -> tuple[dict[int, float], dict[float, float], float]:
    """The y of each node, the y of each row, and the height of all; the highest row is at the top."""
    y: dict[int, float] = {}
    tops: dict[float, float] = {}
    at = MARGIN + HIGH / 2
    for row in sorted(order, reverse=True):
        tops[row] = at
        for line in broken(order[row], widths):
            y |= dict.fromkeys(line, at)
            at += HIGH + ROOM
    return y, tops, at - ROOM - HIGH / 2 + MARGIN if order else 2 * MARGIN


# ---- lines ----

Rows = dict[float, list[Box]]  # by their y, from left to right
Passage = tuple[float, int]  # the y of a row, and which of its gaps, from the left


def _lines(boxes: Sequence[Box], links: Sequence[tuple[int, int]]) -> tuple[Line, ...]:
    """Each link's points: from its port on the source to its port on the target, around everything between."""
    ways = _ways(boxes, links)
    lanes = _lanes([start[1] - stop[1] for start, stop, _ in ways], _passages(ways))
    found = []
    for way, lane in zip(ways, lanes, strict=True):
        found.append(tuple((round(x, 1), round(y, 1)) for x, y in _routed(*way, lane, [])))
    return tuple(found)


def _ways(boxes: Sequence[Box], links: Sequence[tuple[int, int]]) -> list[tuple[Point, Point, Rows]]:
    """Where each line begins and stops, and the rows between."""
    starts, stops = _ports(boxes, links, 0), _ports(boxes, links, 1)
    rows: Rows = {}
    for box in sorted(boxes, key=lambda box: box.x):
        rows.setdefault(box.y, []).append(box)
    ways = []
    for place, (source, target) in enumerate(links):
        low, high = boxes[source].y, boxes[target].y
        between = {y: row for y, row in rows.items() if high < y < low}
        ways.append(((starts[place], low - HIGH / 2), (stops[place], high + HIGH / 2), between))
    return ways


def _passages(ways: Sequence[tuple[Point, Point, Rows]]) -> list[list[Passage]]:
    """The gaps that each line goes through."""
    found: list[list[Passage]] = []
    for way in ways:
        found.append([])
        _routed(*way, 0, found[-1])
    return found


def _widened(boxes: Sequence[Box], links: Sequence[tuple[int, int]]) -> tuple[Box, ...]:
    """The nodes of each row moved apart where lines go through between them, as far as the picture's width allows."""
    crowd = Counter(passage for passed in _passages(_ways(boxes, links)) for passage in passed)
    moved = list(boxes)
    for y in sorted({box.y for box in boxes}):
        row = sorted((n for n, box in enumerate(boxes) if box.y == y), key=lambda n: boxes[n].x)
        size = np.array([boxes[n].width for n in row])
        more = np.array([max(0.0, 2 * CLEAR + LANE * (crowd[y, n] - 1) - GAP) for n in range(1, len(row))])
        room = max(0.0, WIDEST - size.sum() - GAP * len(row))
        gaps = GAP + more * min(1.0, room / more.sum() if more.sum() else 1.0)
        offsets = np.concatenate([[0.0], np.cumsum((size[1:] + size[:-1]) / 2 + gaps)])
        free = _isotonic(np.array([boxes[n].x for n in row]) - offsets) + offsets
        for node, x in zip(row, free.tolist(), strict=True):
            moved[node] = replace(boxes[node], x=round(x, 1))
    return tuple(moved)


def _ports(boxes: Sequence[Box], links: Sequence[tuple[int, int]], end: int) -> dict[int, float]:
    """Where on its node each line begins (end 0) or stops (1): beside each other, ordered by where they lead."""
    at: dict[int, list[int]] = {}
    for place, link in enumerate(links):
        at.setdefault(link[end], []).append(place)
    found = {}
    for node, places in at.items():
        box = boxes[node]
        places.sort(key=lambda place: (_leaning(box, boxes[links[place][1 - end]]), place))
        step = min(9.0, (box.width - 14) / max(len(places) - 1, 1))
        for number, place in enumerate(places):
            found[place] = box.x + step * (number - (len(places) - 1) / 2)
    return found


def _leaning(own: Box, other: Box) -> float:
    """How far to the right a line leaves towards another node: its slope."""
    return (other.x - own.x) / abs(other.y - own.y)


def _lanes(spans: Sequence[float], passages: Sequence[Sequence[Passage]]) -> list[int]:
    """A lane for each line: lines in one gap run beside each other, short ones inside, long ones around them."""
    lanes = [0] * len(spans)
    used: dict[Passage, set[int]] = {}
    for place in sorted(range(len(spans)), key=lambda place: (spans[place], place)):
        taken = set().union(*(used.get(passage, set()) for passage in passages[place]))
        lanes[place] = next(lane for lane in range(len(spans) + 1) if lane not in taken)
        for passage in passages[place]:
            used.setdefault(passage, set()).add(lanes[place])
    return lanes


def _routed(start: Point, stop: Point, between: Rows, lane: int, passed: list[Passage]) -> list[Point]:
    """The points of a line, straight where no node is in its way; `passed` gets the gaps that it goes through."""
    hit = [y for y, row in between.items() if _touches(start, stop, y, row)]
    if not hit:
        return [start, stop]
    y = sorted(hit)[len(hit) // 2]
    number, x = _gap(start[0] + (stop[0] - start[0]) * (y - start[1]) / (stop[1] - start[1]), between[y], lane)
    passed.append((y, number))
    lower, upper = (x, y + HIGH / 2), (x, y - HIGH / 2)
    first = _routed(start, lower, {other: row for other, row in between.items() if other > y}, lane, passed)
    return first + _routed(upper, stop, {other: row for other, row in between.items() if other < y}, lane, passed)


def _touches(start: Point, stop: Point, y: float, row: Sequence[Box]) -> bool:
    """Whether a straight line runs over or too close to a node of the row at y."""
    slope = (stop[0] - start[0]) / (stop[1] - start[1])
    ends = [start[0] + slope * (min(max(y + side, stop[1]), start[1]) - start[1]) for side in (HIGH / 2, -HIGH / 2)]
    low, high = min(ends) - CLEAR + 0.1, max(ends) + CLEAR - 0.1
    return any(box.left < high and low < box.right for box in row)


def _gap(x: float, row: Sequence[Box], lane: int) -> tuple[int, float]:
    """The gap between the nodes of a row that is nearest to x, and where in it a line of this lane passes."""
    sides = [-inf, *(side for box in row for side in (box.left, box.right)), inf]
    gaps = [(left + CLEAR, right - CLEAR) for left, right in zip(sides[::2], sides[1::2], strict=True)]
    number = min(range(len(gaps)), key=lambda n: (max(gaps[n][0] - x, x - gaps[n][1], 0.0), n))
    left, right = gaps[number]
    if x <= left:
        return number, min(left + LANE * lane, max(left, right))
    if x >= right:
        return number, max(right - LANE * lane, min(left, right))
    return number, x
