"""Does the edit hold in hard wordings (factscope/data/questions/variations.py)? Each family of them counts the same."""

from collections.abc import Callable

from editing.evaluation.metrics.metric import Measure, Record, given, metric
from editing.evaluation.protocol import WRITTEN
from editing.evaluation.read import Reading, Row
from editing.evaluation.said import states
from factscope.data.questions.variations import FAMILIES, family
from factscope.statistics import mean

WORDINGS = "ours, after arXiv 2402.05827"


def _by_family(record: Record, value: Callable[[Row, Reading], float | None], only: str | None = None) -> float | None:
    """A mean over hard wordings in which each family counts the same; of one family where `only` names it."""
    found: dict[str, list[float]] = {}
    for row, one in record.of("variation"):
        worth = value(row, one)
        if worth is not None and only in (None, family(row.label)):
            found.setdefault(family(row.label), []).append(worth)
    return mean([sum(values) / len(values) for values in found.values()])


def _back(_: Row, one: Reading) -> float | None:
    return None if one.nll_other is None else float(one.nll >= one.nll_other)


def _reverted(only: str | None) -> Measure:
    def measure(record: Record) -> float | None:
        holds = record.when != "before" and record.preferred("rewrite") == 1.0
        return _by_family(record, _back, only) if holds else None  # what never held cannot go back

    where = f"hard wordings of {only}" if only else "hard wordings, each family counting the same"
    measure.__doc__ = f"Of edits that hold on their own prompt: {where}, in which the old answer is the likelier again."
    return measure


for _family in (None, *FAMILIES):
    metric(f"reversion, {_family}" if _family else "reversion", "share", WORDINGS, better="lower")(_reverted(_family))


@metric("new answer, hard wordings", "share", WORDINGS)
def new_answer_in_hard_wordings(record: Record) -> float | None:
    """The new answer is given in full; each family of wordings counts the same."""
    return _by_family(record, lambda _, one: float(given(one, record.scorer)))


@metric("old answer, hard wordings", "share", WORDINGS, better="lower")
def old_answer_in_hard_wordings(record: Record) -> float | None:
    """The old answer is given in full, or written; what is neither this nor the new one is another answer."""

    def old(row: Row, one: Reading) -> float | None:
        if record.scorer in WRITTEN and row.other is not None and one.said is not None:
            return float(states(one.said, ((row.other,),)))
        return None if one.exact_other is None else float(one.exact_other)

    return _by_family(record, old)
