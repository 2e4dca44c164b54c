"""Where the nodes of a layered network stand and how its lines run, in pixels: computed, so that no two names overlap.

Rows go upward, in the order of computation. Within a row nodes are ordered by the weighted mean place of what they are
joined to (Sugiyama, Tagawa and Toda 1981, "Methods for visual understanding of hierarchical system structures"), and
set as close to it as their widths allow (pool adjacent violators: least squares under an order). A row that is too wide
is broken into several lines. Where nodes belong to columns, each column is a strip of its own, and what is said of a
row holds of its part in a strip. Of all orders that the sweeps try, the one with the fewest crossings is kept.

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
NARROWEST = 118.0  # of a column: its name stands above it
HEADING = 26.0  # above the rows, for the names of columns
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
    strips: tuple[tuple[float, float], ...] = ()  # (left, right) of each column, where there are columns

    def with_lines(self, links: Sequence[tuple[int, int]]) -> "Layout":
        """The same nodes with the lines of these links."""
        return replace(self, lines=_lines(self.boxes, links))


@dataclass(frozen=True, eq=False)
class Grid:
    """Which nodes stand in which row and strip, and how wide everything is; a network without columns is one strip."""

    parts: dict[tuple[float, int], list[int]]  # the nodes of each row and column, in their order from left to right
    widths: np.ndarray  # of the nodes
    strips: tuple[tuple[float, float], ...]  # left and right of each column

    @classmethod
    def of(cls, rows: Sequence[float], widths: np.ndarray, columns: Sequence[int]) -> "Grid":
        """The nodes in the order in which they are given."""
        parts: dict[tuple[float, int], list[int]] = {}
        for node, place in sorted(enumerate(zip(rows, columns, strict=True)), key=lambda pair: (pair[1], pair[0])):
            parts.setdefault(place, []).append(node)
        return cls(parts, widths, _strips(parts, widths, max(columns, default=0) + 1))

    def lines(self, place: tuple[float, int]) -> list[list[int]]:
        """A part's nodes in as many lines as its strip needs."""
        left, right = self.strips[place[1]]
        return broken(self.parts[place], self.widths, right - left)


def _strips(parts: dict[tuple[float, int], list[int]], widths: np.ndarray, n: int) -> tuple[tuple[float, float], ...]:
    """Columns as wide as their widest row, narrowed alike where together they are too wide; one alone has it all."""
    if n == 1:
        return ((-WIDEST / 2, WIDEST / 2),)
    wanted = [
        max((float(sum(widths[nodes] + GAP)) for (_, column), nodes in parts.items() if column == own), default=0.0)
        for own in range(n)
    ]
    least = [
        max((float(widths[node]) + GAP for (_, column), nodes in parts.items() if column == own for node in nodes),
            default=0.0)
        for own in range(n)
    ]  # fmt: skip
    least = [max(each, NARROWEST) for each in least]
    over = [max(0.0, want - low) for want, low in zip(wanted, least, strict=True)]
    room = max(0.0, WIDEST - sum(least))
    share = min(1.0, room / sum(over)) if sum(over) else 0.0
    sides = np.concatenate([[0.0], np.cumsum([low + share * more for low, more in zip(least, over, strict=True)])])
    sides -= sides[-1] / 2
    return tuple(zip(sides[:-1].tolist(), sides[1:].tolist(), strict=True))


def layered(
    rows: Sequence[float],
    widths: Sequence[float],
    links: Sequence[tuple[int, int]],
    weights: Sequence[float],
    columns: Sequence[int] | None = None,
) -> Layout:
    """Place nodes by row (larger is higher) and draw a line for each link, from a lower row to a higher one.

    Args:
        rows: one number for each node.
        widths: of each node, in pixels.
        links: source and target by their places in `rows`.
        weights: of each link; heavy ones pull harder.
        columns: the column of each node, from the left; None: there are no columns.

    Raises ValueError for a link that does not go up.
    """
    for source, target in links:
        if not rows[source] < rows[target]:
            raise ValueError(f"a line must go up, but one goes from row {rows[source]} to row {rows[target]}")
    grid = Grid.of(rows, np.asarray(widths, dtype=float), columns if columns is not None else [0] * len(rows))
    x = _ordered(grid, links, np.asarray(weights, dtype=float))
    y, tops, height = _heights(grid, HEADING if columns is not None else 0.0)
    boxes = tuple(Box(round(float(x[n]), 1), y[n], float(widths[n])) for n in range(len(rows)))
    if columns is None:
        boxes = _widened(boxes, links)
    lines = _lines(boxes, links)
    strips = grid.strips if columns is not None else ()
    at = [side for box in boxes for side in (box.left, box.right)] + [point[0] for line in lines for point in line]
    at += [side for strip in strips for side in strip]
    low, high = (min(at), max(at)) if at else (0.0, 0.0)
    return Layout(low - MARGIN, high - low + 2 * MARGIN, height, boxes, lines, tuple(tops.items()), strips)


