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

from factscope.plots.colours import INK, Theme, colour_at, colour_scale, grey_scale, ink_on, line_colour, transparent
from factscope.plots.escape import plotly_text, slug, visible
from factscope.plots.labels import (
    LONGEST_CELL,
    LONGEST_TICK,
    axis_title,
    cell_hover,
    column_tick,
    hover_unit,
    row_ticks,
    runs,
    step,
    tick,
)
from factscope.plots.specs import Bars, Curves, Heatmap, Series, Spec

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', sans-serif"
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
        template="none",  # every colour that we show is set here, so a notebook's template changes nothing
        paper_bgcolor=ink.paper if titled else "rgba(0,0,0,0)",
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
def draw(spec: Spec, _: Theme) -> go.Figure:
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
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
        "xgap": 1 if len(spec.columns) <= 60 else 0,
        "ygap": 1 if len(spec.rows) <= 60 else 0,
    }
    bar_title = {"text": axis_title(spec.value_title, spec.unit), "side": "right", "font": {"color": ink.faint}}
    bar = {
        "title": bar_title,
        "thickness": 10,
        "outlinewidth": 0,
        "len": 1,
        "tickfont_size": 11,
        "nticks": 6,
        "xpad": 6,
    }
    if spec.ranks:
        powers = range(int(-low + 0.001) + 1)
        bar |= {"tickvals": [-power for power in powers], "ticktext": [f"{10**power:,}" for power in powers]}
    colours = colour_scale(spec.scale, spec.palette, theme)
    counted, greyed = np.where(counts, spec.values, np.nan), np.where(counts, np.nan, spec.values)
    said = cell_hover(spec)
    parts = [
        [[text if own else "" for text, own in zip(row, which, strict=True)] for row in said]
        for which in (counts, ~counts)
    ]
    result = go.Figure(go.Heatmap(z=counted, colorscale=colours, colorbar=bar, customdata=parts[0], **shared))
    if spec.left_out:
        grey = {"colorscale": grey_scale(theme), "showscale": False, "customdata": parts[1]}
        result.add_trace(go.Heatmap(z=greyed, **grey, **shared))
    _write_cells(result, spec, theme)
    _place_columns_and_rows(result, spec, theme)
    for first, last in runs(spec.marked):
        _add_bracket(result, first - 0.42, last + 0.42, spec.marked_title, ink.accent)
    pitch = 14 if spec.cell_labels is None else 18  # pixels per row
    return result.update_layout(height=int(np.clip(pitch * len(spec.rows), 180, 45 * pitch)) + 120)


def _write_cells(result: go.Figure, spec: Heatmap, theme: Theme) -> None:
    """The words in the cells, black or white as their colours ask for: plotly's own are a grey on middle tones."""
    if spec.cell_labels is None:
        return
    low, high = spec.colour_limits()
    share = np.clip((spec.values - low) / ((high - low) or 1.0), 0, 1)
    scales = (colour_scale(spec.scale, spec.palette, theme), grey_scale(theme))
    cells = [(int(row), int(column)) for row, column in np.argwhere(np.isfinite(share))]
    words = go.Scatter(
        x=[column for _, column in cells],
        y=[row for row, _ in cells],
        text=[tick(str(spec.cell_labels[cell]), LONGEST_CELL) for cell in cells],
        textfont={
            "size": 10,
            "color": [ink_on(colour_at(scales[column in spec.left_out], share[row, column])) for row, column in cells],
        },
        mode="text",
        hoverinfo="skip",
        showlegend=False,
    )
    result.add_trace(words)


def _place_columns_and_rows(result: go.Figure, spec: Heatmap, theme: Theme) -> None:
    result.update_xaxes(
        title_text=plotly_text(spec.column_title),
        tickvals=list(range(len(spec.columns))),
        ticktext=[column_tick(spec, column, theme) for column in range(len(spec.columns))],
        autotickangles=[0, -45, -90],
        range=[-0.5, len(spec.columns) - 0.5],
        showgrid=False,
        ticks="",
    )
    ticks = row_ticks(spec.rows)
    result.update_yaxes(
        title_text=plotly_text(spec.row_title),
        tickvals=ticks,
        ticktext=[tick(spec.rows[row]) for row in ticks],
        range=[-0.5, len(spec.rows) - 0.5],
        showgrid=False,
        ticks="",
    )


