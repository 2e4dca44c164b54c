"""Statements about the world, without a model: what a fact is, the facts that ship with us, and how to load others.

A fact says that a subject stands in a relation to an answer ("The capital of France is" -> "Paris"). It is text only;
`factscope.model.prompts` turns it into tokens. The subject's place is known because the prompt is made by putting the
subject into a template, not found by searching the prompt. Files of other projects are read by
`factscope.data.formats.reader`.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from factscope.data.joining import spelled
from factscope.errors import FactError

SHIPPED = "factscope"
SLOT = "{}"
NEIGHBOURS = 5  # CounterFact has 10 per record; five keep a report of many edits readable


@dataclass(frozen=True)
class Neighbour:
    """A prompt that an edit of the fact must leave alone, with the answer it must keep."""

    prompt: str
    answer: str
    subject: str | None = None


@dataclass(frozen=True)
class Fact:
    """One statement about the world; `subject_span` is exact because `prompt` is made from `template`.

    The answer and the foil carry no leading space: they are the words that follow the prompt, after a space where one
    belongs (`factscope.data.joining`).
    """

    id: str  # "country_capital/france-1f2e3d4c"; unique in its source, and stable
    relation: str
    subject: str  # as it stands in the prompt
    template: str  # "{}" exactly once, where the subject goes
    answer: str
    foil: str | None = None  # a wrong answer of the same type; CounterFact's target_new
    aliases: tuple[str, ...] = ()  # other true answers: never a foil
    paraphrases: tuple[str, ...] = ()  # whole prompts
    neighbours: tuple[Neighbour, ...] = ()
    source: str = SHIPPED  # or a file's name, or a data set's

    def __post_init__(self) -> None:
        check_template(self.template)
        answers = [("answer", self.answer), *(("an alias", alias) for alias in self.aliases)]
        answers += [("foil", self.foil)] if self.foil is not None else []
        for name, text in [("id", self.id), ("relation", self.relation), ("subject", self.subject), *answers]:
            right = spelled(self.prompt, text) if (name, text) in answers else text.strip()
            if not right or text != right:
                raise FactError(f"fact {self.id!r}: {name} is {text!r}: give text without spaces around it")
        if self.foil is not None and same_text(self.foil, (self.answer, *self.aliases)):
            raise FactError(f"fact {self.id!r}: the foil {self.foil!r} is a true answer: choose a wrong one")

    @property
    def prompt(self) -> str:
        """The template with the subject in its slot."""
        return fill(self.template, self.subject)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Start and end of the subject in `prompt`, in characters."""
        start = self.template.index(SLOT)
        return start, start + len(self.subject)


@dataclass(frozen=True)
class Entry:
    """One subject of a relation and its answer."""

    subject: str
    answer: str
    aliases: tuple[str, ...] = ()
    foil: str | None = None


@dataclass(frozen=True)
class Relation:
    """A relation with its wordings and all its entries: enough to choose a foil and neighbours for each of them."""

    name: str
    description: str
    subject_type: str
    answer_type: str
    templates: tuple[str, ...]
    paraphrases: tuple[str, ...]  # templates too
    entries: tuple[Entry, ...]
    source: str = SHIPPED

    @property
    def wordings(self) -> tuple[str, ...]:
        """Every template: first those to ask with, then the paraphrases, each once."""
        return tuple(dict.fromkeys(self.templates + self.paraphrases))

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The distinct answers, sorted."""
        return tuple(sorted({entry.answer for entry in self.entries}))

    def fact(self, entry: Entry, template: str) -> Fact:
        """The entry under one template; its foil and neighbours are drawn from its slug alone, so they never change.

        The foil is an answer of another entry that is not true of this one. The neighbours are other subjects, those
        with the same answer first (as in CounterFact), and never one whose answer is the foil.
        """
        true = {answer.casefold() for answer in (entry.answer, *entry.aliases)}
        draw = int.from_bytes(hashlib.sha256(f"{self.name}/{slug(entry.subject)}".encode()).digest()[:8])
        wrong = [answer for answer in self.answers if answer.casefold() not in true]
        foil = entry.foil or (wrong[draw % len(wrong)] if wrong else None)
        others = [other for other in self.entries if other is not entry and other.answer != foil]
        alike = rotate([other for other in others if other.answer == entry.answer], draw)
        unlike = rotate([other for other in others if other.answer != entry.answer], draw)
        return Fact(
            id=named(self.name, entry.subject, template),
            relation=self.name,
            subject=entry.subject,
            template=template,
            answer=entry.answer,
            foil=foil,
            aliases=entry.aliases,
            paraphrases=tuple(fill(other, entry.subject) for other in self.wordings if other != template),
            neighbours=tuple(
                Neighbour(fill(template, other.subject), other.answer, other.subject)
                for other in (alike + unlike)[:NEIGHBOURS]
            ),
            source=self.source,
        )


def slug(text: str) -> str:
    """A text as part of a name; accents and letters of any script are kept. "C" and "C++" have the same."""
    return re.sub(r"[\W_]+", "-", text.casefold()).strip("-") or text


def named(relation: str, subject: str, template: str) -> str:
    """The name of a question: readable in front, then a digest of relation, subject as written and template."""
    digest = hashlib.sha256("\0".join((relation, subject, template)).encode()).hexdigest()[:8]
    return f"{relation}/{slug(subject)}-{digest}"


def fill(template: str, subject: str) -> str:
    """The template with the subject in its slot; other braces are plain text."""
    return template.replace(SLOT, subject, 1)


def check_template(template: str) -> None:
    """Raise unless the template has one slot and ends where the answer can follow after a space."""
    if template.count(SLOT) != 1:
        raise FactError(f"template {template!r} has {template.count(SLOT)} times {SLOT!r}: mark the subject once")
    if template != template.strip():
        raise FactError(f"template {template!r} has spaces around it: take them away, the answer brings its own")


def same_text(text: str, others: Iterable[str]) -> bool:
    """Whether the text is one of the others, upper and lower case apart."""
    return text.casefold() in {other.casefold() for other in others}


def whole_words(subject: str, text: str, flags: int = 0) -> list[re.Match[str]]:
    """Every place where the subject stands in the text with no letter or digit touching it."""
    return list(re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", text, flags))


def rotate(items: list[Entry], by: int) -> list[Entry]:
    """The same items, starting elsewhere."""
    start = by % len(items) if items else 0
    return items[start:] + items[:start]


def closest(name: str, known: Iterable[str]) -> str:
    """The end of an error's sentence: the known names most like the one that was seen, or some of them."""
    names = sorted(known)
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if alike:
        return f"; did you mean {' or '.join(map(repr, alike))}?"
    return f"; known are {', '.join(names[:25])}{', ...' if len(names) > 25 else ''}"


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put the file and the record before whatever goes wrong inside."""
    try:
        yield
    except FactError as trouble:
        raise FactError(f"{where}: {trouble}") from None
