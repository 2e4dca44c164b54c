"""Is the answer that must go gone, and what stands in its place?"""

from editing.evaluation.metrics.metric import GIVEN, Record, full, given, metric
from factscope.statistics import mean


@metric("erasure", "share", "ours, for Sanitation (Ishibashi and Shimodaira 2023)", GIVEN)
def erasure(record: Record) -> float | None:
    """The answer that must go is no longer given in full, and what the edit puts in its place is: nonsense fails."""
    replaced = all(given(one, record.scorer) for _, one in record.of("rewrite"))
    return mean([float(replaced and not full(one, record.scorer)) for _, one in record.of("erasure", "")])


@metric("forgotten", "share", "ours, after Jang et al. 2023: whatever is said in its place", GIVEN)
def forgotten(record: Record) -> float | None:
    """The answer that must go is no longer given in full; nonsense in its place passes."""
    return mean([float(not full(one, record.scorer)) for _, one in record.of("erasure", "")])


@metric("forgotten, paraphrases", "share", "ours", GIVEN)
def forgotten_in_paraphrases(record: Record) -> float | None:
    """The same in other words: an answer that is hidden behind one prompt is not gone."""
    return mean([float(not full(one, record.scorer)) for _, one in record.of("erasure", "paraphrase")])
