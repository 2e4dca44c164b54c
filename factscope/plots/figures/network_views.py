"""The same nodes under several sets of arrows, with a button for each: before, after, what changed, a null.

Every view is drawn on one layout, so that a node is at one place in all of them and only the wiring changes under the
eye. What happened to an arrow is its colour, and its stroke too, for print and for eyes that do not tell colours apart;
its width is its value's rank within the view. A click on a node lights up its paths in the view that is shown
(`network.js`). Importing this file registers the drawing.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import plotly.graph_objects as go

from factscope.plots.colours import INK, Theme, line_colour, transparent
from factscope.plots.escape import plotly_text
from factscope.plots.figures.network import (
    WIDTHS,
    EdgeMark,
    NodeMark,
    add_nodes,
    edge_handles,
    edge_lines,
    width_bins,
)
from factscope.plots.render import draw
from factscope.plots.specs import Palette, Spec

Fate = Literal["kept", "gained", "lost", "moved", "crossed"]
STROKES: dict[str, tuple[Palette | None, str, str]] = {  # colour (None: ink), dash, what the legend says
    "kept": (None, "solid", "kept"),
    "gained": ("blue", "solid", "gained"),
    "lost": ("red", "dash", "lost"),
    "moved": ("purple", "solid", "kept, its effect changed"),
    "crossed": (None, "dot", "only crossed the threshold"),
}


@dataclass(frozen=True)
class FatedEdge(EdgeMark):
    """An arrow and what became of it."""

    fate: Fate = "kept"


@dataclass(frozen=True)
class View:
    """One set of arrows, and the words on its button."""

    name: str
    edges: tuple[FatedEdge, ...]


@dataclass(frozen=True, eq=False)
class NetworkViews(Spec):
    """Nodes and several sets of edges; the first view is shown first. `kinds` names the colours of nodes."""

    title: str
    nodes: tuple[NodeMark, ...]
    views: tuple[View, ...]
    kinds: tuple[tuple[Palette, str], ...] = ()
    rows: tuple[tuple[float, str], ...] = ()
    note: str = ""
    least_width: ClassVar[int] = 700  # pixels: it takes the whole width of a page, and scrolls on a narrower screen

    def __post_init__(self) -> None:
        if not self.views:
            raise ValueError(f"{self.title!r} has no view to show")
        for view in self.views:
            for edge in view.edges:
                if not (0 <= edge.source < len(self.nodes) and 0 <= edge.target < len(self.nodes)):
                    raise ValueError(f"{self.title!r}, {view.name!r}: an edge joins {edge.source} and {edge.target}")


@draw.register
def _(spec: NetworkViews, theme: Theme) -> go.Figure:
    ink, result = INK[theme], go.Figure()
    owner: list[int | None] = []  # the view that each trace belongs to; None: always there
    for number, view in enumerate(spec.views):
        for trace in _strokes(spec, view, theme):
            result.add_trace(trace.update(visible=number == 0))
            owner.append(number)
    n_lines = len(owner)
    for number, view in enumerate(spec.views):
        result.add_trace(edge_handles(spec.nodes, view.edges).update(visible=number == 0))
        owner.append(number)
    path = len(owner)
    add_nodes(result, spec.nodes, spec.kinds, spec.rows, theme)
    owner += [None] * (len(result.data) - path)
    buttons = [
        {
            "label": plotly_text(view.name),
            "method": "restyle",
            "args": [{"visible": [one is None or one == number for one in owner]}],
        }
        for number, view in enumerate(spec.views)
    ]
    light = INK["light"]  # plotly paints a chosen button and one under the mouse nearly white in every theme
    menu = {
        "type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.08,
        "yanchor": "bottom", "bgcolor": light.grid, "bordercolor": ink.faint, "font": {"size": 11, "color": light.text},
        "showactive": True, "active": 0, "pad": {"r": 8},  # above the legend
    }  # fmt: skip
    meta = {
        "network": {
            "x": [node.x for node in spec.nodes],
            "y": [node.y for node in spec.nodes],
            "views": [
                {"from": [edge.source for edge in view.edges], "to": [edge.target for edge in view.edges]}
                for view in spec.views
            ],
            "path": path,
            "lines": n_lines,
        }
    }
    height = int(np.clip(20 * len(spec.rows), 380, 1100)) + 180
    return result.update_layout(
        height=height, hovermode="closest", showlegend=True, updatemenus=[menu] if len(buttons) > 1 else [], meta=meta
    )  # fmt: skip


def _strokes(spec: NetworkViews, view: View, theme: Theme) -> list[Any]:
    """A view's arrows as a few lines: one for each fate and width; the widest of each fate names it in the legend."""
    ink, traces = INK[theme], []
    bins = width_bins(np.array([abs(edge.value) for edge in view.edges]))
    for fate, (palette, dash, words) in STROKES.items():
        widths = sorted({int(place) for edge, place in zip(view.edges, bins, strict=True) if edge.fate == fate})
        for width in widths:
            chosen = [e for e, place in zip(view.edges, bins, strict=True) if e.fate == fate and place == width]
            base = ink.text if palette is None else line_colour(palette, theme)
            line = {"color": transparent(base, 0.15 + 0.09 * width + (0.0 if palette is None else 0.25))}
            x, y = edge_lines(spec.nodes, chosen)
            traces.append(
                go.Scatter(
                    x=x, y=y, mode="lines", line=line | {"width": WIDTHS[width], "dash": dash}, hoverinfo="skip",
                    name=words, showlegend=width == widths[-1], legendgroup=fate,
                )
            )  # fmt: skip
    return traces
