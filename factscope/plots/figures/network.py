"""A network of nodes in rows and weighted arrows that go up: drawn so that it can be read.

At first only the strongest paths are drawn (`strongest.py`), about as many lines as an eye can follow; a slider adds
more, and buttons change between several sets of arrows (before, after). Every node carries its name, and no line runs
under a name (`layered.py`). Pointing at a node or choosing it leaves its paths alone and lists what it reads and what
reads it (`network.js`). Shapes, strokes and the ends of arrows say what colours say, for print and for eyes that do not
tell colours apart. The drawing is SVG, and the first one can be read, printed and shown in a notebook without a
script; those behind the slider and the buttons stand compressed in the page until its script has read them.
Importing this file registers the drawing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from factscope.plots.escape import html_text, script_json
from factscope.plots.figures.layered import Layout, layered
from factscope.plots.figures.network_svg import KEYS, SHAPES, Names, drawing, key, node_width
from factscope.plots.figures.strongest import strongest
from factscope.plots.fragments import compressed, fragment
from factscope.plots.specs import Palette, Spec
from factscope.plots.svg import svg

STEPS = (10, 20, 30, 40, 60, 100, 160, 250)  # lines under the slider; beyond them a picture is a black square
FIRST = 40  # lines at first

Fate = Literal["plain", "kept", "gained", "lost", "moved", "crossed"]


@dataclass(frozen=True)
class NodeMark:
    """One node: its name, its row (larger is higher), its kind by colour and shape, and what is said of it.

    Where the network has columns, `column` is the node's, from the left, and `label` what is written on it.
    """

    name: str
    row: float
    palette: Palette
    hover: str = ""
    column: int = 0
    label: str = ""

    @property
    def written(self) -> str:
        """What stands on the node."""
        return self.label or self.name


@dataclass(frozen=True)
class EdgeMark:
    """One arrow between nodes, by their places in the list; what became of it, where two networks are compared."""

    source: int
    target: int
    value: float
    hover: str = ""
    fate: Fate = "plain"
    share: float = 1.0  # of resampled networks that have it; a line of few is faint


@dataclass(frozen=True)
class View:
    """One set of arrows, and the words on its button; `by_path` false draws the first ones of the list instead."""

    name: str
    edges: tuple[EdgeMark, ...]
    by_path: bool = True


@dataclass(frozen=True, eq=False)
class Network(Spec):
    """Nodes in the order of computation, and one or more sets of arrows; the first is shown first.

    `kinds` names the colours of nodes, `rows` the rows; neighbouring rows of one name are one band. `columns` names
    the columns, from the left, where nodes have them.
    """

    title: str
    nodes: tuple[NodeMark, ...]
    views: tuple[View, ...]
    kinds: tuple[tuple[Palette, str], ...] = ()
    rows: tuple[tuple[float, str], ...] = ()
    value_title: str = ""
    unit: str = ""
    note: str = ""
    signs: tuple[str, str] = ("helps the answer", "holds it back")  # what a value above zero does, and one below
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.views:
            raise ValueError(f"{self.title!r} has no view to show")
        for view in self.views:
            for edge in view.edges:
                if not (0 <= edge.source < edge.target < len(self.nodes)):
                    raise ValueError(f"{self.title!r}, {view.name!r}: an edge joins {edge.source} and {edge.target}")
                if not self.nodes[edge.source].row < self.nodes[edge.target].row:
                    raise ValueError(f"{self.title!r}, {view.name!r}: an edge does not go up from {edge.source}")


@dataclass(frozen=True)
class Stage:
    """One stop of the slider: for each view, the places of its drawn arrows; and the layout of all."""

    drawn: tuple[tuple[int, ...], ...]
    nodes: tuple[int, ...]  # by their places in the network
    layouts: tuple[Layout, ...]  # one for each view: the same boxes, its own lines

    def lines(self) -> int:
        """Lines of the view that has most."""
        return max(len(some) for some in self.drawn)


@lru_cache(maxsize=8)
def stages(spec: Network) -> tuple[Stage, ...]:
    """The stops of the slider, from few lines to many; none where there is no line."""
    most = max(len(view.edges) for view in spec.views)
    steps = list(STEPS if len(spec.views) == 1 else STEPS[1::2]) + ([10**9] if most <= STEPS[-1] else [])
    chosen = [_first(view, steps) for view in spec.views]
    found: list[tuple[tuple[int, ...], ...]] = []
    for drawn in zip(*chosen, strict=True):
        if any(drawn) and (not found or drawn != found[-1]):
            found.append(drawn)
    if len(found) > 1 and 2 * _most(found[-1]) < 3 * _most(found[-2]):
        found.pop(-2)  # two last stops that look alike
    return tuple(_stage(spec, drawn) for drawn in found)


def first_stage(spec: Network) -> int:
    """Which stop is shown at first."""
    counts = [stage.lines() for stage in stages(spec)]
    if counts and counts[-1] <= 1.5 * FIRST:
        return len(counts) - 1
    return max([0, *(place for place, count in enumerate(counts) if count <= FIRST)])


def _most(drawn: tuple[tuple[int, ...], ...]) -> int:
    return max(len(some) for some in drawn)


def _first(view: View, steps: Sequence[int]) -> list[tuple[int, ...]]:
    """The arrows of a view under each stop."""
    if not view.by_path:
        return [tuple(range(min(step, len(view.edges)))) for step in steps]
    sizes = [abs(edge.value) for edge in view.edges]
    return strongest([edge.source for edge in view.edges], [edge.target for edge in view.edges], sizes, steps)


def _stage(spec: Network, drawn: tuple[tuple[int, ...], ...]) -> Stage:
    """One layout for all views: a node is at one place in all of them, and only the lines change under the eye."""
    edges = [[view.edges[place] for place in some] for view, some in zip(spec.views, drawn, strict=True)]
    present = sorted({end for some in edges for edge in some for end in (edge.source, edge.target)})
    place = {node: number for number, node in enumerate(present)}
    links = [[(place[edge.source], place[edge.target]) for edge in some] for some in edges]
    widths = [
        node_width(
            spec.nodes[node].written,
            spec.nodes[node].palette,
            max(sum(link[end] == own for link in some) for some in links for end in (0, 1)),
        )
        for own, node in enumerate(present)
    ]
    rows = [spec.nodes[node].row for node in present]
    weights = [[abs(edge.value) ** 0.5 for edge in some] for some in edges]
    every, heavy = [link for some in links for link in some], [w for some in weights for w in some]
    columns = [spec.nodes[node].column for node in present] if spec.columns else None
    joined = layered(rows, widths, every, heavy, columns)
    layouts = tuple(joined.with_lines(some) for some in links) if len(links) > 1 else (joined,)
    return Stage(drawn, tuple(present), layouts)


# ---- HTML ----


@fragment.register
def _(spec: Network) -> str:
    found, first = stages(spec), first_stage(spec)
    views = "".join(
        f'<button type="button" aria-pressed="{str(not number).lower()}">{html_text(view.name)}</button>'
        for number, view in enumerate(spec.views)
    )
    buttons = f'<div class="views" role="group" aria-label="Which lines">{views}</div>' if len(spec.views) > 1 else ""
    slider = (
        f'<label>Lines <input type="range" min="0" max="{len(found) - 1}" value="{first}" '
        f'aria-label="How many of the strongest lines"></label>'
    )
    drawn = "".join(
        _picture(spec, stage, level, view, hidden=(level, view) != (first, 0))
        for level, stage in enumerate(found)
        for view in range(len(spec.views))
    )
    empty = "" if found else "<p>There is no line to draw.</p>"
    note = f'<figcaption class="note">{html_text(spec.caption())}</figcaption>' if spec.caption() else ""
    return (
        f'<figure class="spec network wide"><h3>{html_text(spec.title)}</h3>{buttons}'
        f'<div class="controls">{slider if len(found) > 1 else ""}<output></output>'
        '<label>Node <select aria-label="Choose a node"></select></label></div>'
        f'<div class="beside"><div class="frame">{empty}{drawn}</div><div class="told" aria-live="polite"></div></div>'
        f"{_legend(spec)}{note}"
        f"{compressed(script_json(_data(spec)))}</figure>"
    )


def _picture(spec: Network, stage: Stage, level: int, view: int, hidden: bool) -> str:
    name, drawn = html_text(_counted(spec, stage, view)), _svg(spec, stage, view)
    return (
        f'<div class="stage" data-level="{level}" data-view="{view}" data-said="{name}"{" hidden" if hidden else ""}>'
        f"{compressed(drawn) if hidden else drawn}</div>"
    )


def _svg(spec: Network, stage: Stage, view: int, standing_alone: bool = False) -> str:
    edges = [spec.views[view].edges[place] for place in stage.drawn[view]]
    most = max((abs(edge.value) for edge in spec.views[view].edges), default=1.0) or 1.0
    marks = [(node, spec.nodes[node]) for node in stage.nodes]
    names = Names(spec.rows, spec.columns)
    return drawing(spec.title, stage.layouts[view], marks, edges, most, spec.unit, names, standing_alone)


def _counted(spec: Network, stage: Stage, view: int) -> str:
    """How many lines are drawn, and how small the smallest of them is."""
    edges = spec.views[view].edges
    drawn = [abs(edges[place].value) for place in stage.drawn[view]]
    if not drawn:
        return "no line"
    unit = f" {spec.unit}" if spec.unit else ""
    which = "all" if len(drawn) == len(edges) else f"{len(drawn):,} of {len(edges):,}"
    smallest = f", {spec.value_title or 'value'} {min(drawn):.2g}{unit} and more" if len(drawn) < len(edges) else ""
    return f"{which} lines{smallest}" if len(edges) > 1 else "one line"


def _legend(spec: Network) -> str:
    """What shapes, strokes and ends mean, as far as they occur."""
    shapes = [(SHAPES[palette], words) for palette, words in spec.kinds]
    fates = dict.fromkeys(edge.fate for view in spec.views for edge in view.edges)
    values = [edge.value for view in spec.views for edge in view.edges]
    strokes = [(f"{fate} up", KEYS[fate]) for fate in KEYS if fate in fates and KEYS[fate]]
    plain = "plain" if "plain" in fates else "kept"
    signs = [(f"{plain} up", spec.signs[0]), (f"{plain} down", spec.signs[1])] if min(values, default=0.0) < 0 else []
    parts = [f"<li>{key(shape)}{html_text(words)}</li>" for shape, words in (*shapes, *strokes, *signs)]
    return f'<ul class="legend">{"".join(parts)}</ul>' if parts else ""


def _data(spec: Network) -> dict[str, Any]:
    """What the lists beside a chosen node are made of: every arrow, drawn or not."""
    return {
        "unit": spec.unit,
        "nodes": [[node.name, node.hover] for node in spec.nodes],
        "views": [
            [[edge.source, edge.target, float(f"{edge.value:.3g}")] for edge in view.edges] for view in spec.views
        ],
    }


@svg.register
def _(spec: Network) -> str | None:
    """The first picture alone, for a notebook and for saving."""
    found = stages(spec)
    return _svg(spec, found[first_stage(spec)], 0, standing_alone=True) if found else None
