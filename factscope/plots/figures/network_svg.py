"""One picture of a network as SVG: bands for rows, lines below, nodes with their names above.

The kinds of nodes are pills, boxes with a double left side, and dark bars; a value below zero is a dashed line that
ends in a bar across it, one above zero a full line that ends in an arrow. Colours come from `network.css`; a
picture that stands alone carries it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from math import hypot
from typing import Any

from factscope.plots.escape import html_text, visible
from factscope.plots.figures.layered import HEADING, HIGH, ROOM, Box, Layout, Line
from factscope.plots.specs import Palette

LETTER, PADDING, PORT = 7.3, 16.0, 8.0  # pixels: of a letter's width, beside a name, between lines at a node
GUTTER = 66  # for the rows' names
THINNEST, THICKEST = 1.0, 4.5
BEND = 7.0  # radius of a line's corners
TIP = 7.0  # length of an arrow's tip
SEEN = 0.5  # pixels that a point is off its neighbours' line before a bend is seen

SHAPES: dict[Palette, str] = {"red": "pill", "green": "box", "purple": "bar", "blue": "cut", "orange": "cut"}
WIDEST_NODE: dict[str, float] = {"bar": 460.0, "box": 200.0, "pill": 150.0, "cut": 150.0}
KEYS = {  # what the legend says of each fate
    "plain": "",
    "kept": "kept",
    "gained": "gained",
    "lost": "lost",
    "moved": "kept, its effect changed",
    "crossed": "only crossed the threshold",
}


@dataclass(frozen=True)
class Names:
    """What rows and columns are called."""

    rows: Sequence[tuple[float, str]]
    columns: Sequence[str] = ()


def node_width(name: str, palette: Palette, lines: int) -> float:
    """Wide enough for its name, and for as many lines as begin or end there, within limits."""
    most = WIDEST_NODE[SHAPES[palette]]
    return max(LETTER * len(visible(name)) + PADDING, min(most, PORT * (lines - 1) + 18.0))


def drawing(
    title: str,
    layout: Layout,
    nodes: Sequence[tuple[int, Any]],
    edges: Sequence[Any],
    most: float,
    unit: str,
    named: Names,
    standing_alone: bool = False,
) -> str:
    """The picture as an SVG element.

    Args:
        nodes: the number and the mark of each node of the layout, in its order.
        edges: the mark of each line of the layout, in its order.
        most: the value that has the widest line.
        standing_alone: as a document with colours of its own, for an image.
    """
    bands, gutter = _bands(layout, dict(named.rows))
    names = {number: mark.name for number, mark in nodes}
    busy = {end for edge in edges for end in (edge.source, edge.target)}
    drawn = sorted(zip(edges, layout.lines, strict=True), key=lambda pair: abs(pair[0].value))  # large ones on top
    lines = "".join(_edge(edge, line, names, most, unit) for edge, line in drawn)
    marks = "".join(_node(n, mark, box, n in busy) for (n, mark), box in zip(nodes, layout.boxes, strict=True))
    width, high = layout.width + gutter, layout.height
    own = f"<style>{style()}</style>" if standing_alone else ""
    space = ' xmlns="http://www.w3.org/2000/svg"' if standing_alone else ""
    return (
        f'<svg{space} class="net" role="group" aria-label="{html_text(title)}" width="{width:.0f}" '
        f'height="{high:.0f}" viewBox="{layout.left - gutter:.0f} 0 {width:.0f} {high:.0f}">{own}{bands}'
        f"{_columns(layout, named.columns)}"
        f'<g class="edges">{lines}</g><g class="nodes">{marks}</g></svg>'
    )


def style() -> str:
    """The style of networks, on pages and in pictures that stand alone."""
    return (files("factscope.plots") / "network.css").read_text(encoding="utf-8")


def key(classes: str) -> str:
    """A small sample for a legend: a shape, or a line by its fate and sign."""
    if classes in SHAPES.values():
        inside = f'<g class="node {classes}">{_shape(classes, Box(15, 8, 26), 13)}</g>'
    else:
        line = ((1.0, 8.0), (29.0, 8.0))
        inside = f'<g class="edge {classes}"><path d="M1 8H27" stroke-width="2"/>{_tip(line, 2, "down" in classes)}</g>'
    return f'<svg class="net key" width="30" height="16" viewBox="0 0 30 16" aria-hidden="true">{inside}</svg>'


def _bands(layout: Layout, names: dict[float, str]) -> tuple[str, int]:
    """A stripe behind every second name's rows, and the names at the left; and how much room these need."""
    named = sorted((y, names[row]) for row, y in layout.rows if row in names)
    if not named:
        return "", 0
    tops: list[tuple[float, str]] = []
    for y, name in named:
        if not tops or tops[-1][1] != name:
            tops.append((y - (HIGH + ROOM) / 2, name))
    ends = [*(top for top, _ in tops[1:]), layout.height]
    every = [y for _, y in layout.rows]
    left, wide, parts = layout.left - GUTTER, layout.width + GUTTER, []
    for number, ((top, name), end) in enumerate(zip(tops, ends, strict=True)):
        foreign = [y for row, y in layout.rows if row not in names and top < y < end]
        low = min([end, *(y - (HIGH + ROOM) / 2 for y in foreign)])
        size = f'x="{left:.0f}" y="{top:.0f}" width="{wide:.0f}" height="{low - top:.0f}"'
        first = min(y for y in every if y > top)
        parts += [f'<rect class="band" {size}/>'] if number % 2 == 0 else []
        parts.append(f'<text class="row" x="{left + 6:.0f}" y="{first + 4:.0f}">{html_text(visible(name))}</text>')
    return "".join(parts), GUTTER


