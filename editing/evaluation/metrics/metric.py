"""What a metric is: a function of what was read of one case at one time, with its unit, its source and its direction.

A metric turns the rows of one case at one time ("before", "after", "final") into a number, or into None where it does
not apply. Metrics of answers given go by the protocol's scorer; where it compares likelihoods, an answer is given if
every token of it is the argmax.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from editing.evaluation.protocol import SCORERS, WRITTEN
from editing.evaluation.read import Reading, Row
from factscope.statistics import mean


@dataclass(frozen=True)
class Record:
    """One case under one method, at one time."""

    rows: tuple[Row, ...]
    when: str  # "before", "after" or "final"
    scorer: str
    speech: tuple[str, ...] = ()
    likeness: float | None = None  # of the speech to reference texts

    def of(self, kind: str, label: str | None = None) -> list[tuple[Row, Reading]]:
        """The rows of a kind with what was read at this time."""
        found = [row for row in self.rows if row.kind == kind and label in (None, row.label)]
        return [(row, reading) for row in found if (reading := getattr(row, self.when)) is not None]

    def marks(self, kind: str, label: str | None = None) -> list[float]:
        """What the protocol's scorer gives each of them."""
        return [value for row, one in self.of(kind, label) if (value := mark(one, self.scorer)) is not None]

    def given(self, kind: str) -> float | None:
        """The share of answers that are given in full, as the scorer looks for them; None without any."""
        return mean([float(given(one, self.scorer)) for _, one in self.of(kind)])

    def tokens(self, kind: str) -> float | None:
        """The share of the answers' tokens that are right, each after the true ones before it; None without any."""
        return mean([one.right for _, one in self.of(kind)])

    def trials(self, kind: str, label: str | None = None) -> list[bool]:
        """Which trials succeed: all or any of their questions are answered in full, as the trial needs."""
        grouped: dict[int, list[tuple[Row, Reading]]] = {}
        for row, one in self.of(kind, label):
            grouped.setdefault(row.trial, []).append((row, one))
        out = []
        for number, pairs in grouped.items():
            conditions = [row for row in self.rows if row.trial == number and row.kind == "condition"]
            if not all(full(row.before, self.scorer) for row in conditions):
                continue  # what it derives from was not known before the edit: it does not count
            passed = [full(one, self.scorer) for row, one in pairs]
            out.append(any(passed) if pairs[0][0].need == "any" else all(passed))
        return out

    def preferred(self, kind: str, label: str | None = None) -> float | None:
        """The share of questions with another answer whose target is likelier than it, per token; a tie fails."""
        return mean([float(one.nll < one.nll_other) for _, one in self.of(kind, label) if one.nll_other is not None])


def mark(one: Reading, scorer: str) -> float | None:
    """What one reading is worth under a scorer; None if the scorer does not apply to it."""
    if scorer == "likelihood":
        return None if one.nll_other is None else float(one.nll < one.nll_other)
    if scorer in WRITTEN:
        found = one.hit if scorer == "generation" else one.stated
        return None if found is None else float(found)
    return float(one.exact) if scorer == "strict" else one.right


def given(one: Reading, scorer: str) -> bool:
    """Whether the answer itself is given: found in what was written, or else every token of it the argmax."""
    written = {"generation": one.hit, "said": one.stated}.get(scorer)
    return one.exact if written is None else written


def full(one: Reading, scorer: str) -> bool:
    """Whether a question is answered in full; where likelihoods have nothing to compare, strictly."""
    value = mark(one, scorer)
    return one.exact if value is None else value == 1.0


Measure = Callable[[Record], float | None]
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """A definition: its unit, what it is in words, who defined it, and which of two values is better."""

    name: str
    unit: str  # "share", "probability", "nats", "bits" or "cosine"
    source: str
    measure: Measure
    scorers: tuple[str, ...]  # under which it is a line of the table
    better: Better = "higher"

    @property
    def label(self) -> str:
        """Its name, an abbreviation with what it stands for."""
        return f"{self.name}, {self.measure.__name__.replace('_', ' ')}" if self.name.isupper() else self.name

    @property
    def about(self) -> str:
        """The first line of its function's text."""
        return (self.measure.__doc__ or "").strip().splitlines()[0]


METRICS: dict[str, Metric] = {}
GIVEN = tuple(scorer for scorer in SCORERS if scorer != "likelihood")  # comparing two answers gives none
TOKENS = ("token accuracy",)
READ = tuple(scorer for scorer in SCORERS if scorer not in WRITTEN)  # whose reliability is read with teacher forcing


def metric(
    name: str, unit: str, source: str, scorers: Sequence[str] = tuple(SCORERS), better: Better = "higher"
) -> Callable[[Measure], Measure]:
    """Register a metric."""

    def register(measure: Measure) -> Measure:
        METRICS[name] = Metric(name, unit, source, measure, tuple(scorers), better)
        return measure

    return register


def label(name: str) -> str:
    """A metric as a table names it."""
    return METRICS[name].label if name in METRICS else name
