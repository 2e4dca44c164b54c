"""From a file, a folder or a data set to facts and cases that can be read one by one, with every trouble located.

Records count from 0, as in Python. Records are read when asked for, so a limit reads no more of them than it needs.

A Hugging Face data set is written owner/name, and loaded by the `datasets` library with a split; one file of its
repository is written owner/name:path/in/repo.json, fetched once, and read like a file here. The second is for
repositories that hold several files which are no splits of one table, as zjunlp/KnowEdit.
"""

import contextlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from workbench.cases import UNSAID, Case
from workbench.errors import FactError
from workbench.facts import SHIPPED, Fact, Relation, check_template, closest, located, relations
from workbench.formats import Fields, Format, formats, kind
from workbench.formats.ours import read_relation

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


def pending_of(source: str | Path | None, *, split: str, template: int) -> list[Pending]:
    """What `load_facts` and `load_cases` may be given: nothing or "factscope", a shipped relation, or `open_source`."""
    if source is None or (isinstance(source, str) and (source == SHIPPED or source in relations())):
        chosen = relations().values() if source in (None, SHIPPED) else [relations()[str(source)]]
        return [item for each in chosen for item in entries_of(each, template)]
    return open_source(source, split=split, template=template)


def collect(
    pending: Sequence[Pending],
    made: Callable[[Fact | Case, str], Iterable[T]],
    name: Callable[[T], str],
    *,
    limit: int | None,
    on_bad: str,
) -> tuple[T, ...]:
    """Read until there are `limit`; `made` gives what to keep of a record, `name` its id, which must be new.

    Raises FactError as `load_facts` says.
    """
    if limit is not None and limit < 1:
        raise FactError(f"limit is {limit}: ask for at least one")
    if on_bad not in ("refuse", "skip"):
        raise FactError(f"on_bad is {on_bad!r}: choose 'refuse' or 'skip'")
    kept: dict[str, T] = {}
    bad: list[FactError] = []
    for each in pending:
        if limit is not None and len(kept) >= limit:
            break
        try:
            with located(each.where):
                fresh: dict[str, T] = {}
                for item in made(each.read(), each.title):
                    if name(item) in kept or name(item) in fresh:
                        raise FactError(f"the id {name(item)!r} was used before: leave one of the two out")
                    fresh[name(item)] = item
        except FactError as trouble:
            if on_bad == "refuse":
                raise
            bad.append(trouble)
            continue
        kept |= fresh
    if bad:
        warnings.warn(f"{len(bad)} of {len(pending)} records left out; the first: {bad[0]}", stacklevel=3)
    return tuple(kept.values())[:limit]


def facts_of(found: Fact | Case) -> tuple[Fact, ...]:
    """The facts of a record, for those who need true answers."""
    facts = found.facts if isinstance(found, Case) else (found,)
    for fact in facts:
        if fact.answer == UNSAID:
            raise FactError("the record does not say the true answer: it is for edit bench, not a fact to trace")
    return facts


