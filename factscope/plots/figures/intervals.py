"""Several things measured in several ways, each as a point with its interval: rows of names, one mark a group.

The marks of one row stand a little under each other, so that intervals can be compared and none hides another.
Importing this file registers the drawing.
"""

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from factscope.plots.colours import INK, Theme
from factscope.plots.escape import plotly_text, visible
from factscope.plots.figures.slides import SYMBOLS
from factscope.plots.labels import LONGEST_TICK, axis_title, hover_unit, tick
from factscope.plots.render import draw
from factscope.plots.specs import Spec

ROOM = 0.7  # of a row's height, shared by its marks


@dataclass(frozen=True, eq=False)
class Group:
    """One value a row, with the ends of its interval; NaN where there is none."""

    name: str
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    aside: bool = False  # drawn faintly: what the others are held against

    def __post_init__(self) -> None:
        for name in ("values", "low", "high"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=float))


@dataclass(frozen=True, eq=False)
class Intervals(Spec):
    """Rows of names, the first on top, with a mark for each group."""

    title: str
    rows: tuple[str, ...]
    groups: tuple[Group, ...]
    value_title: str = ""
    unit: str = ""
    limits: tuple[float, float] | None = None  # of the axis; by the data where none are given
    note: str = ""

    def __post_init__(self) -> None:
        for group in self.groups:
            if {group.values.shape, group.low.shape, group.high.shape} != {(len(self.rows),)}:
                raise ValueError(f"{self.title!r} has {len(self.rows)} rows, group {group.name!r} another number")


@draw.register
def _(spec: Intervals, theme: Theme) -> go.Figure:
    ink, result = INK[theme], go.Figure()
    count, coloured = len(spec.groups), 0
    for place, group in enumerate(spec.groups):
        colour = ink.faint if group.aside else ink.lines[coloured % len(ink.lines)]
        coloured += not group.aside
        name, seen = plotly_text(group.name), np.flatnonzero(np.isfinite(group.values))
        values, low, high = (array[seen] for array in (group.values, group.low, group.high))
        said = [
            f"<b>{plotly_text(visible(spec.rows[row]))}</b><br>{name}: {value:.3f}"
            f"{'' if np.isnan(a) else f' [{a:.3f}, {b:.3f}]'}"
            f"{hover_unit(spec.unit)}"
            for row, value, a, b in zip(seen, values, low, high, strict=True)
        ]
        result.add_trace(
            go.Scatter(
                x=values,
                y=seen + ROOM * ((place + 0.5) / count - 0.5),
                name=name,
                mode="markers",
                marker={"size": 8, "color": colour, "symbol": SYMBOLS[place % len(SYMBOLS)]},
                error_x={
                    "array": high - values, "arrayminus": values - low,
                    "color": colour, "thickness": 1.4, "width": 0,
                },
                customdata=said,
                hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    for row in range(1, len(spec.rows)):
        result.add_hline(row - 0.5, line={"color": ink.grid, "width": 1})
    result.update_xaxes(title_text=axis_title(spec.value_title, spec.unit), range=spec.limits)
    result.update_yaxes(
        tickvals=list(range(len(spec.rows))),
        ticktext=[tick(label, 2 * LONGEST_TICK) for label in spec.rows],
        range=[len(spec.rows) - 0.5, -0.5],
        showgrid=False,
    )
    return result.update_layout(height=max(34, 13 * count) * len(spec.rows) + 110, showlegend=count > 1)
