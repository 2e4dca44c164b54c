"""Readers of files as their authors publish them: one file a format in this folder, found by listing it.

A reader is a decorated function that turns one record into a `Fact` or a `Case`, or one document into a `Relation` or
into cases; its decorator lists the fields it needs and those it may meet. The format of a file is the one whose needed
fields its first record covers best, and that knows most of its other fields. A field that the format does not know is
an error, because a misspelt field is otherwise a silent loss. Spaces around a text carry no meaning in these files and
are taken away.

When a format gives a finished prompt and a subject beside it, the subject is looked for (`find_subject`), and a prompt
that has it twice is refused: tracing the wrong one of the two would give a wrong picture without a word.
"""

import importlib
import pkgutil
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from factscope.data import formats as folder
from factscope.data.case import Case, Question, QuestionGroup
from factscope.data.fact import SLOT, Fact, Neighbour, Relation, closest, whole_words
from factscope.errors import FactError


class Fields:
    """One JSON object, read field by field; every complaint names the field."""

    def __init__(
        self, value: object, needed: Iterable[str], optional: Iterable[str] | None = (), within: str = ""
    ) -> None:
        """Check that the value is an object with the needed fields and no unknown ones; `within` names its parent.

        `optional=None` lets any further field pass: for the inner objects of formats that say more than is used.
        """
        if not isinstance(value, dict):
            raise FactError(f"{within or 'the record'} is {kind(value)}, not an object with fields")
        self.value: dict[str, Any] = {name: each for name, each in value.items() if each is not None}
        self.within = f"{within}." if within else ""
        needed = tuple(needed)
        for name in value if optional is not None else ():
            if name not in needed and name not in (optional or ()):
                way_out = "" if within else " (--extra keep lets columns of your own pass)"
                known = closest(name, (*needed, *(optional or ())))
                raise FactError(f"unknown field {self.within + name!r}{known}{way_out}")
        for name in needed:
            if name not in self.value:
                raise FactError(f"field {self.within + name!r} is missing")

    def text(self, name: str, default: str | None = None) -> str:
        """A text that is not empty, unless there is a default for it."""
        if self.value.get(name, "") == "" and default is not None:
            return default
        return self._text(self.value.get(name), name)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; none when the field is not there. One text alone counts as a list of one."""
        value = self.value.get(name, [])
        if isinstance(value, str):
            return (self._text(value, name),)
        if not isinstance(value, list):
            raise FactError(f"field {self.within + name!r} is {kind(value)}, not a list of texts")
        return tuple(self._text(each, f"{name}[{index}]") for index, each in enumerate(value))

    def label(self, name: str, default: object = "") -> str:
        """A number or a text that names the record."""
        value = self.value.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise FactError(f"field {self.within + name!r} is {kind(value)}, not a number or a text")
        return str(value)

    def _text(self, value: object, name: str) -> str:
        if not isinstance(value, str):
            raise FactError(f"field {self.within + name!r} is {kind(value)}, not a text")
        if not value.strip():
            raise FactError(f"field {self.within + name!r} is empty")
        return value.strip()


RecordReader: TypeAlias = Callable[[Fields, int, str], Fact | Case]  # fields, record number, name of the source
DocumentReader: TypeAlias = Callable[[Fields, str], Relation | tuple[Case, ...]]
Completer: TypeAlias = Callable[[tuple[Case, ...]], tuple[Case, ...]]  # adds what takes more than one record


@dataclass(frozen=True)
class Format:
    """The fields of one format, and its reader."""

    title: str
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    record: RecordReader | None = None
    document: DocumentReader | None = None
    complete: Completer | None = None

    def fields(self, value: object, extra: bool) -> Fields:
        """The value as this format reads it; `extra` lets fields of the user's own pass."""
        return Fields(value, self.needed, None if extra else self.optional)

    def unknown(self, value: object) -> set[str]:
        """The fields of the value that are no part of this format."""
        return set(value) - {*self.needed, *self.optional} if isinstance(value, dict) else set()

    def covered(self, value: dict[str, object]) -> float:
        """The share of the needed fields that the value has."""
        return sum(name in value for name in self.needed) / len(self.needed)

    def fits(self, value: dict[str, object]) -> float:
        """The covered share, less the share of the value's fields that the format does not know."""
        return self.covered(value) - len(self.unknown(value)) / max(len(value), 1)


