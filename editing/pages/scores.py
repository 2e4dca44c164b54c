"""The table of scores as every page and terminal shows it: a row a metric, a column for each method and time."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from editing.evaluation.metrics import METRICS, label
from editing.evaluation.table import Score
from factscope.plots.specs import Cell, Table
from factscope.statistics import interval_in_words

LEAD = ("metric", "unit", "facts")


def value(score: Score) -> Cell:
    """A score to four digits; empty where it is not a number."""
    return rounded(score.value)


def value_with_interval(score: Score) -> Cell:
    """A score with its 95 % interval."""
    return f"{score.value:.3f}" + (f" [{score.low:.3f}, {score.high:.3f}]" if score.low == score.low else "")


def interval(score: Score) -> Cell:
    """A score's 95 % interval, or why there is none."""
    return interval_in_words(score.low, score.high, score.n)


@dataclass(frozen=True)
class Column:
    """One column of scores."""

    title: str
    scores: dict[str, Score]  # by metric
    said: Callable[[Score], Cell] = value

    @classmethod
    def of(
        cls, title: str, scores: Iterable[Score], when: str, said: Callable[[Score], Cell] = value, method: str = ""
    ) -> "Column":
        """The scores of one time, and of one method where there are several."""
        chosen = [one for one in scores if one.when == when and (not method or one.method == method)]
        return cls(title, {one.metric: one for one in chosen}, said)


def score_table(columns: Sequence[Column], note: str, more: Sequence[tuple[Cell, ...]] = ()) -> Table:
    """All metrics that any column has, in the order of their definitions; `more` rows go below."""
    rows: list[tuple[Cell, ...]] = []
    for name in ordered({name for column in columns for name in column.scores}):
        lines = [column.scores.get(name) for column in columns]
        last = next(one for one in reversed(lines) if one is not None)
        cells = [None if one is None else column.said(one) for one, column in zip(lines, columns, strict=True)]
        rows.append((label(name), last.unit, last.n, *cells))
    return Table("Scores", (*LEAD, *(column.title for column in columns)), (*rows, *more), note)


def ordered(names: Iterable[str]) -> list[str]:
    """Metrics in the order of their definitions."""
    return sorted(names, key=[*METRICS, "S"].index)


def rounded(number: float) -> float | None:
    """A cell of four digits; empty for NaN."""
    return None if number != number else round(number, 4) + 0.0  # no minus before a zero


def in_lines(table: Table) -> list[str]:
    """A table as lines of equal columns, numbers to three digits."""
    text = lambda cell: "" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else str(cell)  # noqa: E731
    rows = [table.columns, *([text(cell) for cell in row] for row in table.rows)]
    wide = [max(len(row[place]) for row in rows) for place in range(len(table.columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows]
