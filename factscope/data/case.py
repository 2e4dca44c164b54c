"""A case: what one record of an editing suite asks for, and everything by which the edit is then judged.

A `Fact` says what to write; suites ask for more. A case holds the facts of one record (several in MQuAKE) and its
trials: groups of questions under one name, with what makes the group a success and what must hold before it counts.
`load_cases` reads every format that `load_facts` reads, and those that only suites use.

Some sources do not say what the answer was before the edit. Such a fact's answer is `UNSAID`, and no score compares
with it.
"""

from dataclasses import dataclass, replace

from factscope.data.fact import Fact, same_text
from factscope.errors import FactError

UNSAID = "..."  # no word: the source does not say what the answer was

# What a question tests; the metrics are defined by these.
KINDS = {
    "rewrite": "the edit's own prompt, with the new answer",
    "paraphrase": "the same in other words, with the new answer",
    "locality": "what must stay as it was",
    "portability": "what follows from the edit",
    "hop": "one step of a chain of facts, as it is after the edits",
    "multi-hop": "a question over the whole chain",
    "ripple": "what RippleEdits derives from an edit, under conditions",
    "erasure": "an answer that must no longer be given",
    "sentiment": "replies in the wanted and in the opposite tone",
    "condition": "what must hold before the edit for a trial to count",
}
TARGETS = {
    "new": "the record's new answer; for zsRE `alt`, as in MEND and EasyEdit",
    "true": "the true answer; for zsRE `answers[0]`, as in ROME and MEMIT",
}


@dataclass(frozen=True)
class Question:
    """One prompt and the answers that count: each of `answers` must be given, in any of its spellings."""

    prompt: str
    answers: tuple[tuple[str, ...], ...]  # the usual spelling first
    other: str | None = None  # what it must not prefer, for a likelihood comparison

    def __post_init__(self) -> None:
        texts = [self.prompt, *(text for spellings in self.answers for text in spellings)]
        if not self.answers or not all(self.answers) or not all(text.strip() for text in texts):
            raise FactError(f"the question {self.prompt!r} has an empty text or no answer")

    @property
    def target(self) -> str:
        """The answer that is teacher-forced."""
        return self.answers[0][0]


@dataclass(frozen=True)
class QuestionGroup:
    """Questions judged together."""

    kind: str  # one of KINDS
    label: str
    questions: tuple[Question, ...]
    need: str = "all"  # of the questions; or "any"
    conditions: tuple[Question, ...] = ()  # must all be answered rightly before the edit, or the trial does not count


@dataclass(frozen=True)
class Case:
    """One record of a suite."""

    id: str
    suite: str
    facts: tuple[Fact, ...]
    more: tuple[QuestionGroup, ...] = ()  # beyond what the facts themselves ask
    speak: tuple[str, ...] = ()  # prompts to continue freely: fluency
    snippets: str = ""  # names the texts that a generation is compared with: relation/new object
    left_out: tuple[str, ...] = ()  # questions of the record that cannot be asked, and why

    @property
    def trials(self) -> tuple[QuestionGroup, ...]:
        """What the facts ask, then the rest."""
        out = []
        for fact in self.facts:
            if fact.foil is None:
                true = "" if fact.answer == UNSAID else ", edit to the true answer with --target true,"
                raise FactError(
                    f"fact {fact.id!r} has no target to edit to: give it a foil{true} or leave it out with --skip-bad"
                )
            old = None if fact.answer == UNSAID else fact.answer
            new = ((fact.foil, *(fact.aliases if old is None else ())),)
            out.append(QuestionGroup("rewrite", "", (Question(fact.prompt, new, old),)))
            out += [QuestionGroup("paraphrase", "", (Question(text, new, old),)) for text in fact.paraphrases]
            for near in fact.neighbours:
                other = None if same_text(fact.foil, (near.answer,)) or old is None else fact.foil
                out.append(
                    QuestionGroup("locality", "neighbourhood", (Question(near.prompt, ((near.answer,),), other),))
                )
        return (*out, *self.more)


@dataclass(frozen=True)
class Restated(Case):
    """A case whose new answer is a true one, which no fact may have as its foil; the fact is as it is traced."""

    new: str = ""  # empty where the source has the field and nothing in it

    def aimed(self, target: str) -> Case:
        """The case as it is edited; with the new answer, what was said before it is unknown."""
        facts = self.facts
        if target == "new":
            facts = tuple(replace(fact, answer=UNSAID, foil=self.new, aliases=()) for fact in facts)
        return Case(self.id, self.suite, facts, self.more, self.speak, self.snippets, self.left_out)


def truthful(case: Case) -> Case:
    """The same case with the true answer as the target, and what was said before it unknown."""
    for fact in case.facts:
        if fact.answer == UNSAID:
            raise FactError(f"case {case.id!r} does not say the true answer, so it cannot be the target")
    return replace(case, facts=tuple(replace(fact, foil=fact.answer, answer=UNSAID) for fact in case.facts))
