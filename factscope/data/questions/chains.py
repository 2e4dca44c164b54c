"""Chains of two hops and more, of which the first is edited: of two shipped relations, or of MQuAKE's files.

"The currency of the country where the Eiffel Tower stands is the": the first hop is where it stands. Beside each
question stands the same *without its first hop* ("The currency of the country is the"), which says what the second hop
alone suggests. Shipped chains are worded by `PHRASES`; MQuAKE's first question is asked as a question, and without the
subject's name for want of the hop's own words.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from factscope.data.case import Case
from factscope.data.fact import Relation, fill, same_text, whole_words
from factscope.data.load import load_cases
from factscope.data.request import EditRequest
from factscope.data.shipped import relations
from factscope.errors import FactError, UserError

# The answer of a relation in words about its subject, and the same without the subject: the first hop in a sentence.
PHRASES = {
    "book_author": ("the author of {}", "the author"),
    "city_country": ("the country of the city of {}", "the country"),
    "company_headquarters": ("the city where {} has its headquarters", "the city"),
    "composition_composer": ("the composer of {}", "the composer"),
    "landmark_city": ("the city where {} stands", "the city"),
    "landmark_country": ("the country where {} stands", "the country"),
    "organization_founder": ("the founder of {}", "the founder"),
    "painting_painter": ("the painter of {}", "the painter"),
    "product_maker": ("the company that makes {}", "the company"),
}
SECOND = {"city_country": 1}  # of a second hop, which template reads well about a phrase; else the first


@dataclass(frozen=True)
class Chain:
    """Two hops and more, of which the first is edited."""

    id: str
    requests: tuple[EditRequest, ...]
    question: str
    bare: str  # without the first hop; "" where it cannot be taken out
    new: tuple[str, ...]  # spellings
    old: tuple[str, ...]
    edited: tuple[str, ...]

    @property
    def distinct(self) -> bool:
        """Whether no answer is a spelling of another."""
        return not any(
            same_text(text, others)
            for one, others in ((self.new, self.old), (self.new, self.edited), (self.old, self.edited))
            for text in one
        )


def shipped_chains(first: Sequence[str] = (), seed: int = 0) -> tuple[Chain, ...]:
    """Chains of two shipped relations, shuffled; `first` names the relations of the first hop, by default all.

    Raises UserError for a relation that has no phrase.
    """
    if wrong := next((name for name in first if name not in PHRASES), None):
        raise UserError(f"{wrong!r} cannot be the first hop of a chain; those that can are {', '.join(PHRASES)}")
    ours = relations()
    made = [chain for name in (first or PHRASES) for second in ours.values() for chain in _joined(ours[name], second)]
    random.Random(seed).shuffle(made)
    return tuple(made)


def _joined(first: Relation, second: Relation) -> list[Chain]:
    """The chains of two relations: the answer of the first is a subject of the second, before the edit and after."""
    phrase, bare = PHRASES[first.name]
    entries = {entry.subject: entry for entry in second.entries}
    template = second.templates[SECOND.get(second.name, 0)]
    made = []
    for entry in first.entries:
        fact = first.fact(entry, first.templates[0])
        targets = [
            answer for answer in first.answers if answer in entries and answer not in (fact.answer, *fact.aliases)
        ]
        if fact.answer not in entries or not targets:
            continue
        draw = random.Random(f"{fact.id}/{second.name}")
        target = fact.foil if fact.foil in targets else draw.choice(targets)
        old, new = entries[fact.answer], entries[str(target)]
        subject = f"the {fact.subject[4:]}" if fact.subject.startswith("The ") else fact.subject
        made.append(
            Chain(
                id=f"{fact.id}/{second.name}",
                requests=(EditRequest.of(replace(fact, foil=target)),),
                question=_sentence(template, fill(phrase, subject)),
                bare=_sentence(template, bare),
                new=(new.answer, *new.aliases),
                old=(old.answer, *old.aliases),
                edited=(str(target),),
            )
        )
    return made


def _sentence(template: str, phrase: str) -> str:
    """A template about a phrase, with a capital in front."""
    text = fill(template, phrase)
    return text[0].upper() + text[1:]


def mquake_chains(path: str | Path) -> tuple[Chain, ...]:
    """The chains of an MQuAKE file whose last answer is not itself edited, in the file's order.

    Raises FactError for a file of another format, and where no chain is left.
    """
    cases = load_cases(path)
    if any(case.suite != "MQuAKE" for case in cases):
        raise FactError(f"{path} holds {cases[0].suite or 'facts'}, and chains are read from MQuAKE's files")
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as trouble:
        raise FactError(f"{path}: chains are read from one JSON file of MQuAKE ({trouble})") from None
    olds = {
        f"mquake/{record.get('case_id', number)}": (record["answer"], *record.get("answer_alias", ()))
        for number, record in enumerate(records if isinstance(records, list) else [records])
    }
    made = [chain for case in cases if (chain := _of_case(case, olds[case.id])) is not None]
    if not made:
        raise FactError(f"{path}: every chain's last answer is itself edited, so no hop follows from an edit")
    return tuple(made)


def _of_case(case: Case, old: tuple[str, ...]) -> Chain | None:
    (question, *_) = next(group.questions for group in case.more if group.kind == "multi-hop")
    new, edited = question.answers[0], tuple(request.target for request in case.requests)
    if any(same_text(text, edited) for text in new):
        return None
    subject = case.requests[0].subject
    places = whole_words(subject, question.prompt)
    bare = ""
    if len(places) == 1:
        begin, end = places[0].span()
        rest = question.prompt[end:].removeprefix("'s")
        bare = " ".join(f"{question.prompt[:begin]}{rest}".split())
    return Chain(case.id, case.requests, question.prompt, bare, new, old, edited)
