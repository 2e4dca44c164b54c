"""From a spec to a plotly figure: the only file that knows plotly.

`figure(spec)` is what a notebook shows and what a page draws. `draw` holds one function per kind of spec and adds the
data and the axes; colours, fonts, title and size around them are the same for all and are set once, here. Every text
passes through `plotly_text`, and every position is a number, so that a token can neither be obeyed as markup nor merge
with an equal one.
"""

import json
import textwrap
from functools import singledispatch
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from workbench.plots.colours import INK, Theme, colour_scale, grey_scale, line_colour, transparent
from workbench.plots.escape import plotly_text, shortened, slug, visible
from workbench.plots.specs import Bars, Curves, Heatmap, Spec

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', sans-serif"
LONGEST_CELL = 8
LONGEST_TICK = 18  # characters; a longer token is cut on the axis and whole in the hover text
TITLE_WIDTH, CAPTION_WIDTH = 70, 110  # characters
DASHES = ("solid", "dash", "dot", "dashdot")  # change once all colours have been used


def figure(spec: Spec, theme: Theme = "light", titled: bool = True) -> go.Figure:
    """The plotly figure of a graphical spec; untitled where the page around it carries title and caption."""
    ink, result = INK[theme], draw(spec, theme)
    axis = {
        "gridcolor": ink.grid,
        "linecolor": ink.grid,
        "zeroline": False,
        "automargin": True,
        "title": {"font": {"color": ink.faint, "size": 12}, "standoff": 10},
        "tickfont": {"size": 11},
    }
    result.update_xaxes(axis).update_yaxes(axis)
    result.update_layout(
        font={"family": FONT, "size": 12, "color": ink.text},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 12, "r": 12, "t": 30 if result.layout.annotations or result.layout.showlegend else 8, "b": 12},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": ink.faint, "activecolor": ink.text},
        hoverlabel={
            "bgcolor": ink.paper,
            "bordercolor": ink.faint,
            "font": {"family": FONT, "size": 12, "color": ink.text},
            "align": "left",
        },
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "font": {"size": 12}},
    )
    if titled:
        _add_title(result, spec, theme)
    return result


@singledispatch
def draw(spec: Spec, theme: Theme) -> go.Figure:
    """Data and axes of one kind of spec; register a function here to add a kind."""
    raise TypeError(f"{type(spec).__name__} is not drawn by plotly")


def is_figure(spec: Spec) -> bool:
    """Whether this kind of spec is drawn by plotly; the others are HTML."""
    return draw.dispatch(type(spec)) is not draw.dispatch(object)


@draw.register
def _(spec: Heatmap, theme: Theme) -> go.Figure:
    ink, (low, high) = INK[theme], spec.colour_limits()
    counts = np.ones(len(spec.columns), dtype=bool)
    counts[list(spec.left_out)] = False
    shared: dict[str, Any] = {
        "x": list(range(len(spec.columns))),
        "y": list(range(len(spec.rows))),
        "zmin": low,
        "zmax": high,
        "customdata": _cell_hover(spec),
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
        "xgap": 1 if len(spec.columns) <= 60 else 0,
        "ygap": 1 if len(spec.rows) <= 60 else 0,
    }
    if spec.cell_labels is not None:
        shared["text"] = [
            [plotly_text(shortened(visible(str(label)), LONGEST_CELL)) for label in row] for row in spec.cell_labels
        ]
        shared["texttemplate"] = "%{text}"
        shared["textfont"] = {"size": 10}
    bar = {
        "title": {
            "text": plotly_text(_with_unit(spec.value_title, spec.unit)),
            "side": "right",
            "font": {"color": ink.faint},
        },
        "thickness": 10,
        "outlinewidth": 0,
        "len": 1,
        "tickfont": {"size": 11},
        "nticks": 6,
        "xpad": 6,
    }
    result = go.Figure(
        go.Heatmap(
            z=np.where(counts, spec.values, np.nan),
            colorscale=colour_scale(spec.scale, spec.palette, theme),
            colorbar=bar,
            **shared,
        )
    )
    if spec.left_out:
        greyed = np.where(counts, np.nan, spec.values)
        result.add_trace(go.Heatmap(z=greyed, colorscale=grey_scale(theme), showscale=False, **shared))
    result.update_xaxes(
        title_text=plotly_text(spec.column_title),
        tickvals=shared["x"],
        ticktext=[_column_tick(spec, column, theme) for column in shared["x"]],
        autotickangles=[0, -45, -90],
        range=[-0.5, len(spec.columns) - 0.5],
        showgrid=False,
        ticks="",
    )
    ticks = _row_ticks(spec.rows)
    result.update_yaxes(
        title_text=plotly_text(spec.row_title),
        tickvals=ticks,
        ticktext=[plotly_text(shortened(visible(spec.rows[row]), LONGEST_TICK)) for row in ticks],
        range=[-0.5, len(spec.rows) - 0.5],
        showgrid=False,
        ticks="",
    )
    for first, last in _runs(spec.marked):
        _add_bracket(result, first - 0.42, last + 0.42, spec.marked_title, ink.accent)
    pitch = 14 if spec.cell_labels is None else 18  # pixels per row
    return result.update_layout(height=int(np.clip(pitch * len(spec.rows), 180, 45 * pitch)) + 120)


