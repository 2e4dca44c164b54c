"""What a picture says, before anyone decides how it is drawn.

A spec is a frozen value of plain strings, numbers and numpy arrays: no plotly, no torch, no HTML. `view.py` files make
specs from results, `render.py` turns the graphical ones into plotly figures, `page.py` writes any of them into a page,
and a notebook shows one that ends a cell. Text is stored exactly as it was seen (a token may hold a newline, a tag or
a formula); making it visible and harmless is the business of whoever draws it.

To add a kind of picture: subclass `Spec` with a frozen dataclass and register one function: in `render.draw` for a
plotly figure, in `fragments.fragment` for HTML.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from factscope.plots.escape import visible

Palette = Literal["purple", "green", "red", "blue", "orange"]  # the paper's: residual purple, MLP green, attention red
Scale = Literal["sequential", "diverging"]  # light to dark, or blue through neutral at zero to orange
Cell = str | int | float | None


class Spec:
    """Something a page or a notebook can show."""

    title: str

    def caption(self) -> str:
        """The words below it: its note, and what a reader must know to read it."""
        return str(getattr(self, "note", ""))


@dataclass(frozen=True, eq=False)
class Heatmap(Spec):
    """One number per row and column; the first row is drawn at the bottom, as layers are counted.

    Columns are places, not names: two equal tokens stay two columns.
    """

    title: str
    values: np.ndarray  # [row, column]; NaN is drawn blank
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_title: str = "layer"
    column_title: str = "token"
    value_title: str = ""  # what the colour measures, "indirect effect"
    unit: str = ""  # in which unit, "nats"
    scale: Scale = "sequential"
    palette: Palette = "purple"  # only for the sequential scale
    limits: tuple[float, float] | None = None  # colours at both ends; give several heatmaps the same to compare them
    ranks: bool = False  # the values are −log10 of ranks, which the colour bar counts and `hover` has
    marked: tuple[int, ...] = ()  # columns under a bracket
    marked_title: str = "subject"
    left_out: tuple[int, ...] = ()  # columns drawn grey, without a say in the colour scale (an attention sink)
    cell_labels: np.ndarray | None = None  # [row, column] short strings written into the cells
    hover: Mapping[str, np.ndarray] = field(
        default_factory=dict
    )  # further [row, column] numbers or strings; the name says the unit
    note: str = ""

    def __post_init__(self) -> None:
        _set(self, "values", np.asarray(self.values, dtype=float))
        _set(self, "hover", {name: np.asarray(array) for name, array in self.hover.items()})
        shape = (len(self.rows), len(self.columns))
        _check(self.title, {"values": self.values, **self.hover}, shape)
        if self.cell_labels is not None:
            _set(self, "cell_labels", np.asarray(self.cell_labels, dtype=object))
            _check(self.title, {"cell_labels": self.cell_labels}, shape)
        for column in (*self.marked, *self.left_out):
            if not 0 <= column < len(self.columns):
                raise ValueError(f"{self.title!r} points at column {column}, but has {len(self.columns)} columns")

    def caption(self) -> str:
        """The note, and which columns the colours leave out."""
        names = ", ".join(f"{visible(self.columns[column])} ({column})" for column in sorted(set(self.left_out)))
        grey = f"Grey, outside the colour scale: {self.column_title} {names}." if names else ""
        return f"{self.note} {grey}".strip()

    def colour_limits(self) -> tuple[float, float]:
        """The values at the two ends of the colour scale: of the columns that count, centred on zero if diverging."""
        if self.limits is not None:
            return self.limits
        counted = np.delete(self.values, list(self.left_out), axis=1)
        counted = counted[np.isfinite(counted)]
        low, high = (float(counted.min()), float(counted.max())) if counted.size else (0.0, 0.0)
        if self.scale == "diverging":
            high = max(abs(low), abs(high))
            low = -high
        return (low, high) if high > low else (low - 0.5, high + 0.5)


@dataclass(frozen=True, eq=False)
class Series:
    """One line of `Curves`; a band, where it is known, says how sure we are of each point."""

    name: str
    y: np.ndarray  # one per x
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    palette: Palette | None = None  # None: the next colour in turn

    def __post_init__(self) -> None:
        for name in ("y", "low", "high"):
            if getattr(self, name) is not None:
                _set(self, name, np.asarray(getattr(self, name), dtype=float))
        if (self.low is None) != (self.high is None):
            raise ValueError(f"series {self.name!r} has one edge of a band: give low and high, or neither")


@dataclass(frozen=True, eq=False)
class Curves(Spec):
    """Lines over a common x."""

    title: str
    x: np.ndarray
    series: tuple[Series, ...]
    x_title: str = "layer"
    x_labels: tuple[str, ...] = ()  # one per x, each another, where x counts things that have names
    y_title: str = ""
    unit: str = ""
    log_y: bool = False
    least: float = 0.0  # that the y axis spans, so that next to nothing is not drawn large; logarithmic: a ratio
    note: str = ""

    def __post_init__(self) -> None:
        _set(self, "x", np.asarray(self.x, dtype=float))
        for one in self.series:
            arrays = {"y": one.y, "low": one.low, "high": one.high}
            present = {f"{name} of {one.name}": array for name, array in arrays.items() if array is not None}
            _check(self.title, present, self.x.shape)
        if self.x_labels and len(set(self.x_labels)) != len(self.x):
            raise ValueError(f"{self.title!r} has {len(self.x)} points and {len(set(self.x_labels))} labels for them")

    def seen(self) -> np.ndarray:
        """Every finite value of its lines and bands."""
        arrays = [array for one in self.series for array in (one.y, one.low, one.high) if array is not None]
        every: np.ndarray = np.concatenate([*arrays, np.zeros(0)])
        return np.extract(np.isfinite(every), every)

    def widened(self) -> tuple[float, float] | None:
        """The ends of the y axis where what is seen spans less than `least`; None: they are the data's.

        What is nowhere below zero, as a share, has an axis that is not either, but for the room of a line's width.
        """
        seen, least = self.seen(), self.least
        if self.log_y:
            seen, least = np.log(seen[seen > 0]), float(np.log(max(least, 1.0)))
        if not seen.size or np.ptp(seen) >= least:
            return None
        middle = float(seen.min() + seen.max()) / 2
        low = middle - least / 2
        if not self.log_y and seen.min() >= 0:
            low = max(low, -least / 25)
        high = low + least
        return (float(np.exp(low)), float(np.exp(high))) if self.log_y else (low, high)


def state_labels(states: int) -> tuple[str, ...]:
    """What the states that a lens reads are called, on every axis: the embedding, then what each layer leaves."""
    return ("embed", *(str(layer) for layer in range(states - 1)))


def state_name(state: int | None) -> str:
    """The same in words; None is no state at all."""
    return "nowhere" if state is None else "the embedding" if state == 0 else f"layer {state - 1}"


@dataclass(frozen=True, eq=False)
class Bars(Spec):
    """One bar per label, the first on top; equal labels stay two bars."""

    title: str
    labels: tuple[str, ...]
    values: np.ndarray
    errors: np.ndarray | None = None  # half the length of each whisker
    value_title: str = ""
    unit: str = ""
    palette: Palette = "blue"
    note: str = ""

    def __post_init__(self) -> None:
        _set(self, "values", np.asarray(self.values, dtype=float))
        _check(self.title, {"values": self.values}, (len(self.labels),))
        if self.errors is not None:
            _set(self, "errors", np.asarray(self.errors, dtype=float))
            _check(self.title, {"errors": self.errors}, (len(self.labels),))


@dataclass(frozen=True)
class Table(Spec):
    """Rows to read and sort; a number stays a number, so that it sorts as one."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    folded: bool = False  # behind its title, on a page, until it is asked for

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title!r} has {len(self.columns)} columns, but a row of {len(row)}: {row!r}")


