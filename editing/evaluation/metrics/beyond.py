"""What an edit does beyond its own prompts: generality, locality, unrelated facts, portability."""

from editing.evaluation.metrics.metric import GIVEN, TOKENS, Record, metric
from factscope.statistics import mean


@metric("generality", "share", "Yao et al. 2023, with the whole answer")
def generality(record: Record) -> float | None:
    """Paraphrases are answered with the new answer, in full."""
    return record.given("paraphrase")


@metric("generality, tokens", "share", "EasyEdit: rephrase_acc", TOKENS)
def generality_in_tokens(record: Record) -> float | None:
    """The same share on paraphrases."""
    return record.tokens("paraphrase")


@metric("locality, unchanged", "share", "EasyEdit: agreement with the unedited model, right or wrong")
def locality_unchanged(record: Record) -> float | None:
    """At the true answer's positions, the share of argmax tokens that the unedited model gives too."""
    return mean([one.same for _, one in record.of("locality")])


@metric("locality, right", "share", "ours: the whole answer, whatever was given before")
def locality_right(record: Record) -> float | None:
    """What must stay is answered rightly, in full."""
    return record.given("locality")


@metric("locality, tokens", "share", "Meng et al. 2022 and 2023 on zsRE: accuracy, whatever it was before", TOKENS)
def locality_in_tokens(record: Record) -> float | None:
    """The share of the true answer's tokens that are the argmax, where nothing must change."""
    return record.tokens("locality")


@metric("locality KL", "nats", "ours; Mitchell et al. 2022 take a KL too", better="lower")
def locality_kl(record: Record) -> float | None:
    """KL(unedited || now) of the next token where nothing must change."""
    return mean([one.kl for _, one in record.of("locality")])


@metric("unrelated, unchanged", "share", "ours: facts that nobody edited")
def unrelated_unchanged(record: Record) -> float | None:
    """On facts that nobody edited, the greedy next token is what it was; nothing asks whether it is right."""
    return mean([float(one.next_same) for _, one in record.of("unrelated") if one.next_same is not None])


@metric("unrelated KL", "nats", "ours: facts that nobody edited", better="lower")
def unrelated_kl(record: Record) -> float | None:
    """KL(unedited || now) of the next token on facts that nobody edited."""
    return mean([one.kl for _, one in record.of("unrelated")])


@metric("portability, alias", "share", "Zhang et al. 2024, KnowEdit", GIVEN)
def portability_alias(record: Record) -> float | None:
    """The edit holds under another name of its subject."""
    return mean(record.marks("portability", "alias"))


@metric("portability, reasoning", "share", "Zhang et al. 2024, KnowEdit", GIVEN)
def portability_reasoning(record: Record) -> float | None:
    """What follows from the edit and another fact is answered."""
    return mean(record.marks("portability", "reasoning"))


@metric("portability, logical", "share", "Zhang et al. 2024, KnowEdit", GIVEN)
def portability_logical(record: Record) -> float | None:
    """What follows from the edit alone is answered."""
    return mean(record.marks("portability", "logical"))