@draw.register
def _(spec: Curves, theme: Theme) -> go.Figure:
    ink, result = INK[theme], go.Figure()
    for place, series in enumerate(spec.series):
        name = plotly_text(series.name)
        colour = line_colour(series.palette, theme) if series.palette else ink.lines[place % len(ink.lines)]
        y, low, high = (_positive(array) if spec.log_y else array for array in (series.y, series.low, series.high))
        group = {"legendgroup": str(place), "x": spec.x, "mode": "lines"}
        if low is not None and high is not None:
            edge = {"line": {"width": 0, "color": colour}, "hoverinfo": "skip", "showlegend": False, **group}
            result.add_trace(go.Scatter(y=low, **edge))
            result.add_trace(go.Scatter(y=high, fill="tonexty", fillcolor=transparent(colour, 0.18), **edge))
        result.add_trace(
            go.Scatter(
                y=y,
                name=name,
                line={"color": colour, "width": 2, "dash": DASHES[place // len(ink.lines) % len(DASHES)]},
                marker={"size": 5},
                hovertemplate=f"{name}: %{{y:.4g}}{_hover_unit(spec.unit)}<extra></extra>",
                **(group | {"mode": "lines+markers" if len(spec.x) <= 40 else "lines"}),
            )
        )
    ticks: dict[str, Any] = {}
    if spec.x_labels:
        labels = [plotly_text(shortened(visible(label), LONGEST_TICK)) for label in spec.x_labels]
        ticks = {"tickvals": spec.x, "ticktext": labels, "autotickangles": [0, -45, -90]}
    elif len(spec.x) and np.array_equal(spec.x, spec.x.round()):
        ticks = {"dtick": _step(float(np.ptp(spec.x)), most=12), "tick0": 0}  # no half layers
    spike = {"spikecolor": ink.faint, "spikethickness": 1, "spikedash": "dot"}
    heading = {"text": f"{plotly_text(spec.x_title)} %{{x}}"}
    result.update_xaxes(
        title_text=plotly_text(spec.x_title), showgrid=False, unifiedhovertitle=heading, **ticks, **spike
    )
    result.update_yaxes(title_text=plotly_text(_with_unit(spec.y_title, spec.unit)), **_y_axis(spec))
    return result.update_layout(height=380, hovermode="x unified", showlegend=len(spec.series) > 1)


@draw.register
def _(spec: Bars, theme: Theme) -> go.Figure:
    places = list(range(len(spec.labels)))
    names = [plotly_text(visible(label)) for label in spec.labels]
    errors = [""] * len(names) if spec.errors is None else [f" ± {error:.2g}" for error in spec.errors]
    amounts = [f"{value:.4g}{error}{_hover_unit(spec.unit)}" for value, error in zip(spec.values, errors, strict=True)]
    result = go.Figure(
        go.Bar(
            x=spec.values,
            y=places,
            orientation="h",
            marker={"color": line_colour(spec.palette, theme), "line": {"width": 0}},
            error_x=None
            if spec.errors is None
            else {"array": spec.errors, "color": INK[theme].faint, "thickness": 1.2},
            customdata=[f"<b>{name}</b><br>{amount}" for name, amount in zip(names, amounts, strict=True)],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    result.update_xaxes(title_text=plotly_text(_with_unit(spec.value_title, spec.unit)))
    result.update_yaxes(
        tickvals=places,
        ticktext=[plotly_text(shortened(visible(label), 2 * LONGEST_TICK)) for label in spec.labels],
        range=[len(places) - 0.5, -0.5],
        showgrid=False,
    )
    return result.update_layout(height=24 * len(places) + 100, bargap=0.25)


def as_json(spec: Spec, theme: Theme) -> dict[str, Any]:
    """Data and layout of the untitled figure, in plain lists and strings (numbers packed as plotly packs them)."""
    plain: dict[str, Any] = json.loads(str(figure(spec, theme, titled=False).to_json()))
    plain["layout"].pop("template", None)  # every colour that we show is set above; the template is 7 kB of others
    return plain


def config(spec: Spec) -> dict[str, Any]:
    """How the figure behaves: resizes, exports under a telling name, uploads nothing, takes nothing for a formula."""
    return {
        "responsive": True,
        "displaylogo": False,
        "typesetMath": False,
        "showSendToCloud": False,  # plotly.js 4 offers to upload the figure
        "plotlyServerURL": "",
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
        "toImageButtonOptions": {"filename": slug(spec.title), "format": "png", "scale": 3},
    }


def notebook_bundle(spec: Spec) -> dict[str, Any]:
    """What a notebook shows: plotly's own choice of formats, with our behaviour."""
    bundle: dict[str, Any] = figure(spec)._repr_mimebundle_()
    for content in bundle.values():
        if isinstance(content, dict) and "config" in content:
            content["config"] = content["config"] | config(spec)
    return bundle


def title(spec: Spec) -> str:
    """The title in lines that fit over a figure."""
    return "<br>".join(plotly_text(line) for line in textwrap.wrap(spec.title, TITLE_WIDTH))


def plotly_script() -> str:
    """The library itself, for pages that work without a network."""
    return str(get_plotlyjs())


def _add_title(result: go.Figure, spec: Spec, theme: Theme) -> None:
    caption = textwrap.wrap(spec.caption(), CAPTION_WIDTH)
    size = result.layout.height
    above = 16 + 20 * (1 + title(spec).count("<br>")) + 17 * len(caption)
    result.update_layout(
        title={
            "text": title(spec),
            "subtitle": {
                "text": "<br>".join(plotly_text(line) for line in caption),
                "font": {"size": 12, "color": INK[theme].faint},
            },
            "font": {"size": 15},
            "x": 0.012,
            "y": 1 - 24 / (size + above),
            "yanchor": "top",
        },
        height=size + above,
        margin_t=result.layout.margin.t + above,
    )


def _cell_hover(spec: Heatmap) -> list[list[str]]:
    """One text per cell: where it is, what it holds, and whatever else the spec knows about it."""
    columns = [f"<b>{plotly_text(visible(label))}</b>" for label in spec.columns]
    rows = [plotly_text(f"{spec.row_title} {visible(label)}".strip()) for label in spec.rows]
    value, unit = plotly_text(spec.value_title or "value"), _hover_unit(spec.unit)
    further = {plotly_text(name): array for name, array in spec.hover.items()}

    def lines(row: int, column: int) -> str:
        place = f"{columns[column]} {plotly_text(spec.column_title)} {column} · {rows[row]}"
        amounts = [f"{name} {_amount(array[row, column])}" for name, array in further.items()]
        return "<br>".join([place, f"{value} {_amount(spec.values[row, column])}{unit}", *amounts])

    return [[lines(row, column) for column in range(len(columns))] for row in range(len(rows))]


def _amount(value: Any) -> str:
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return f"{float(value):.4g}"
    return plotly_text(visible(str(value)))


def _column_tick(spec: Heatmap, column: int, theme: Theme) -> str:
    label = plotly_text(shortened(visible(spec.columns[column]), LONGEST_TICK))
    if column in spec.left_out:
        return f'<span style="color:{INK[theme].faint}"><i>{label}</i></span>'
    return f'<b style="color:{INK[theme].accent}">{label}</b>' if column in spec.marked else label


def _row_ticks(rows: tuple[str, ...]) -> list[int]:
    """Names all get a tick; counted layers only every second or fifth, from zero, if there are many."""
    counted = all(label.isdecimal() for label in rows)
    return list(range(0, len(rows), _step(len(rows), most=16) if counted else 1))


def _step(length: float, most: int) -> int:
    """The smallest round step (1, 2, 5, 10, ...) that needs no more ticks than this."""
    return next(
        step for power in range(9) for step in (10**power, 2 * 10**power, 5 * 10**power) if length / step <= most
    )


def _runs(columns: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and last of every unbroken stretch."""
    ordered = sorted(set(columns))
    firsts = [column for column in ordered if column - 1 not in ordered]
    lasts = [column for column in ordered if column + 1 not in ordered]
    return list(zip(firsts, lasts, strict=True))


def _add_bracket(result: go.Figure, left: float, right: float, name: str, colour: str) -> None:
    """A thin bracket above the columns, its name on it; measured in pixels, so that it looks the same at any height."""
    path = f"M {left} 2 L {left} 7 L {right} 7 L {right} 2"
    result.add_shape(
        type="path",
        path=path,
        xref="x",
        yref="paper",
        yanchor=1,
        ysizemode="pixel",
        line={"color": colour, "width": 1.5},
    )
    result.add_annotation(
        text=plotly_text(name), x=(left + right) / 2, xref="x", y=1, yref="paper", yanchor="bottom", yshift=7,
        showarrow=False, font={"color": colour, "size": 11},
    )  # fmt: skip


def _y_axis(spec: Curves) -> dict[str, Any]:
    """Linear, or logarithmic with labels at the powers of ten alone as soon as there are three of them."""
    if not spec.log_y:
        return {"type": "linear"}
    seen = np.concatenate([one.y[one.y > 0] for one in spec.series] or [np.ones(1)])
    decades = float(np.log10(seen.max() / seen.min())) if seen.size else 0.0
    return {"type": "log", "dtick": _step(decades, most=8)} if decades > 2 else {"type": "log"}


def _positive(array: np.ndarray | None) -> np.ndarray | None:
    """For a logarithmic axis, which has no place for zero: such points are left out, not moved."""
    return None if array is None else np.where(array > 0, array, np.nan)


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if name and unit else name or unit


def _hover_unit(unit: str) -> str:
    return f" {plotly_text(unit)}" if unit else ""
