"""Does the edit hold on its own prompts: with teacher forcing, said freely, in frames, negated, as yes or no?"""

from editing.evaluation.metrics.metric import READ, TOKENS, Record, metric
from factscope.statistics import mean


@metric("reliability", "share", "Yao et al. 2023, with the whole answer")
def reliability(record: Record) -> float | None:
    """The edit's own prompts are answered with the new answer, in full."""
    return record.given("rewrite")


@metric("reliability, tokens", "share", "EasyEdit: rewrite_acc", TOKENS)
def reliability_in_tokens(record: Record) -> float | None:
    """The share of the new answer's tokens that are the argmax, each after the true ones before it."""
    return record.tokens("rewrite")


@metric("said", "share", "ours; Yang et al. 2025 on what teacher forcing hides", READ)
def said(record: Record) -> float | None:
    """The edit's own prompts, continued freely up to where the text stops by itself, give the new answer."""
    return _stated(record, "rewrite")


def _stated(record: Record, kind: str) -> float | None:
    found = [one.hit if one.stated is None else one.stated for _, one in record.of(kind)]
    return mean([float(value) for value in found if value is not None])


@metric("said, nothing else", "share", "ours: normalised exact match, as SQuAD's")
def said_exactly(record: Record) -> float | None:
    """The same continuation is the new answer and nothing else."""
    return mean([float(one.stated_only) for _, one in record.of("rewrite") if one.stated_only is not None])


@metric("said, paraphrases", "share", "ours; Yang et al. 2025", READ)
def said_of_paraphrases(record: Record) -> float | None:
    """The same for paraphrases."""
    return _stated(record, "paraphrase")


@metric("said, frames", "share", "ours; Yang et al. 2025")
def said_in_frames(record: Record) -> float | None:
    """The same where the edit's prompt is a question, or stands after an unrelated sentence."""
    return _stated(record, "frame")


@metric("frames", "share", "ours", READ)
def frames(record: Record) -> float | None:
    """In these frames the new answer is given, each token after the true ones before it."""
    return record.given("frame")


@metric("negation", "share", "ours, after arXiv 2510.00625")
def negation(record: Record) -> float | None:
    """Behind the negated prompt the new answer is not likelier than the old one."""
    preferred = record.preferred("negation")
    return None if preferred is None else 1.0 - preferred


@metric("verification", "share", "ours")
def verification(record: Record) -> float | None:
    """Asked whether the new and the old statement are true, the right one of yes and no is the likelier."""
    return record.preferred("verification")
