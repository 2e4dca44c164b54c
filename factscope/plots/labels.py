"""What stands on the axes and in the hover texts of a figure, as strings that plotly shows as they are.

Plain functions, so that `render.py` is about drawing alone. Every string that leaves this file is escaped; the only
markup in it is our own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from factscope.plots.colours import INK, Theme
from factscope.plots.escape import plotly_text, shortened, visible
from factscope.plots.specs import Cell, Heatmap

LONGEST_TICK = 18  # characters; a longer token is cut on the axis and whole in the hover text
LONGEST_CELL = 8


def counted(number: int, noun: str) -> str:
    """1 fact, 2 facts."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tick(label: str, most: int = LONGEST_TICK) -> str:
    """A label short enough for an axis, its outer spaces drawn."""
    return plotly_text(shortened(visible(label), most))


def column_tick(spec: Heatmap, column: int, theme: Theme) -> str:
    """The token under a column: grey if it is left out of the colours, bold if it is marked."""
    label = tick(spec.columns[column])
    if column in spec.left_out:
        return f'<span style="color:{INK[theme].faint}"><i>{label}</i></span>'
    return f'<b style="color:{INK[theme].accent}">{label}</b>' if column in spec.marked else label


def row_ticks(rows: tuple[str, ...]) -> list[int]:
    """Names all get a tick; counted layers only every second or fifth, from zero, if there are many."""
    counted = all(label.isdecimal() for label in rows)
    return list(range(0, len(rows), step(len(rows), most=16) if counted else 1))


def cell_hover(spec: Heatmap) -> list[list[str]]:
    """One text per cell: where it is, what it holds, and whatever else the spec knows about it."""
    columns = [f"<b>{plotly_text(visible(label))}</b>" for label in spec.columns]
    rows = [plotly_text(f"{spec.row_title} {visible(label)}".strip()) for label in spec.rows]
    value, unit = plotly_text(spec.value_title or "value"), hover_unit(spec.unit)
    further = {plotly_text(name): array for name, array in spec.hover.items()}

    def lines(row: int, column: int) -> str:
        place = f"{columns[column]} {plotly_text(spec.column_title)} {column} · {rows[row]}"
        amounts = [
            f"{name} {_amount(array[row, column])}"
            for name, array in further.items()
            if not _absent(array[row, column])
        ]
        own = [] if spec.ranks else [f"{value} {_amount(spec.values[row, column])}{unit}"]
        return "<br>".join([place, *own, *amounts])

    blank = np.isnan(spec.values)  # has no hover text, for nothing is drawn there
    return [
        ["" if blank[row, column] else lines(row, column) for column in range(len(columns))] for row in range(len(rows))
    ]


def axis_title(name: str, unit: str) -> str:
    """What an axis measures and in which unit, as far as they are known."""
    return plotly_text(f"{name} ({unit})" if name and unit else name or unit)


def hover_unit(unit: str) -> str:
    """The unit behind a number."""
    return f" {plotly_text(unit)}" if unit else ""


def step(length: float, most: int) -> int:
    """The smallest round step (1, 2, 5, 10, ...) that needs no more ticks than this."""
    steps = (digit * int(10**power) for power in range(9) for digit in (1, 2, 5))
    return next(size for size in steps if length <= most * size)


def runs(columns: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and last of every unbroken stretch."""
    ordered = sorted(set(columns))
    firsts = [column for column in ordered if column - 1 not in ordered]
    lasts = [column for column in ordered if column + 1 not in ordered]
    return list(zip(firsts, lasts, strict=True))


def numbers_in_words(numbers: Sequence[int]) -> str:
    """Whole numbers as a person lists them: 0, 1, 3 to 6."""
    listed = [
        f"{first} to {last}" if last > first + 1 else ", ".join(map(str, range(first, last + 1)))
        for first, last in runs(tuple(numbers))
    ]
    return ", ".join(listed)


def heading(text: str) -> str:
    """The text with a capital at its beginning, the rest as it is: no name is changed."""
    return text[:1].upper() + text[1:]


def as_sentence(text: str) -> str:
    """A remark as a sentence: with a capital at its beginning and a full stop."""
    return f"{heading(text)}."


def four_digits(number: float) -> Cell:
    """A number as a cell, to four digits; empty where it is infinite or not a number."""
    return float(f"{number:.4g}") if np.isfinite(number) else None


def layers_in_words(layers: Sequence[int]) -> str:
    """Which layers: layer 3; layers 3 to 6."""
    return f"layer{'' if len(layers) == 1 else 's'} {numbers_in_words(layers)}"


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """Settings as a card lists them: seed=0, rows=64; those of a part, as a descent's, among the others."""
    parts = [
        settings_in_words(value) if isinstance(value, Mapping) and value else f"{name}={setting_in_words(value)}"
        for name, value in settings.items()
    ]
    return ", ".join(parts)


def setting_in_words(value: Any) -> str:
    """One setting's value as a person writes it: none, yes, last token + last subject; of a part, what is set in it."""
    if value is None or value is False or (isinstance(value, tuple | list | Mapping) and not value):
        return "no" if value is False else "none"
    if isinstance(value, Mapping):
        return settings_in_words(value)
    if isinstance(value, tuple | list):
        return " + ".join(map(setting_in_words, value))
    return "yes" if value is True else str(value)


def _absent(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _amount(value: Any) -> str:
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return f"{float(value):.4g}"
    return plotly_text(visible(str(value)))
