"""The table of a suite: every metric averaged over cases, with its interval.

Every case weighs the same however many questions it has; intervals are as `factscope.statistics` says. Under
the likelihood scorer, metrics that are `scored` are left out: they are of answers given, and comparing two answers
gives none (on the prompt, paraphrases and neighbours it is what ES, PS and NS are).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from editing.evaluation.metrics import METRICS, ROME, Record
from editing.evaluation.read import Row, Speech
from factscope.statistics import bca, interval

TIMES = ("before", "after", "final")


@dataclass(frozen=True)
class Score:
    """One line of the table."""

    method: str
    metric: str
    when: str
    unit: str
    n: int  # cases that it applies to
    value: float
    low: float  # 95 % interval over cases; NaN where a mean has too few of them
    high: float


def values_of(rows: Sequence[Row], speeches: Sequence[Speech], scorer: str, when: str, prompts: bool) -> list[Record]:
    """The cases at one time, in order; with `prompts`, texts are measured with the prompt before them."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.case, []).append(row)
    spoken: dict[str, list[str]] = {}
    like: dict[str, float | None] = {}
    for one in speeches:
        if one.likeness:
            like[one.case] = one.likeness[TIMES.index(when)]
        text = getattr(one, when)
        if text is not None:
            spoken.setdefault(one.case, []).append(one.prompt + text if prompts else text)
    return [
        Record(tuple(some), when, scorer, tuple(spoken.get(case, ())), like.get(case)) for case, some in grouped.items()
    ]


def table(
    method: str,
    rows: Sequence[Row],
    speeches: Sequence[Speech],
    scorer: str,
    *,
    prompts: bool = True,
    seed: int = 0,
) -> list[Score]:
    """Every metric that applies to these rows, at every time that was read."""
    out = []
    times = [when for when in TIMES if any(getattr(row, when) is not None for row in rows)]
    for when in times:
        records = values_of(rows, speeches, scorer, when, prompts)
        kept: dict[str, list[float | None]] = {}
        for name, one in METRICS.items():
            if one.scored and scorer == "likelihood":
                continue
            kept[name] = [one.measure(record) for record in records]
            values = [value for value in kept[name] if value is not None and not math.isnan(value)]
            if values:
                mean = float(np.mean(values))
                out.append(Score(method, name, when, one.unit, len(values), mean, *interval(values, one.unit, seed)))
        three = [kept[name] for name in ("ES", "PS", "NS")]
        whole = [triple for triple in zip(*three, strict=True) if None not in triple]
        if whole:
            sets = np.array(whole, dtype=float).T
            value = float(harmonic(sets.mean(1)[:, None])[0])
            out.append(Score(method, "S", when, "share", len(whole), value, *bca(sets, harmonic, seed=seed)))
    return out


S_ABOUT = ("harmonic mean of ES, PS and NS over the cases that have all three", ROME)


def harmonic(means: np.ndarray) -> np.ndarray:
    """Harmonic mean along the first axis; 0 where one of them is 0."""
    with np.errstate(divide="ignore"):
        found: np.ndarray = len(means) / (1 / means).sum(0)
    return found
