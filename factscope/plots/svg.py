"""A figure as a small, still picture (SVG), where no script will run.

A saved notebook is read on code hosts, in mails and in exports, where plotly's scripts are taken out; and with them, a
figure and its library would make a notebook megabytes large. So a result that shows itself in a notebook shows these:
the same specs, colours and labels as on the page, some kilobytes each. Maps, curves and bars are drawn here; a network,
which is SVG on the page too, shows its first picture (figures/network.py).
"""

import base64
import html
from functools import singledispatch

import numpy as np

from factscope.plots.colours import INK, ColourScale, colour_at, colour_scale, grey_scale, ink_on, line_colour
from factscope.plots.escape import html_text, shortened, visible
from factscope.plots.labels import axis_title, step
from factscope.plots.specs import Bars, Curves, Heatmap, Spec

INKS = INK["light"]  # a still picture is read on white, wherever it ends up
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 560, 46, 84, 24, 64  # pixels; the room around the data
WORD, ROW = 48, 13  # pixels of a cell that has a word in it


@singledispatch
def svg(_: Spec) -> str | None:
    """The picture of a spec as an SVG document; None for a kind that is not drawn still."""
    return None


def has_still(spec: Spec) -> bool:
    """Whether this kind of spec is drawn still."""
    return svg.dispatch(type(spec)) is not svg.dispatch(object)


def image(spec: Spec) -> str | None:
    """The picture as an HTML `img`, its data inside, so that no host strips or misreads it; None as in `svg`."""
    drawn = svg(spec)
    if drawn is None:
        return None
    data = base64.b64encode(drawn.encode()).decode()
    return f'<img alt="{html_text(spec.title)}" src="data:image/svg+xml;base64,{data}" style="max-width:100%">'


@svg.register
def _(spec: Heatmap) -> str:
    rows, columns = spec.values.shape
    wide, pitch = (WIDTH - LEFT - RIGHT) / max(columns, 1), float(np.clip(300 / max(rows, 1), 5, 18))
    if spec.cell_labels is not None:
        wide, pitch = max(wide, WORD), max(pitch, ROW)
    right = LEFT + max(columns, 1) * wide
    high, (low, top) = pitch * rows, spec.colour_limits()
    share = np.clip((spec.values - low) / (top - low), 0, 1)
    colours, greys = colour_scale(spec.scale, spec.palette, "light"), grey_scale("light")
    paths: dict[str, list[str]] = {}  # one path a colour: a map of hundreds of cells stays small
    for row in range(rows):
        for column in range(columns):
            if np.isfinite(share[row, column]):
                scale = greys if column in spec.left_out else colours
                x, y = LEFT + column * wide, TOP + high - (row + 1) * pitch
                place = f"M{x:.1f} {y:.1f}h{wide:.1f}v{pitch:.1f}h-{wide:.1f}z"
                paths.setdefault(colour_at(scale, share[row, column]), []).append(place)
    parts = [f'<path fill="{colour}" d="{"".join(cells)}"/>' for colour, cells in paths.items()]
    parts += _words(spec, share, wide, pitch)
    every = int(step(float(rows), most=12)) if rows > 1 else 1
    for row in range(0, rows, every):
        parts.append(_text(LEFT - 5, TOP + high - (row + 0.5) * pitch + 4, spec.rows[row], "end"))
    every = max(1, round(columns / 28))
    for column in range(0, columns, every):
        label = shortened(visible(spec.columns[column]), 12)
        ink = INKS.accent if column in spec.marked else INKS.text
        parts.append(_text(LEFT + (column + 0.6) * wide, TOP + high + 12, label, "end", ink, turned=True))
    parts.append(_text(4, TOP - 8, spec.row_title, ink=INKS.faint))
    return _document(TOP + high + BOTTOM, [*parts, *_bar(spec, colours, (low, top), high, right)], right + RIGHT)


def _words(spec: Heatmap, share: np.ndarray, wide: float, pitch: float) -> list[str]:
    """What stands in the cells, in the ink that the cell's colour asks for."""
    if spec.cell_labels is None:
        return []
    rows, columns = spec.values.shape
    most, parts = int((wide - 4) / 5.2), []
    for row, column in np.ndindex(rows, columns):
        if not np.isfinite(share[row, column]):
            continue
        scale = grey_scale("light") if column in spec.left_out else colour_scale(spec.scale, spec.palette, "light")
        ink = ink_on(colour_at(scale, float(share[row, column])))
        x, y = LEFT + (column + 0.5) * wide, TOP + pitch * (rows - row - 0.5) + 3.2
        label = html_text(shortened(visible(str(spec.cell_labels[row, column])), most))
        parts.append(f'<text x="{x:.0f}" y="{y:.1f}" fill="{ink}">{label}</text>')
    return [f'<g font-size="9" text-anchor="middle">{"".join(parts)}</g>']