def _columns(layout: Layout, names: Sequence[str]) -> str:
    """The columns' names above their strips, and a line between each two."""
    parts = []
    for number, (left, right) in enumerate(layout.strips):
        if number:
            parts.append(f'<path class="strip" d="M{left:.1f} 4V{layout.height - 4:.1f}"/>')
        name = html_text(visible(names[number]))
        parts.append(f'<text class="column" x="{(left + right) / 2:.1f}" y="{HEADING / 2 + 5:.1f}">{name}</text>')
    return "".join(parts)


def _node(number: int, mark: Any, box: Box, busy: bool) -> str:
    shape = SHAPES[mark.palette]
    return (
        f'<g class="node {shape}{"" if busy else " idle"}" data-node="{number}" tabindex="0" role="button">'
        f"<title>{html_text(mark.name)}</title>{_shape(shape, box, HIGH)}"
        f'<text x="{box.x:.1f}" y="{box.y + 4:.1f}">{html_text(visible(mark.written))}</text></g>'
    )


def _shape(shape: str, box: Box, high: float) -> str:
    radius = {"pill": high / 2, "bar": 3.0}.get(shape, 0.0)
    top = box.y - high / 2
    extra = f'<path d="M{box.left + 4:.1f} {top:.1f}v{high:g}"/>' if shape == "box" else ""
    return f'<rect x="{box.left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{high:g}" rx="{radius:g}"/>{extra}'


def _edge(edge: Any, line: Line, names: dict[int, str], most: float, unit: str) -> str:
    wide = THINNEST + (THICKEST - THINNEST) * (min(abs(edge.value) / most, 1.0)) ** 0.5
    amount = f"{edge.value:+.3g} {unit}".strip()
    said = f"{names[edge.source]} → {names[edge.target]}: {amount}\n{edge.hover}".strip()
    down = edge.value < 0
    faint = f' opacity="{0.25 + 0.75 * edge.share:.2f}"' if edge.share < 1 else ""
    drawn = f'<path d="{_path(line)}" stroke-width="{wide:.1f}"/>{_tip(line, wide, down)}'
    kind = f"{edge.fate} {'down' if down else 'up'}"
    return (
        f'<g class="edge {kind}" data-from="{edge.source}" data-to="{edge.target}"{faint}>'
        f"<title>{html_text(said)}</title>{drawn}</g>"
    )


def _path(line: Line) -> str:
    """Straight pieces with rounded corners, which stay inside the corners of the pieces; bends at whole pixels."""
    line = _bends(line)
    parts = [f"M{line[0][0]:g} {line[0][1]:g}"]
    for (x0, y0), (x1, y1), (x2, y2) in zip(line, line[1:], line[2:], strict=False):
        before, after = hypot(x1 - x0, y1 - y0), hypot(x2 - x1, y2 - y1)
        one, other = (min(BEND, length / 2) / length if length else 0.0 for length in (before, after))
        parts.append(
            f"L{x1 + (x0 - x1) * one:.0f} {y1 + (y0 - y1) * one:.0f}Q{x1:.0f} {y1:.0f} "
            f"{x1 + (x2 - x1) * other:.0f} {y1 + (y2 - y1) * other:.0f}"
        )
    return "".join([*parts, f"L{line[-1][0]:g} {line[-1][1]:g}"])


def _bends(line: Line) -> Line:
    """A line without the points at which nobody sees it bend; a long one has a point in every row."""
    seen = [line[0]]
    for (x1, y1), (x2, y2) in pairwise(line[1:]):
        x0, y0 = seen[-1]
        length = hypot(x2 - x0, y2 - y0)
        off = abs((x2 - x0) * (y1 - y0) - (y2 - y0) * (x1 - x0)) / length if length else HIGH
        if off > SEEN:
            seen.append((x1, y1))
    return (*seen, line[-1])


def _tip(line: Line, wide: float, down: bool) -> str:
    """An arrow's tip at the end of a line, or a bar across it."""
    (x0, y0), (x1, y1) = list(pairwise(line))[-1]
    length = hypot(x1 - x0, y1 - y0) or 1.0
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    half = 2.2 + wide / 2
    if down:
        x, y = x1 - 1.5 * ux, y1 - 1.5 * uy
        ends = (x - uy * (half + 1.5), y + ux * (half + 1.5)), (x + uy * (half + 1.5), y - ux * (half + 1.5))
        return f'<path class="stop" d="M{ends[0][0]:.1f} {ends[0][1]:.1f}L{ends[1][0]:.1f} {ends[1][1]:.1f}"/>'
    x, y = x1 - TIP * ux, y1 - TIP * uy
    sides = f"L{x - uy * half:.1f} {y + ux * half:.1f}L{x + uy * half:.1f} {y - ux * half:.1f}"
    return f'<path class="tip" d="M{x1:g} {y1:g}{sides}z"/>'