@draw.register
def _(spec: Curves, theme: Theme) -> go.Figure:
    ink, result = INK[theme], go.Figure()
    names = [plotly_text(visible(label)) for label in spec.x_labels]
    for place, series in enumerate(spec.series):
        name = plotly_text(series.name)
        colour = line_colour(series.palette, theme) if series.palette else ink.lines[place % len(ink.lines)]
        group: dict[str, Any] = {"legendgroup": str(place), "x": names or spec.x}
        whisker = _add_band(result, spec, series, colour, group)
        wider = 2 if any(_beneath(spec, series, later) for later in spec.series[place + 1 :]) else 1
        result.add_trace(
            go.Scatter(
                y=_on_axis(spec, series.y, np.nan),  # left out, not moved
                name=name,
                mode="lines+markers" if len(spec.x) <= 40 else "lines",
                line={"color": colour, "width": 2 * wider, "dash": DASHES[place // len(ink.lines) % len(DASHES)]},
                marker={"size": 5 * wider},
                error_y=whisker,
                hovertemplate=f"{name}: %{{y:.4g}}{hover_unit(spec.unit)}<extra></extra>",
                **group,
            )
        )
    ticks: dict[str, Any] = {}
    if spec.x_labels:
        every = int(step(float(len(spec.x_labels)), most=16))  # as many names as can be read side by side
        labels = [tick(label) for label in spec.x_labels[::every]]
        ticks = {"tickvals": names[::every], "ticktext": labels, "autotickangles": [0, -45, -90]}
        ticks |= {"type": "category", "categoryarray": names}  # so that the hover text, too, has the name
    elif len(spec.x) and np.array_equal(spec.x, spec.x.round()):
        ticks = {"dtick": step(float(np.ptp(spec.x)), most=12), "tick0": 0}  # no half layers
    spike = {"spikecolor": ink.faint, "spikethickness": 1, "spikedash": "dot"}
    heading = {"text": f"{plotly_text(spec.x_title)} %{{x}}"}
    result.update_xaxes(
        title_text=plotly_text(spec.x_title), showgrid=False, unifiedhovertitle=heading, **ticks, **spike
    )
    result.update_yaxes(title_text=axis_title(spec.y_title, spec.unit), **_y_axis(spec))
    return result.update_layout(height=380, hovermode="x unified", showlegend=len(spec.series) > 1)


def _add_band(
    result: go.Figure, spec: Curves, series: Series, colour: str, group: dict[str, Any]
) -> dict[str, Any] | None:
    """The interval of a line as a band; that of a single point, which has no breadth, as the bar that is returned."""
    if series.low is None or series.high is None:
        return None
    if np.isfinite(series.y).sum() == 1:
        reach = {"array": series.high - series.y, "arrayminus": series.y - series.low}
        return {"type": "data", "symmetric": False, "thickness": 1.2, "width": 4, "color": colour, **reach}
    edge = {"mode": "lines", "line": {"width": 0, "color": colour}, "hoverinfo": "skip", "showlegend": False}
    lowest = float(_positive(spec).min())  # where a band reaches below zero, it ends at the lowest thing seen
    low, high = (_on_axis(spec, array, lowest) for array in (series.low, series.high))
    result.add_trace(go.Scatter(y=low, **edge, **group))
    result.add_trace(go.Scatter(y=high, fill="tonexty", fillcolor=transparent(colour, 0.18), **edge, **group))
    return None


def _beneath(spec: Curves, series: Series, later: Series) -> bool:
    """Whether a line lies wholly under one that is drawn after it: it is then drawn wider, so that both are seen."""
    there, seen = np.isfinite(series.y), spec.seen()
    if not there.any():
        return False
    relative, absolute = (0.004, 0.0) if spec.log_y else (0.0, 0.004 * float(np.ptp(seen)) + 1e-12)
    return bool(np.allclose(series.y[there], later.y[there], rtol=relative, atol=absolute))


@draw.register
def _(spec: Bars, theme: Theme) -> go.Figure:
    places = list(range(len(spec.labels)))
    names = [plotly_text(visible(label)) for label in spec.labels]
    errors = [""] * len(names) if spec.errors is None else [f" ± {error:.2g}" for error in spec.errors]
    amounts = [f"{value:.4g}{error}{hover_unit(spec.unit)}" for value, error in zip(spec.values, errors, strict=True)]
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
    result.update_xaxes(title_text=axis_title(spec.value_title, spec.unit))
    result.update_yaxes(
        tickvals=places,
        ticktext=[tick(label, 2 * LONGEST_TICK) for label in spec.labels],
        range=[len(places) - 0.5, -0.5],
        showgrid=False,
    )
    return result.update_layout(height=24 * len(places) + 100, bargap=0.25)


def as_json(spec: Spec, theme: Theme) -> dict[str, Any]:
    """Data and layout of the untitled figure, in plain lists and strings (numbers packed as plotly packs them)."""
    plain: dict[str, Any] = json.loads(str(figure(spec, theme, titled=False).to_json()))
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
    """Linear, or logarithmic with labels at the powers of ten alone as soon as there are three of them.

    Over fewer, every label is a whole number: plotly would write 20 as a small 2.
    """
    wide = spec.widened()
    if not spec.log_y:
        return {"type": "linear"} | ({"range": list(wide)} if wide else {})
    if wide:
        return {"type": "log", "range": np.log10(wide).tolist()}
    seen = _positive(spec)
    return {"type": "log"} | log_ticks(float(seen.min()), float(seen.max()))


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """The labels of a logarithmic axis over such values, as `_y_axis` says."""
    decades = float(np.log10(high / low))
    if decades > 2:
        return {"dtick": step(decades, most=8)}
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.log10(high) + 1)
    ticks = np.outer(powers, (1, 2, 5) if decades > 0.7 else np.arange(1, 10)).ravel()
    shown = ticks[(ticks >= low / 1.001) & (ticks <= high * 1.001)]
    return {} if len(shown) < 2 else {"tickvals": shown.tolist(), "ticktext": [f"{tick:.6g}" for tick in shown]}


def _on_axis(spec: Curves, array: np.ndarray, otherwise: float) -> np.ndarray:
    """What a logarithmic axis has no place for, a value of zero or below, becomes what the caller says instead."""
    return np.where(array > 0, array, otherwise) if spec.log_y else array


def _positive(spec: Curves) -> np.ndarray:
    """Every value that a logarithmic axis can show; a 1 if there is none."""
    seen = spec.seen()
    return seen[seen > 0] if (seen > 0).any() else np.ones(1)
