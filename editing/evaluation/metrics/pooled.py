"""What two papers print as one number over several kinds of questions."""

from collections.abc import Callable

from editing.evaluation.metrics.beyond import generality
from editing.evaluation.metrics.efficacy import reliability
from editing.evaluation.metrics.metric import GIVEN, Record, metric
from editing.evaluation.protocol import WRITTEN
from editing.evaluation.read import Reading, Row
from factscope.statistics import mean


@metric("edit success, pooled", "share", "Zhang et al. 2024, KnowEdit, Table 4: Edit Succ.", GIVEN)
def edit_success_pooled(record: Record) -> float | None:
    """The scorer on the edit's own prompts and their paraphrases, all alike."""
    return mean([*record.marks("rewrite"), *record.marks("paraphrase")])


@metric("portability, pooled", "share", "Zhang et al. 2024, KnowEdit, Table 4: Portability", GIVEN)
def portability_pooled(record: Record) -> float | None:
    """The scorer on what follows from the edit; each kind of question counts the same."""
    return _over_labels(record, "portability", lambda label: record.marks("portability", label))


@metric("locality, pooled", "share", "Zhang et al. 2024, KnowEdit, Table 4: Locality", GIVEN)
def locality_pooled(record: Record) -> float | None:
    """Locality, unchanged; each kind of question counts the same."""
    return _over_labels(record, "locality", lambda label: [one.same for _, one in record.of("locality", label)])


@metric("locality, same answer", "share", "Zhang et al. 2024, Eq. 11; Wang and Li 2024, Eq. 8", GIVEN)
def locality_same_answer(record: Record) -> float | None:
    """Where nothing must change, the whole answer is as before: every token, or the text if one is written."""
    return mean([float(_unmoved(row, one, record.scorer)) for row, one in record.of("locality")])


@metric("average of three", "share", "Wang and Li 2024, MEMoE: Average", GIVEN)
def average_of_three(record: Record) -> float | None:
    """The mean of reliability, generality and locality, same answer, of a case that has all three."""
    three = [reliability(record), generality(record), locality_same_answer(record)]
    return None if None in three else mean([value for value in three if value is not None])


def _over_labels(record: Record, kind: str, values: Callable[[str], list[float]]) -> float | None:
    labels = dict.fromkeys(row.label for row, _ in record.of(kind))
    return mean([value for label in labels if (value := mean(values(label))) is not None])


def _unmoved(row: Row, one: Reading, scorer: str) -> bool:
    if scorer in WRITTEN and one.said is not None:
        return one.said == row.before.said
    return one.same == 1.0