FORMATS: list[Format] = []


@cache
def formats() -> tuple[Format, ...]:
    """All formats, by listing the folder."""
    for found in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{found.name}")
    return tuple(FORMATS)


def record_format(
    title: str, needed: str, optional: str = "", complete: Completer | None = None
) -> Callable[[RecordReader], RecordReader]:
    """Register a reader of one record; the fields are given as words."""

    def register(reader: RecordReader) -> RecordReader:
        FORMATS.append(Format(title, tuple(needed.split()), tuple(optional.split()), record=reader, complete=complete))
        return reader

    return register


def document_format(title: str, needed: str, optional: str = "") -> Callable[[DocumentReader], DocumentReader]:
    """Register a reader of one whole file that holds a relation; the fields are given as words."""

    def register(reader: DocumentReader) -> DocumentReader:
        FORMATS.append(Format(title, tuple(needed.split()), tuple(optional.split()), document=reader))
        return reader

    return register


# ---- what the readers share


def find_subject(fields: Fields, name: str, before: str | None = None) -> tuple[str, str]:
    """The subject as the prompt spells it, and the prompt with the slot in its place.

    `before` is the text that the file says stands before the subject: where it fits, it decides. Otherwise the subject
    must stand once as whole words; failing that, once in other upper and lower case; failing that, once as a part of a
    longer word, as in scripts that write no spaces.
    """
    prompt, subject = fields.text(name), fields.text("subject")
    if before is not None and prompt.startswith(before.strip()):
        rest = prompt[len(before.strip()) :].lstrip()
        if rest.startswith(subject):
            start = len(prompt) - len(rest)
            return subject, prompt[:start] + SLOT + prompt[start + len(subject) :]
    for places in (
        whole_words(subject, prompt),
        whole_words(subject, prompt, re.IGNORECASE),
        list(re.finditer(re.escape(subject), prompt)),
    ):
        if len(places) > 1:
            raise FactError(
                f"field {name!r} has the subject {subject!r} {len(places)} times, and which one is meant is not said: "
                f"{prompt!r}; leave the record out or give it as a template with {SLOT!r}"
            )
        if places:
            start, end = places[0].span()
            return prompt[start:end], prompt[:start] + SLOT + prompt[end:]
    alike = _plain(subject) in _plain(prompt)
    why = "; it stands there in other characters that look alike: write both in the same" if alike else ""
    raise FactError(f"field {name!r} does not contain the subject {subject!r}: {prompt!r}{why}")


def _plain(text: str) -> str:
    """The text with characters that look alike made one: accents in parts, no-break spaces, curly apostrophes."""
    return unicodedata.normalize("NFKC", text).replace("’", "'").replace("‘", "'").casefold()


def neighbours_of(fields: Fields, prompt: str, answer: str) -> tuple[Neighbour, ...]:
    """One neighbour from two fields, or lists of the same length in them."""
    prompts, answers = fields.texts(prompt), fields.texts(answer)
    if len(prompts) != len(answers):
        raise FactError(f"{len(prompts)} texts in field {prompt!r} and {len(answers)} in {answer!r}: give one for each")
    return tuple(Neighbour(*pair) for pair in zip(prompts, answers, strict=True))


def portability(prompts: Iterable[str], answers: Iterable[str]) -> tuple[QuestionGroup, ...]:
    """What follows from the edit by one step, as Yao et al. 2023 wrote it for zsRE and CounterFact."""
    pairs = zip(prompts, answers, strict=True)
    return tuple(QuestionGroup("portability", "reasoning", (Question(asked, ((answer,),)),)) for asked, answer in pairs)


def as_list(fields: Fields, name: str, needed: bool = True) -> list[object]:
    """A field that holds a list of objects; an empty one counts as missing where it is needed."""
    value = fields.value.get(name, [])
    if not isinstance(value, list):
        raise FactError(f"field {name!r} is {kind(value)}, not a list")
    if needed and not value:
        raise FactError(f"field {name!r} is empty")
    return value


def kind(value: object) -> str:
    """What a JSON value is, in a person's words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"the number {value}" if isinstance(value, int | float) else type(value).__name__)
