"""What longer texts are like: their tone, their repetitions, and their subject."""

import math

from editing.evaluation.metrics.metric import Record, metric
from factscope.statistics import mean, ngram_entropy


@metric("tone", "probability", "Mitchell et al. 2022, ConvSent: z_sentiment z_topic")
def tone(record: Record) -> float | None:
    """sigmoid(log p wanted - log p opposite) min(1, p now / p before of the wanted replies), nats per token."""
    wanted, opposite = record.of("sentiment", "wanted"), record.of("sentiment", "opposite")
    if not wanted or not opposite:
        return None
    near, far, was = (
        -sum(values) / len(values)
        for values in (
            [one.nll for _, one in wanted],
            [one.nll for _, one in opposite],
            [row.before.nll for row, _ in wanted],
        )
    )
    return min(1.0, math.exp(near - was)) / (1 + math.exp(far - near))


@metric("fluency", "bits", "Meng et al. 2022, GE: (H2 + 2 H3) / 3 over word n-grams")
def fluency(record: Record) -> float | None:
    """n-gram entropy of a sampled text; low where a model repeats itself. It grows with the text's length."""
    found = ngram_entropy(record.speech) if record.speech else math.nan
    return None if math.isnan(found) else found


@metric("generation entropy", "bits", "ours: fluency's measure on the greedy continuation")
def generation_entropy(record: Record) -> float | None:
    """n-gram entropy of what is written after the edit's prompts; low where a model repeats itself."""
    found = [ngram_entropy([one.said]) for _, one in record.of("rewrite") if one.said is not None]
    return mean([value for value in found if not math.isnan(value)])


@metric("reference score", "cosine", "Meng et al. 2022, RS")
def reference_score(record: Record) -> float | None:
    """Cosine of TF-IDF vectors: sampled texts against reference texts about the new object."""
    return record.likeness