@dataclass(frozen=True)
class Card(Spec):
    """Names and values in a definition list: what was run, on what, with which seed."""

    title: str
    items: tuple[tuple[str, str], ...]
    command: str = ""  # the line that runs it again, with a button to copy it
    note: str = ""


@dataclass(frozen=True)
class Number:
    """One big number of a `Headline`, written as it should be read: "+7.8", "73 %", "layer 5"."""

    value: str
    label: str


@dataclass(frozen=True)
class Headline(Spec):
    """Two to four numbers and the one sentence to remember."""

    sentence: str
    numbers: tuple[Number, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class Text(Spec):
    """Plain words; an empty line starts a new paragraph."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Links(Spec):
    """Pages of the folders beside this page, by the folders' names."""

    folders: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph on what is seen below it, and the specs in reading order."""

    heading: str
    specs: tuple[Spec, ...]
    explanation: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page; `page.write_page` makes the file."""

    title: str
    sections: tuple[Section, ...]
    subtitle: str = ""


def _set(value: object, name: str, to: object) -> None:
    object.__setattr__(value, name, to)  # a frozen value tidies itself once, while it is made


def _check(title: str, arrays: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> None:
    for name, array in arrays.items():
        if array.shape != shape:
            raise ValueError(f"{title!r}: {name} has shape {array.shape}, its labels say {shape}")
