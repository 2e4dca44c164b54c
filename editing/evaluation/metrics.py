"""What the rows of a case are worth: one decorated function a metric, found by its name, defined with its source.

A metric turns the rows of one case at one time ("before", "after", "final") into a number, or into None where it does
not apply; `editing/evaluation/table.py` averages over cases. Metrics of answers given go by the protocol's scorer;
where it compares likelihoods, an answer is given if every token of it is the argmax.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from editing.evaluation.protocol import SCORERS, WRITTEN
from editing.evaluation.read import Reading, Row
from editing.evaluation.said import states
from factscope.data.questions.variations import FAMILIES, family
from factscope.statistics import ngram_entropy


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


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None


# ---- CounterFact


ROME = "Meng et al. 2022"


def _preferred(record: Record, kind: str, label: str | None = None) -> float | None:
    return mean([float(one.nll < one.nll_other) for _, one in record.of(kind, label) if one.nll_other is not None])


def _magnitude(record: Record, kind: str, label: str | None = None) -> float | None:
    found = [one for _, one in record.of(kind, label) if one.nll_other is not None]
    return mean([math.exp(-one.nll) - math.exp(-float(one.nll_other or 0)) for one in found])


@metric("ES", "share", ROME)
def efficacy_success(record: Record) -> float | None:
    """The new answer is likelier than the true one, on average per token; a tie fails."""
    return _preferred(record, "rewrite")


@metric("EM", "probability", ROME)
def efficacy_magnitude(record: Record) -> float | None:
    """Geometric-mean probability per token: that of the new answer minus that of the true answer."""
    return _magnitude(record, "rewrite")


@metric("PS", "share", ROME)
def paraphrase_success(record: Record) -> float | None:
    """ES on paraphrases."""
    return _preferred(record, "paraphrase")


@metric("PM", "probability", ROME)
def paraphrase_magnitude(record: Record) -> float | None:
    """EM on paraphrases."""
    return _magnitude(record, "paraphrase")


@metric("NS", "share", ROME)
def neighbourhood_success(record: Record) -> float | None:
    """On neighbours, the true answer is likelier than the new one (the first definition of locality)."""
    return _preferred(record, "locality", "neighbourhood")


@metric("NM", "probability", ROME)
def neighbourhood_magnitude(record: Record) -> float | None:
    """On neighbours, the true answer's geometric-mean probability less the new one's."""
    return _magnitude(record, "locality", "neighbourhood")


# ---- EasyEdit, zsRE, KnowEdit


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
    preferred = _preferred(record, "negation")
    return None if preferred is None else 1.0 - preferred


@metric("verification", "share", "ours")
def verification(record: Record) -> float | None:
    """Asked whether the new and the old statement are true, the right one of yes and no is the likelier."""
    return _preferred(record, "verification")


# ---- hard wordings (factscope/data/questions/variations.py)


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
        holds = record.when != "before" and _preferred(record, "rewrite") == 1.0
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


# ---- what two papers print as one number


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


# ---- MQuAKE


@metric("edit-wise", "share", "Zhong et al. 2023, MQuAKE", GIVEN)
def edit_wise(record: Record) -> float | None:
    """Edited facts that are recalled."""
    if not record.of("multi-hop"):
        return None
    return mean([float(full(one, record.scorer)) for row, one in record.of("rewrite")])


@metric("instance-wise", "share", "Zhong et al. 2023, MQuAKE", GIVEN)
def instance_wise(record: Record) -> float | None:
    """All steps of the chain are recalled, as they are after the edits."""
    steps = record.trials("hop")
    return float(all(steps)) if steps else None


@metric("multi-hop", "share", "Zhong et al. 2023, MQuAKE", GIVEN)
def multi_hop(record: Record) -> float | None:
    """Any of the chain's three questions is answered."""
    return mean([float(passed) for passed in record.trials("multi-hop")])


# ---- RippleEdits


def _ripple(label: str) -> Measure:
    def measure(record: Record) -> float | None:
        if record.when != "before" and not all(full(one, record.scorer) for r, one in record.of("rewrite")):
            return None  # as its authors do, only edits that succeeded are asked what follows
        return mean([float(passed) for passed in record.trials("ripple", label)])

    measure.__doc__ = f"Tests of {label} that pass, of those whose conditions the unedited model meets."
    return measure


for _label in (
    "relation specificity",
    "logical generalization",
    "subject aliasing",
    "compositionality I",
    "compositionality II",
    "forgetfulness",
):
    metric(f"ripple, {_label}", "share", "Cohen et al. 2024, RippleEdits; edits that succeeded", GIVEN)(_ripple(_label))


# ---- erasure, tone, free text


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
