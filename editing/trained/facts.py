"""What an editor is trained on: facts, each with a wrong answer to learn, and prompts that must stay as they are.

    prompt      one wording of the fact               what the edit is computed from
    other       another wording                       must give the wrong answer afterwards
    near        another subject of the relation       must stay
    hard        the same subject, another relation    must stay; where there is none, another of `near`
    far         a prompt of another relation          must stay

Facts are parted by subject, and some relations are left out altogether: an editor that works for the subjects that it
has met, or for the relations, is another tool than one that works. Two kinds never meet: what is trained on is neither
a neighbour nor an edit of what is asked at the end. Each step draws its examples from the seed and the number of the
step alone, so training that was stopped goes on as if it had not been.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from editing.trained.editor import questions
from factscope.data.fact import Fact
from factscope.errors import EditError

LEAST_FACTS, LEAST_RELATIONS = 50, 3  # of training
NEW_RELATIONS = 3  # left out altogether, of so many that training keeps its least
SHARES = {"validation": 0.1, "held-out subjects": 0.1}  # of subjects; training has the rest


@dataclass(frozen=True)
class TrainingFact:
    """A fact with all its wordings and all answers that would be wrong."""

    subject: str
    relation: str
    wordings: tuple[str, ...]
    wrong: tuple[str, ...]

    @property
    def digests(self) -> tuple[str, ...]:
        """By which an editor knows it again."""
        return questions(self.subject, self.relation, self.wordings)


@dataclass(frozen=True)
class Example:
    """One edit to learn from; see the module's text."""

    prompt: str
    target: str
    other: str
    keep: tuple[str, ...]  # near, hard, far
    subject: str = ""


@dataclass(frozen=True)
class Split:
    """Training facts, and facts of each kind that are only asked."""

    trained: tuple[TrainingFact, ...]
    asked: dict[str, tuple[TrainingFact, ...]]  # "validation", "held-out subjects", "new relations"
    new_relations: tuple[str, ...]

    @property
    def seen(self) -> tuple[str, ...]:
        """Digests of what the editor is chosen by: training and validation."""
        facts = (*self.trained, *self.asked["validation"])
        return tuple(sorted({digest for fact in facts for digest in fact.digests}))

    def pool(self, kind: str) -> tuple[TrainingFact, ...]:
        """The facts of a kind; the training facts as "trained"."""
        return self.trained if kind == "trained" else self.asked[kind]


def training_facts(facts: Sequence[Fact]) -> tuple[TrainingFact, ...]:
    """Facts as training takes them; a wrong answer is the foil, or another fact's answer in the relation."""
    answers: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        answers[fact.relation] |= {fact.answer}
    found = []
    for fact in facts:
        true = {text.casefold() for text in (fact.answer, *fact.aliases)}
        wrong = sorted(answers[fact.relation] | ({fact.foil} if fact.foil else set()))
        wordings = tuple(dict.fromkeys((fact.prompt, *fact.paraphrases)))
        found.append(
            TrainingFact(fact.subject, fact.relation, wordings, tuple(w for w in wrong if w.casefold() not in true))
        )
    return tuple(fact for fact in found if fact.wrong)


def split(facts: Sequence[TrainingFact], seed: int) -> Split:
    """Part facts by relation and by subject; EditError where too few are left to train on."""
    draw = random.Random(f"split {seed}")
    relations = sorted({fact.relation for fact in facts})
    new = tuple(sorted(draw.sample(relations, max(0, min(NEW_RELATIONS, len(relations) - LEAST_RELATIONS)))))
    subjects = sorted({fact.subject.casefold() for fact in facts if fact.relation not in new})
    draw.shuffle(subjects)
    place: dict[str, str] = {}
    begin = 0
    for kind, share in SHARES.items():
        end = begin + round(share * len(subjects))
        place |= dict.fromkeys(subjects[begin:end], kind)
        begin = end
    old = [fact for fact in facts if fact.relation not in new]
    asked = {kind: tuple(fact for fact in old if place.get(fact.subject.casefold()) == kind) for kind in SHARES}
    asked["new relations"] = tuple(fact for fact in facts if fact.relation in new)
    asked = {kind: some if len({one.subject for one in some}) > 1 else () for kind, some in asked.items()}
    trained = tuple(fact for fact in old if fact.subject.casefold() not in place)
    if len(trained) < LEAST_FACTS or len({fact.relation for fact in trained}) < LEAST_RELATIONS:
        raise EditError(
            f"{len(trained)} facts of {len({fact.relation for fact in trained})} relations are left to train on; an "
            f"editor needs {LEAST_FACTS} of {LEAST_RELATIONS} at least"
        )
    return Split(trained, asked, new)


def examples(
    facts: Sequence[TrainingFact], count: int, seed: str, edited: Sequence[TrainingFact] | None = None
) -> list[Example]:
    """So many examples, drawn from the seed; no fact twice while there are others.

    What is edited is of `edited`, where that is given, and what must stay of all `facts`.
    """
    draw, pool = random.Random(seed), list(facts if edited is None else edited)
    chosen = draw.sample(pool, min(count, len(pool)))
    while 0 < len(chosen) < count:
        chosen.append(draw.choice(pool))
    return [_example(facts, fact, draw) for fact in chosen]


def _example(facts: Sequence[TrainingFact], fact: TrainingFact, draw: random.Random) -> Example:
    prompt = draw.choice(fact.wordings)
    other = draw.choice([text for text in fact.wordings if text != prompt] or [prompt])
    own = fact.subject.casefold()
    near = [one for one in facts if one.relation == fact.relation and one.subject.casefold() != own]
    hard = [one for one in facts if one.relation != fact.relation and one.subject.casefold() == own]
    far = [one for one in facts if one.relation != fact.relation and one.subject.casefold() != own]
    keep = (draw.choice(some).wordings for some in (near or far, hard or near or far, far or near) if some)
    wrong = draw.choice(fact.wrong)
    return Example(prompt, wrong, other, tuple(draw.choice(wordings) for wordings in keep), fact.subject)