def _ordered(grid: Grid, links: Sequence[tuple[int, int]], weights: np.ndarray) -> np.ndarray:
    """The x of each node in the best order of each row that the sweeps find; `grid` is left in that order."""
    x = np.zeros(len(grid.widths))
    for place in grid.parts:
        _set_row(grid, place, x, np.zeros(len(grid.widths)))
    ends = np.array(links, dtype=int).reshape(-1, 2)
    rank = np.zeros(len(grid.widths))
    numbers = {row: number for number, row in enumerate(sorted({row for row, _ in grid.parts}))}
    for (row, _), nodes in grid.parts.items():
        rank[nodes] = numbers[row]
    best = (_crossings(x, rank, ends), x.copy(), {place: list(nodes) for place, nodes in grid.parts.items()})
    for sweep in range(SWEEPS):
        below, above = (sweep % 3 != 1), (sweep % 3 != 0)  # what is below, what is above, both
        for row in sorted(numbers, reverse=sweep % 3 == 1):
            wanted = _barycentres(x, ends, weights, below, above)
            for place in [each for each in grid.parts if each[0] == row]:
                grid.parts[place].sort(key=lambda node: (wanted[node], node))
                _set_row(grid, place, x, wanted)
        crossed = _crossings(x, rank, ends)
        if crossed < best[0]:
            best = (crossed, x.copy(), {place: list(nodes) for place, nodes in grid.parts.items()})
    grid.parts.update(best[2])
    return best[1]


def _barycentres(x: np.ndarray, ends: np.ndarray, weights: np.ndarray, below: bool, above: bool) -> np.ndarray:
    """The weighted mean x of each node's neighbours below, above or both; its own where it has none."""
    total, mass = np.zeros_like(x), np.zeros_like(x)
    for wanted, own, other in ((below, 1, 0), (above, 0, 1)):
        if wanted:
            np.add.at(total, ends[:, own], weights * x[ends[:, other]])
            np.add.at(mass, ends[:, own], weights)
    return np.where(mass > 0, total / np.where(mass > 0, mass, 1.0), x)


def broken(nodes: Sequence[int], widths: np.ndarray, widest: float = WIDEST) -> list[list[int]]:
    """A row's nodes in as many lines as its width needs; neighbours go to different lines, so that x is kept."""
    wide = sum(float(widths[node]) + GAP for node in nodes)
    parts = max(1, int(np.ceil((wide - 1e-6) / widest)))
    return [list(nodes[part::parts]) for part in range(parts)]


def _set_row(grid: Grid, place: tuple[float, int], x: np.ndarray, wanted: np.ndarray) -> None:
    """Set the nodes of a row in their order, as close to where they want to be as their widths and strip allow."""
    left, right = grid.strips[place[1]]
    edge = GAP / 2 if len(grid.strips) > 1 else 0.0
    for line in grid.lines(place):
        size = grid.widths[line]
        offsets = np.concatenate([[0.0], np.cumsum((size[1:] + size[:-1]) / 2 + GAP)])
        first, last = left + edge + size[0] / 2, right - edge - size[-1] / 2 - offsets[-1]
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


def _heights(grid: Grid, heading: float) -> tuple[dict[int, float], dict[float, float], float]:
    """The y of each node, the y of each row, and the height of all; the highest row is at the top, below a heading."""
    y: dict[int, float] = {}
    tops: dict[float, float] = {}
    at = MARGIN + HIGH / 2 + heading
    for row in sorted({row for row, _ in grid.parts}, reverse=True):
        tops[row] = at
        lines = [grid.lines(place) for place in grid.parts if place[0] == row]
        for part in lines:
            y |= {node: at + number * (HIGH + ROOM) for number, line in enumerate(part) for node in line}
        at += (HIGH + ROOM) * max(len(part) for part in lines)
    return y, tops, at - ROOM - HIGH / 2 + MARGIN if tops else 2 * MARGIN


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
