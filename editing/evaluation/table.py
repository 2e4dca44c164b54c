"""The table of an evaluation: every metric averaged over cases, with its interval.

One table serves the report of an edit, a sequence, a bench and what stands beside a circuit's diff. Every case weighs
the same however many questions it has; intervals are as `factscope.statistics` says, in which cases about one subject
count as one. A metric has a line where its scorer is the protocol's and some case has a value of it that is a number.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from editing.evaluation.metrics import METRICS, Record
from editing.evaluation.metrics.counterfact import ROME
from editing.evaluation.protocol import Protocol
from editing.evaluation.read import Row, Speech
from factscope.statistics import ENOUGH, bca, interval, wilson

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


def records(rows: Sequence[Row], speeches: Sequence[Speech], protocol: Protocol, when: str) -> list[Record]:
    """The cases at one time, in order; where the protocol says so, texts are measured with the prompt before them."""
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
            spoken.setdefault(one.case, []).append(one.prompt + text if protocol.prompt_counts else text)
    return [
        Record(tuple(some), when, protocol.scorer, tuple(spoken.get(case, ())), like.get(case))
        for case, some in grouped.items()
    ]


def table(method: str, rows: Sequence[Row], protocol: Protocol, speeches: Sequence[Speech] = ()) -> tuple[Score, ...]:
    """Every metric that applies to these rows, at every time that was read."""
    out = []
    times = [when for when in TIMES if any(getattr(row, when) is not None for row in rows)]
    for when in times:
        cases = records(rows, speeches, protocol, when)
        groups = [case.rows[0].subject or f"case {case.rows[0].case}" for case in cases]
        kept: dict[str, list[float | None]] = {}
        for name, one in METRICS.items():
            if protocol.scorer not in one.scorers:
                continue
            kept[name] = [one.measure(case) for case in cases]
            known = [(v, g) for v, g in zip(kept[name], groups, strict=True) if v is not None and not math.isnan(v)]
            if known:
                values, own = zip(*known, strict=True)
                ends = interval(values, one.unit, groups=own)
                out.append(Score(method, name, when, one.unit, len(values), float(np.mean(values)), *ends))
        three = zip(*(kept[name] for name in ("ES", "PS", "NS")), groups, strict=True)
        whole = [each for each in three if None not in each]
        if whole:
            *triples, own = zip(*whole, strict=True)
            sets = np.array(triples, dtype=float)
            value = float(harmonic(sets.mean(1)[:, None])[0])
            low, high = bca(sets, harmonic, groups=own)
            if len(set(own)) >= ENOUGH and math.isnan(low):  # all alike: of each share's own ends, wide, not narrow
                low, high = harmonic(np.array([wilson(share, own) for share in sets.tolist()])).tolist()
            out.append(Score(method, "S", when, "share", len(whole), value, low, high))
    return tuple(out)


def found(scores: Sequence[Score], metric: str, when: str = "after", method: str | None = None) -> Score:
    """A line by its metric and time, and by its method where there are several; KeyError if it was not measured."""
    for one in scores:
        if (one.metric, one.when) == (metric, when) and method in (None, one.method):
            return one
    raise KeyError(f"{metric!r} was not read {when!r}; there are {', '.join(sorted({one.metric for one in scores}))}")


def plain(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """The lines for a program; null where an interval is not known."""
    return [{name: None if value != value else value for name, value in asdict(one).items()} for one in scores]


S_ABOUT = ("harmonic mean of ES, PS and NS over the cases that have all three", ROME)


def harmonic(means: np.ndarray) -> np.ndarray:
    """Harmonic mean along the first axis; 0 where one of them is 0."""
    with np.errstate(divide="ignore"):
        found: np.ndarray = len(means) / (1 / means).sum(0)
    return found
