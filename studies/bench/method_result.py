"""What a bench keeps of one method: everything that was read, what it cost, and how it failed."""

from dataclasses import dataclass, field
from typing import Any

from editing.evaluation.failures import Failure
from editing.evaluation.read import Row, Speech
from editing.evaluation.table import Score


@dataclass(frozen=True)
class Cost:
    """What one edit took."""

    seconds: float
    memory: float | None  # MB at most beyond what the process held before; None where the system does not say
    stored: float  # MB of the edit itself
    together: int = 1  # edits that were computed side by side: the seconds are shared out, the memory is of them all


@dataclass(frozen=True)
class CurvePoint:
    """One method after so many cases, where edits stay: everything so far read again, and general ability."""

    cases: int
    scores: tuple[Score, ...]
    general: dict[str, float]


@dataclass(frozen=True)
class MethodResult:
    """One method on all cases."""

    method: str
    config: dict[str, Any]
    rows: tuple[Row, ...]
    speech: tuple[Speech, ...]
    costs: tuple[Cost, ...]  # one an edit
    failures: tuple[Failure, ...] = ()
    general: dict[str, float] = field(default_factory=dict)  # of the model with all edits in
    notes: tuple[str, ...] = ()
    curve: tuple[CurvePoint, ...] = ()  # at the numbers of cases that were asked for
