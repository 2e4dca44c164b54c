"""Points in a plane, and curves or maps with a slider that chooses which state of them is seen.

All states of a `Slides` share their axes, so that what moves under the slider is the numbers and not the scale.
Importing this file registers both drawings.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from factscope.plots.colours import INK, Theme, line_colour, transparent
from factscope.plots.escape import plotly_text, shortened, visible
from factscope.plots.labels import axis_title, tick
from factscope.plots.render import draw, log_ticks
from factscope.plots.specs import Curves, Heatmap, Palette, Spec
from factscope.plots.svg import svg

NAMED = 12  # points that have their labels beside them
WIDE = 18  # letters of such a label
SYMBOLS = ("circle", "diamond", "square", "cross")  # so that groups differ in print, too


@dataclass(frozen=True, eq=False)
class Points:
    """One group of a `Scatter`; a label for each point is shown when it is pointed at, `radii` draw circles."""

    name: str
    x: np.ndarray
    y: np.ndarray
    labels: tuple[str, ...]
    palette: Palette | None = None  # None: the next colour in turn
    radii: tuple[float, ...] = ()  # in units of the axes

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=float))
        if not self.x.shape == self.y.shape == (len(self.labels),):
            raise ValueError(
                f"group {self.name!r} has {self.x.shape} by {self.y.shape} points and {len(self.labels)} labels"
            )


@dataclass(frozen=True, eq=False)
class Scatter(Spec):
    """Groups of points on axes of one unit; `joined` draws a thin line through all groups' points of one place.

    A few points have their labels beside them; of more, a label is shown when its point is pointed at.
    """

    title: str
    groups: tuple[Points, ...]
    x_title: str = ""
    y_title: str = ""
    unit: str = ""
    joined: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if self.joined and len({len(group.labels) for group in self.groups}) > 1:
            raise ValueError(f"{self.title!r} joins groups of different numbers of points")


@dataclass(frozen=True, eq=False)
class Slides(Spec):
    """Curves or maps of one shape in several states, one at a time, chosen by a slider; the last is shown first."""

    title: str
    states: tuple[str, ...]  # one a figure
    figures: tuple[Curves, ...] | tuple[Heatmap, ...]
    slider_title: str = ""  # before the state's name
    note: str = ""

    def __post_init__(self) -> None:
        if not self.figures or len(self.states) != len(self.figures):
            raise ValueError(f"{self.title!r} has {len(self.figures)} figures and {len(self.states)} names for them")


@draw.register
def _(spec: Scatter, theme: Theme) -> go.Figure:
    ink, result = INK[theme], go.Figure()
    circles: list[dict[str, Any]] = []
    if spec.joined and spec.groups:
        gap = np.full((1, len(spec.groups[0].labels)), np.nan)
        line = {"width": 0.7, "color": transparent(ink.faint, 0.6)}
        x, y = (np.concatenate([[getattr(g, axis) for g in spec.groups], gap]).T.ravel() for axis in ("x", "y"))
        result.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False))
    named = not spec.joined and sum(len(group.labels) for group in spec.groups) <= NAMED
    for place, group in enumerate(spec.groups):
        colour = line_colour(group.palette, theme) if group.palette else ink.lines[place % len(ink.lines)]
        beside = [plotly_text(shortened(visible(label), WIDE)) for label in group.labels] if named else None
        result.add_trace(
            go.Scatter(
                x=group.x,
                y=group.y,
                name=plotly_text(group.name),
                mode="markers+text" if named else "markers",
                text=beside,
                textposition="bottom center" if place % 2 else "top center",
                textfont={"size": 11, "color": ink.text},
                cliponaxis=False,
                marker={"size": 7, "color": transparent(colour, 0.75), "symbol": SYMBOLS[place % len(SYMBOLS)]},
                customdata=[f"<b>{plotly_text(label)}</b><br>{plotly_text(group.name)}" for label in group.labels],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
        circle = {"type": "circle", "line": {"width": 1, "color": transparent(colour, 0.6)}, "layer": "below"}
        circles += [
            {**circle, "x0": x - r, "x1": x + r, "y0": y - r, "y1": y + r}
            for x, y, r in zip(group.x.tolist(), group.y.tolist(), group.radii, strict=False)
        ]
    result.update_xaxes(title_text=axis_title(spec.x_title, spec.unit))
    result.update_yaxes(title_text=axis_title(spec.y_title, spec.unit), scaleanchor="x", scaleratio=1)
    return result.update_layout(height=460, showlegend=len(spec.groups) > 1, shapes=circles)


@draw.register
def _(spec: Slides, theme: Theme) -> go.Figure:
    ink, drawn = INK[theme], [draw(figure, theme) for figure in spec.figures]
    shown = len(drawn) - 1
    result = go.Figure(layout=drawn[shown].layout)
    owner = [place for place, figure in enumerate(drawn) for _ in figure.data]
    for place, figure in enumerate(drawn):
        result.add_traces([trace.update(visible=place == shown) for trace in figure.data])
    steps = [
        {
            "method": "update",
            "label": tick(name),
            "args": [{"visible": [place == one for one in owner]}],
        }
        for place, name in enumerate(spec.states)
    ]
    curves = [figure for figure in spec.figures if isinstance(figure, Curves)]
    below = 46 if curves else 76  # the names of a map's columns stand between it and the slider
    slider: dict[str, Any] = {
        "active": shown,
        "steps": steps,
        "pad": {"t": below},
        "currentvalue": {"prefix": plotly_text(f"{spec.slider_title} ".lstrip()), "font": {"size": 12}},
        "font": {"size": 10, "color": ink.faint},
        "bgcolor": ink.grid,
        "activebgcolor": ink.accent,
        "bordercolor": ink.grid,
        "tickcolor": ink.faint,
    }
    if curves:
        result.update_xaxes(range=_range([figure.x for figure in curves], False))
        heights = _range([one.y for figure in curves for one in figure.series], curves[-1].log_y)
        labels = log_ticks(10 ** heights[0], 10 ** heights[1]) if curves[-1].log_y else {}
        blank = {"dtick": None, "tickvals": None, "ticktext": None}  # those of the shown state are not those of all
        result.update_yaxes(range=heights, **{**blank, "tickmode": None, **labels})
    return result.update_layout(sliders=[slider], height=drawn[shown].layout.height + below + 44)


@svg.register
def _(spec: Slides) -> str | None:
    """The state that is shown first."""
    return svg(spec.figures[-1])


def _range(arrays: list[np.ndarray], log: bool) -> list[float]:
    """From the smallest to the largest of all, with a little room; in powers of ten on a logarithmic axis."""
    seen = np.concatenate([np.zeros(0), *arrays])
    seen = seen[np.isfinite(seen) & ((seen > 0) | (not log))]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (1.0, 1.0)
    if log:
        low, high = float(np.log10(low)), float(np.log10(high))
    room = 0.04 * (high - low) or 0.5
    return [low - room, high + room]
