"""A drawing of nodes and weighted arrows: layers upward, parts across, wider lines for larger values.

A slider hides what is below a value, and a click on a node lights up every path through it (`network.js`; a second
click puts it out). Lines are drawn in a few traces of equal width and not one by one, so that thousands of them open as
fast as a hundred. Importing this file registers the drawing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import plotly.graph_objects as go

from factscope.plots.colours import INK, Ink, Theme, line_colour, transparent
from factscope.plots.escape import plotly_text
from factscope.plots.render import draw
from factscope.plots.specs import Palette, Spec

WIDTHS = (0.4, 0.7, 1.1, 1.6, 2.3, 3.2)  # pixels, from the smallest values to the largest
STEPS = 12  # of the slider
POINTS = {"purple": "diamond", "green": "square", "red": "circle", "blue": "star"}


@dataclass(frozen=True)
class NodeMark:
    """One node: where it stands, what is said of it, and which kind it is by colour."""

    name: str
    x: float
    y: float
    palette: Palette
    hover: str = ""


@dataclass(frozen=True)
class EdgeMark:
    """One arrow between nodes, by their places in the list; negative values are drawn dotted."""

    source: int
    target: int
    value: float
    hover: str = ""


@dataclass(frozen=True, eq=False)
class Network(Spec):
    """Nodes and edges; `kinds` names the colours, `rows` labels heights."""

    title: str
    nodes: tuple[NodeMark, ...]
    edges: tuple[EdgeMark, ...]
    kinds: tuple[tuple[Palette, str], ...] = ()
    rows: tuple[tuple[float, str], ...] = ()
    value_title: str = ""
    unit: str = ""
    note: str = ""
    least_width: ClassVar[int] = 700  # pixels: it takes the whole width of a page, and scrolls on a narrower screen

    def __post_init__(self) -> None:
        for edge in self.edges:
            if not (0 <= edge.source < len(self.nodes) and 0 <= edge.target < len(self.nodes)):
                raise ValueError(f"{self.title!r}: an edge joins nodes {edge.source} and {edge.target}")


@draw.register
def _(spec: Network, theme: Theme) -> go.Figure:
    ink, result = INK[theme], go.Figure()
    sizes = np.array([abs(edge.value) for edge in spec.edges])
    levels = np.unique(np.quantile(sizes, np.linspace(0, 0.98, STEPS))) if len(sizes) else np.zeros(1)
    shown = _add_edges(result, spec, sizes, levels, ink)
    n_lines = len(shown) - len(levels)
    add_nodes(result, spec.nodes, spec.kinds, spec.rows, theme)
    meta = {
        "network": {
            "x": [node.x for node in spec.nodes],
            "y": [node.y for node in spec.nodes],
            "from": [edge.source for edge in spec.edges],
            "to": [edge.target for edge in spec.edges],
            "path": n_lines + len(levels),
            "lines": n_lines,
        }
    }
    several = len(spec.edges) > 1 and len(levels) > 1
    return result.update_layout(
        height=int(np.clip(20 * len(spec.rows), 380, 1100)) + 140,
        hovermode="closest",
        showlegend=bool(spec.kinds),
        sliders=[_slider(spec, levels, shown, len(result.data) - len(shown), ink)] if several else [],
        meta=meta,
    )


def _add_edges(result: go.Figure, spec: Network, sizes: np.ndarray, levels: np.ndarray, ink: Ink) -> list[float]:
    """Lines by the slider's step, width and sign, then each step's handles; up to which of its values each stays."""
    bins, bounds = width_bins(sizes), np.append(levels, np.inf)
    shown: list[float] = []
    for step, level in enumerate(levels):
        for width in range(len(WIDTHS)):
            for negative in (False, True):
                chosen = [
                    edge
                    for edge, size, place in zip(spec.edges, sizes, bins, strict=True)
                    if level <= size < bounds[step + 1] and place == width and (edge.value < 0) == negative
                ]
                if chosen:
                    line = {"color": transparent(ink.text, 0.2 + 0.09 * width), "width": WIDTHS[width]}
                    line["dash"] = "dot" if negative else "solid"
                    x, y = edge_lines(spec.nodes, chosen)
                    result.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False))
                    shown.append(level)
    for step, level in enumerate(levels):
        chosen = [edge for edge, size in zip(spec.edges, sizes, strict=True) if level <= size < bounds[step + 1]]
        result.add_trace(edge_handles(spec.nodes, chosen))
        shown.append(level)
    return shown


def _slider(spec: Network, levels: np.ndarray, shown: Sequence[float], always: int, ink: Ink) -> dict[str, Any]:
    """Hides the edges below a level; the `always` last traces stay."""
    steps = [
        {
            "label": f"{level:.2g}",
            "method": "restyle",
            "args": [{"visible": [bool(value >= level) for value in shown] + [True] * always}],
        }
        for level in levels
    ]
    title = plotly_text(f"{spec.value_title} at least ")
    return {
        "steps": steps, "active": 0, "pad": {"t": 34, "b": 4}, "len": 0.94, "x": 0.03, "ticklen": 4,
        "currentvalue": {"prefix": title, "suffix": f" {plotly_text(spec.unit)}", "font": {"size": 12}},
        "font": {"size": 10, "color": ink.faint}, "bordercolor": ink.grid, "bgcolor": ink.grid,
    }  # fmt: skip


def add_nodes(
    result: go.Figure,
    nodes: Sequence[NodeMark],
    kinds: Sequence[tuple[Palette, str]],
    rows: Sequence[tuple[float, str]],
    theme: Theme,
) -> None:
    """The line that lights up a node's paths, empty until it is asked for, then the nodes, and the rows' names."""
    line = {"color": INK[theme].accent, "width": 2.2}
    result.add_trace(
        go.Scatter(x=[None], y=[None], mode="lines", line=line, hoverinfo="skip", showlegend=False, name="path")
    )
    result.add_traces(node_traces(nodes, kinds, theme))
    result.update_xaxes(visible=False)
    result.update_yaxes(
        tickvals=[row for row, _ in rows],
        ticktext=[plotly_text(label) for _, label in rows],
        showgrid=True,
        ticks="",
    )


def node_traces(nodes: Sequence[NodeMark], kinds: Sequence[tuple[Palette, str]], theme: Theme) -> list[Any]:
    """The nodes, one trace for each colour; `kinds` names the colours."""
    ink, names, traces = INK[theme], dict(kinds), []
    for palette in dict.fromkeys(node.palette for node in nodes):
        places = [place for place, node in enumerate(nodes) if node.palette == palette]
        marks = [nodes[place] for place in places]
        traces.append(
            go.Scatter(
                x=[node.x for node in marks],
                y=[node.y for node in marks],
                mode="markers",
                name=plotly_text(names.get(palette, "")),
                marker={
                    "color": line_colour(palette, theme), "size": 10, "symbol": POINTS[palette],
                    "line": {"color": ink.paper, "width": 1},
                },
                customdata=places,
                text=[_hover(f"<b>{plotly_text(node.name)}</b>", node.hover) for node in marks],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    return traces


def width_bins(sizes: np.ndarray) -> np.ndarray:
    """Which width each edge gets: by its rank among all, so that a few giants do not make hairs of the others."""
    order = np.argsort(np.argsort(sizes, kind="stable"), kind="stable")
    return np.minimum((order * len(WIDTHS)) // max(len(sizes), 1), len(WIDTHS) - 1)


def edge_lines(nodes: Sequence[NodeMark], edges: Sequence[EdgeMark]) -> tuple[np.ndarray, np.ndarray]:
    """All edges as one broken line."""
    points = np.full((len(edges), 3, 2), np.nan)
    for place, edge in enumerate(edges):
        source, target = nodes[edge.source], nodes[edge.target]
        points[place, 0], points[place, 1] = (source.x, source.y), (target.x, target.y)
    return points[..., 0].ravel(), points[..., 1].ravel()


def edge_handles(nodes: Sequence[NodeMark], edges: Sequence[EdgeMark]) -> Any:
    """Invisible points two thirds along each edge, for its words to be read."""
    ends = [(nodes[edge.source], nodes[edge.target], edge) for edge in edges]
    return go.Scatter(
        x=[one.x + 0.62 * (other.x - one.x) for one, other, _ in ends],
        y=[one.y + 0.62 * (other.y - one.y) for one, other, _ in ends],
        mode="markers",
        marker={"size": 7, "color": "rgba(0,0,0,0)"},
        text=[_hover(f"<b>{plotly_text(one.name)} → {plotly_text(other.name)}</b>", e.hover) for one, other, e in ends],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )


def _hover(first: str, rest: str) -> str:
    return "<br>".join([first, *(plotly_text(line) for line in rest.split("\n") if line)])
