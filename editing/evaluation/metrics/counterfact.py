"""CounterFact's metrics: whether the new answer is likelier than the true one, and by how much."""

import math

from editing.evaluation.metrics.metric import Record, metric
from factscope.statistics import mean

ROME = "Meng et al. 2022"


@metric("ES", "share", ROME)
def efficacy_success(record: Record) -> float | None:
    """The new answer is likelier than the true one, on average per token; a tie fails."""
    return record.preferred("rewrite")


@metric("EM", "probability", ROME)
def efficacy_magnitude(record: Record) -> float | None:
    """Geometric-mean probability per token: that of the new answer minus that of the true answer."""
    return _magnitude(record, "rewrite")


@metric("PS", "share", ROME)
def paraphrase_success(record: Record) -> float | None:
    """ES on paraphrases."""
    return record.preferred("paraphrase")


@metric("PM", "probability", ROME)
def paraphrase_magnitude(record: Record) -> float | None:
    """EM on paraphrases."""
    return _magnitude(record, "paraphrase")


@metric("NS", "share", ROME)
def neighbourhood_success(record: Record) -> float | None:
    """On neighbours, the true answer is likelier than the new one (the first definition of locality)."""
    return record.preferred("locality", "neighbourhood")


@metric("NM", "probability", ROME)
def neighbourhood_magnitude(record: Record) -> float | None:
    """On neighbours, the true answer's geometric-mean probability less the new one's."""
    return _magnitude(record, "locality", "neighbourhood")


def _magnitude(record: Record, kind: str, label: str | None = None) -> float | None:
    found = [one for _, one in record.of(kind, label) if one.nll_other is not None]
    return mean([math.exp(-one.nll) - math.exp(-float(one.nll_other or 0)) for one in found])
