"""What a JSON document of facts or cases holds: its format recognised, its records read one by one.

Nothing here knows where a document came from; `factscope.data.load` opens files, folders and data sets.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import TypeVar

from factscope.data.case import Case
from factscope.data.fact import SHIPPED, Fact, Relation, check_template, located
from factscope.data.formats.ours import read_relation
from factscope.data.formats.reader import Format, formats, kind
from factscope.errors import FactError

SUFFIXES = (".json", ".jsonl")
BY_RELATION = "facts by relation"  # ours, shipped or in a file
MANY = 8  # fields of an unknown record that are shown
T = TypeVar("T")


@dataclass(frozen=True)
class Pending:
    """A record that is read when asked for: its place, for errors, its format, and the function that reads it."""

    where: str
    title: str
    read: Callable[[], Fact | Case]

    @property
    def file(self) -> str:
        """The file it is of, as `where` begins."""
        return self.where.partition(", ")[0]


def collect(
    pending: Sequence[Pending],
    made: Callable[[Fact | Case, str], Iterable[T]],
    name: Callable[[T], str],
    *,
    limit: int | None,
    on_bad: str,
    renamed: Callable[[T, str], T] | None = None,
) -> tuple[T, ...]:
    """Read until there are `limit`; `made` gives what to keep of a record, `name` its id, which must be new.

    With `renamed`, an id that another file used before gets this file's name before it.

    Raises FactError as `load_facts` says.
    """
    if limit is not None and limit < 1:
        raise FactError(f"limit is {limit}: ask for at least one")
    if on_bad not in ("refuse", "skip"):
        raise FactError(f"on_bad is {on_bad!r}: choose 'refuse' or 'skip'")
    kept: dict[str, T] = {}
    bad: list[FactError] = []
    owners: dict[str, str] = {}  # the file of each id
    for each in pending:
        if limit is not None and len(kept) >= limit:
            break
        try:
            with located(each.where):
                fresh: dict[str, T] = {}
                for item in made(each.read(), each.title):
                    if renamed is not None and owners.get(name(item), each.file) != each.file:
                        item = renamed(item, PurePath(each.file).stem)
                    if name(item) in kept or name(item) in fresh:
                        raise FactError(f"the id {name(item)!r} was used before: leave one of the two out")
                    fresh[name(item)] = item
                    owners[name(item)] = each.file
        except FactError as trouble:
            if on_bad == "refuse":
                raise
            bad.append(trouble)
            continue
        kept |= fresh
    if bad:
        warnings.warn(f"{len(bad)} of {len(pending)} records left out; the first: {bad[0]}", stacklevel=3)
    return tuple(kept.values())[:limit]


def open_document(document: object, name: str, template: int, extra: bool = False) -> list[Pending]:
    """The facts of a parsed file: a list of records, or one object that is a relation or a single record.

    `extra` lets fields pass that the format does not know, and warns with their names.
    """
    records = document if isinstance(document, list) else [document]
    if not records:
        raise FactError(f"{name}: the file holds no records")
    with located(f"{name}, record 0" if isinstance(document, list) else name):
        found = recognise(records[0])
    if extra and (unknown := sorted(set().union(*map(found.unknown, records)))):
        warnings.warn(f"{name}: {found.title} has no field {', '.join(unknown)}, which is not used", stacklevel=2)
    if found.document is not None:
        return [item for each in records for item in of_document(each, found, name, template, extra)]
    if template != 0:
        raise FactError(f"{name}: {found.title} has one prompt per record, so template {template} cannot be chosen")
    return [
        Pending(f"{name}, record {number}", found.title, partial(read_record, found, record, number, name, extra))
        for number, record in enumerate(records)
    ]


def read_record(found: Format, record: object, number: int, name: str, extra: bool) -> Fact | Case:
    """One record in a format that is known."""
    assert found.record is not None
    return found.record(found.fields(record, extra), number, name)


def of_document(document: object, found: Format, name: str, template: int, extra: bool) -> list[Pending]:
    """What one document in a format that is known holds: a relation's entries, or cases."""
    assert found.document is not None
    with located(name):
        made = found.document(found.fields(document, extra), name)
        if isinstance(made, Relation):
            return entries_of(checked(made), template, BY_RELATION if found.document is read_relation else found.title)
        return [Pending(f"{name}, {case.id}", found.title, partial(_given, case)) for case in made]


def _given(case: Case) -> Case:
    return case


def checked(relation: Relation) -> Relation:
    """The relation, if its templates can be used."""
    if not relation.templates:
        raise FactError("no templates")
    for template in relation.wordings:
        check_template(template)
    return relation


def entries_of(relation: Relation, template: int, title: str = BY_RELATION) -> list[Pending]:
    """The facts of a relation under one of its templates; `title` is the format's."""
    if not 0 <= template < len(relation.templates):
        raise FactError(
            f"{relation.name} has templates 0 to {len(relation.templates) - 1}, and {template} was asked for"
        )
    text = relation.templates[template]
    return [
        Pending(f"{relation.source}, record {number}", title, partial(relation.fact, entry, text))
        for number, entry in enumerate(relation.entries)
    ]


def recognise(record: object) -> Format:
    """The format whose needed fields the record has; one that nearly fits will say itself which field is wrong."""
    if not isinstance(record, dict):
        raise FactError(f"{kind(record)} where an object with fields should be")
    best = max(formats(), key=lambda each: (each.fits(record), len(each.needed)))
    if best.covered(record) > 0.5:
        return best
    seen = ", ".join([*record][:MANY] + ["..."] * (len(record) > MANY)) or "(none)"
    lacking = " and no ".join(name for name in best.needed if name not in record)
    near = f" (the nearest is {best.title}, but there is no {lacking})" if best.covered(record) else ""
    raise FactError(f"the fields {seen} belong to no format we know{near}; docs/suites.md#formats lists them")


def shipped_relation(text: str, name: str) -> Relation:
    """One of the relation files that ship with us."""
    found = next(each for each in formats() if each.document is read_relation)
    with located(name):
        relation = read_relation(found.fields(parse(text, name), False), name)
        assert isinstance(relation, Relation)
        return replace(checked(relation), source=SHIPPED)


def _object(name: str, pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; a field that is there twice is refused, because one of the two would be lost without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise FactError(f"{name}: an object has the field {twice!r} twice; leave one of the two out")
    return found


def parse(text: str, name: str, first_line: int = 1) -> object:
    """The JSON value in a text, or an error with line and column."""
    if not text.strip():
        raise FactError(f"{name}: the file is empty")
    try:
        return json.loads(text, object_pairs_hook=partial(_object, name))
    except json.JSONDecodeError as trouble:
        place = f"{name}, line {trouble.lineno + first_line - 1}, column {trouble.colno}"
        hint = "; is it one object per line? then name it .jsonl" if trouble.msg == "Extra data" else ""
        raise FactError(f"{place}: not JSON: {trouble.msg}{hint}") from None
    except RecursionError:
        raise FactError(
            f"{name}: its lists or objects are nested too deeply to be read; check how it was made"
        ) from None
    except ValueError:  # the only other thing that Python's reader refuses
        raise FactError(f"{name}: a number in it has thousands of digits and cannot be read") from None