def completed(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """The cases with what their format adds when all are known."""
    titles = {each.title: each.complete for each in formats() if each.complete is not None}
    for title, complete in titles.items():
        if cases and all(case.suite == title for case in cases):
            return complete(cases)
    return cases


def open_source(source: str | Path, split: str, template: int) -> list[Pending]:
    """Every fact of a file, a folder or a Hugging Face data set, in order; records are read later, one by one."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES and each.is_file())
        if not files:
            raise FactError(f"{path.name}: no .json or .jsonl file in this folder")
        return [item for each in files for item in open_file(each, each.relative_to(path).as_posix(), template)]
    if path.is_file():
        return open_file(path, path.name, template)
    in_repository = re.fullmatch(r"([\w.-]+/[\w.-]+):(.*)", str(source))
    if isinstance(source, str) and in_repository:
        return open_file(fetch_file(*in_repository.groups()), source, template)
    if isinstance(source, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", source) and path.suffix not in SUFFIXES:
        return open_document(load_dataset(source, split), source, template)
    if isinstance(source, Path) or path.suffix in SUFFIXES or "/" in source:
        raise FactError(f"{source}: there is no such file or folder")
    raise FactError(
        f"{source!r} is no file, folder or shipped relation (a Hugging Face data set is written owner/name, one of its "
        "files owner/name:path/in/repo.json)" + closest(source, relations())
    )


def open_file(path: Path, name: str, template: int) -> list[Pending]:
    """Every fact of one JSON or JSONL file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as trouble:
        raise FactError(f"{name}: cannot be read as UTF-8 text ({trouble})") from None
    if path.suffix == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        return open_document([parse(line, name, first_line=number) for number, line in lines], name, template)
    return open_document(parse(text, name), name, template)


def open_document(document: object, name: str, template: int) -> list[Pending]:
    """The facts of a parsed file: a list of records, or one object that is a relation or a single record."""
    records = document if isinstance(document, list) else [document]
    if not records:
        raise FactError(f"{name}: the file holds no records")
    with located(f"{name}, record 0" if isinstance(document, list) else name):
        found = recognise(records[0])
    if found.document is not None:
        return [item for each in records for item in of_document(each, found, name, template)]
    if template != 0:
        raise FactError(f"{name}: {found.title} has one prompt per record, so template {template} cannot be chosen")
    return [
        Pending(f"{name}, record {number}", found.title, partial(read_record, found, record, number, name))
        for number, record in enumerate(records)
    ]


def read_record(found: Format, record: object, number: int, name: str) -> Fact | Case:
    """One record in a format that is known."""
    assert found.record is not None
    return found.record(Fields(record, found.needed, found.optional), number, name)


def of_document(document: object, found: Format, name: str, template: int) -> list[Pending]:
    """What one document in a format that is known holds: a relation's entries, or cases."""
    assert found.document is not None
    with located(name):
        made = found.document(Fields(document, found.needed, found.optional), name)
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
        relation = read_relation(Fields(parse(text, name), found.needed, found.optional), name)
        assert isinstance(relation, Relation)
        return replace(checked(relation), source=SHIPPED)


def parse(text: str, name: str, first_line: int = 1) -> object:
    """The JSON value in a text, or an error with line and column."""
    if not text.strip():
        raise FactError(f"{name}: the file is empty")
    try:
        return json.loads(text)
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


def load_dataset(name: str, split: str) -> Sequence[dict[str, Any]]:
    """The records of a Hugging Face data set; no code of the data set is run."""
    try:
        import datasets  # heavy, and needed here only

        return list(datasets.load_dataset(name, split=split))
    except Exception as trouble:  # the hub, the disk and the library each raise their own
        raise FactError(
            f"{name!r} is no file or folder here, and could not be loaded as a Hugging Face data set (one file of it "
            f"is written {name}:path/in/repo.json): {reason(trouble)}"
        ) from None


def fetch_file(name: str, file: str) -> Path:
    """One JSON file of a Hugging Face data set's repository, in the library's cache."""
    if Path(file).suffix not in SUFFIXES:
        raise FactError(f"{name}:{file} names no .json or .jsonl file of the Hugging Face data set {name}")
    from huggingface_hub import hf_hub_download, list_repo_files
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, repo_type="dataset"))
    except LocalEntryNotFoundError:
        why = "the Hub cannot be reached, and it is not in the cache here"
    except EntryNotFoundError:
        why = "there is no such file"
        with contextlib.suppress(Exception):  # what there is would only help
            why += closest(
                file, [each for each in list_repo_files(name, repo_type="dataset") if each.endswith(SUFFIXES)]
            )
    except Exception as trouble:  # the hub and the disk each raise their own
        why = reason(trouble)
    raise FactError(f"{file} of the Hugging Face data set {name} could not be fetched: {why}")


def reason(trouble: Exception) -> str:
    """What an error says, on one line and not without end."""
    return " ".join(str(trouble).split())[:200] or type(trouble).__name__