def _bar(spec: Heatmap, colours: ColourScale, limits: tuple[float, float], high: float, right: float) -> list[str]:
    """The colour scale beside a map, its ends and what it measures."""
    low, top = limits
    x, piece = right + 14, high / 32
    parts = [
        f'<rect x="{x}" y="{TOP + high - (n + 1) * piece:.1f}" width="9" height="{piece + 0.5:.1f}" '
        f'fill="{colour_at(colours, (n + 0.5) / 32)}"/>'
        for n in range(32)
    ]
    ends = [f"{10**-end:,.0f}" if spec.ranks else f"{end + 0.0:.3g}" for end in (top, low)]
    parts += [_text(x + 13, TOP + 9, ends[0]), _text(x + 13, TOP + high, ends[1])]
    return [*parts, _text(right + RIGHT - 4, TOP - 8, _measured(spec.value_title, spec.unit), "end", INKS.faint)]


@svg.register
def _(spec: Curves) -> str:
    high = 220.0
    seen = spec.seen()
    seen = seen[seen > 0] if spec.log_y else seen
    low, top = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    if not spec.log_y:
        low = min(low, 0.0) if low < 0.3 * top else low
    low, top = spec.widened() or (low, top)
    first, last = (float(spec.x.min()), float(spec.x.max())) if spec.x.size else (0.0, 1.0)

    def down(y: np.ndarray) -> np.ndarray:
        y, ends = (np.log(y.clip(low)), (np.log(low), np.log(top))) if spec.log_y else (y, (low, top))
        return TOP + high - high * (y - ends[0]) / ((ends[1] - ends[0]) or 1.0)

    across = LEFT + (WIDTH - LEFT - RIGHT) * (spec.x - first) / ((last - first) or 1.0)
    parts = [f'<path stroke="{INKS.grid}" d="M{LEFT} {TOP}V{TOP + high}H{WIDTH - RIGHT}" fill="none"/>']
    for place, series in enumerate(spec.series):
        colour = line_colour(series.palette, "light") if series.palette else INKS.lines[place % len(INKS.lines)]
        if series.low is not None and series.high is not None:
            band = [
                *zip(across, down(series.low), strict=True),
                *zip(across[::-1], down(series.high)[::-1], strict=True),
            ]
            parts.append(f'<path fill="{colour}" fill-opacity=".18" d="{_line(band)}z"/>')
        points = list(zip(across, down(series.y), strict=True))
        parts.append(f'<path fill="none" stroke="{colour}" stroke-width="1.8" d="{_line(points)}"/>')
        parts.append(_text(LEFT + 8 + 170 * (place % 3), TOP + high + 48 + 14 * (place // 3), series.name, ink=colour))
    parts += [
        _text(LEFT - 5, TOP + 6, f"{top + 0.0:.3g}", "end"),
        _text(LEFT - 5, TOP + high, f"{low + 0.0:.3g}", "end"),
    ]
    every = int(step(float(len(spec.x)), most=12)) if len(spec.x) > 1 else 1
    free = 0.0
    for place in range(0, len(spec.x), every):
        label = spec.x_labels[place] if spec.x_labels else f"{spec.x[place]:g}"
        if across[place] < free:  # it would stand on the last one
            continue
        free = float(across[place]) + 26
        parts.append(_text(float(across[place]), TOP + high + 16, shortened(label, 10), "middle"))
    parts.append(_text(LEFT, TOP - 8, _measured(spec.y_title, spec.unit), ink=INKS.faint))
    parts.append(_text(WIDTH - RIGHT, TOP + high + 31, spec.x_title, "end", INKS.faint))
    return _document(TOP + high + BOTTOM + 14 * (len(spec.series) // 3), parts)


@svg.register
def _(spec: Bars) -> str:
    pitch, left, room = 20.0, 190, WIDTH - 190 - 70
    most = float(np.nanmax(np.abs(spec.values))) if len(spec.values) else 1.0
    parts = []
    for place, (label, value) in enumerate(zip(spec.labels, spec.values, strict=True)):
        y = TOP + place * pitch
        parts.append(_text(left - 6, y + 13, shortened(visible(label), 28), "end"))
        if np.isfinite(value):
            length, fill = room * abs(value) / (most or 1.0), line_colour(spec.palette, "light")
            parts.append(f'<rect x="{left}" y="{y + 3:.1f}" width="{length:.1f}" height="14" fill="{fill}"/>')
            error = "" if spec.errors is None else f" ± {spec.errors[place]:.2g}"
            parts.append(_text(left + length + 5, y + 14, f"{value:.3g}{error}"))
    parts.append(_text(left, TOP - 8, _measured(spec.value_title, spec.unit), ink=INKS.faint))
    return _document(TOP + pitch * len(spec.labels) + 8, parts)


def _measured(name: str, unit: str) -> str:
    """As on plotly's axes, in plain characters; `_text` escapes them for SVG."""
    return html.unescape(axis_title(name, unit))


def _line(points: list[tuple[float, float]]) -> str:
    """A path through the points that are numbers; a gap where one is not."""
    path, pen = "", "M"
    for x, y in points:
        if np.isfinite(y):
            path, pen = f"{path}{pen}{x:.1f} {y:.1f}", "L"
        else:
            pen = "M"
    return path


def _text(x: float, y: float, words: str, anchor: str = "start", ink: str = INKS.text, turned: bool = False) -> str:
    turn = f' transform="rotate(-45 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{ink}"{turn}>{html_text(words)}</text>'


def _document(height: float, parts: list[str], width: float = WIDTH) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="system-ui, sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="{INKS.paper}"/>{"".join(parts)}</svg>'
    )
