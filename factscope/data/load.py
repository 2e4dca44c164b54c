"""From a file, a folder or a data set to facts and cases that can be read one by one, with every trouble located.

Records count from 0, as in Python. Records are read when asked for, so a limit reads no more of them than it needs.

A Hugging Face data set is written owner/name, and loaded by the `datasets` library with a split; one file of its
repository is written owner/name:path/in/repo.json, fetched once, and read like a file here. The second is for
repositories that hold several files which are no splits of one table, as zjunlp/KnowEdit.
"""

import contextlib
import random
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from factscope.data.case import TARGETS, Case, refusing
from factscope.data.fact import SHIPPED, Fact, closest
from factscope.data.formats.reader import formats
from factscope.data.records import SUFFIXES, Pending, collect, entries_of, open_document, parse
from factscope.data.request import EditRequest
from factscope.data.shipped import relations
from factscope.errors import FactError

EXTRA = ("refuse", "keep")  # what a field that a format does not know does


def pending_of(source: str | Path | None, *, split: str, template: int, extra: bool) -> list[Pending]:
    """What `load_facts` and `load_cases` may be given: nothing or "factscope", a shipped relation, or `open_source`."""
    if source is None or (isinstance(source, str) and (source == SHIPPED or source in relations())):
        chosen = relations().values() if source in (None, SHIPPED) else [relations()[str(source)]]
        return [item for each in chosen for item in entries_of(each, template)]
    return open_source(source, split, template, extra)


def _keeps(extra: str) -> bool:
    """Whether fields that no format knows may stand in a record."""
    if extra not in EXTRA:
        raise FactError(
            f"there is no way {extra!r} with fields that a format does not know; choose {' or '.join(EXTRA)}"
        )
    return extra == "keep"


def completed(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """The cases with what their format adds when all are known."""
    titles = {each.title: each.complete for each in formats() if each.complete is not None}
    for title, complete in titles.items():
        own = [place for place, case in enumerate(cases) if case.suite == title]
        done = dict(zip(own, complete(tuple(cases[place] for place in own)), strict=True)) if own else {}
        cases = tuple(done.get(place, case) for place, case in enumerate(cases))
    return cases


def case_renamed(case: Case, file: str) -> Case:
    """The same case and its requests under ids that begin with a file's name."""
    requests = tuple(replace(one, id=f"{file}/{one.id}") for one in case.requests)
    return replace(case, id=f"{file}/{case.id}", requests=requests)


def open_source(source: str | Path, split: str, template: int, extra: bool) -> list[Pending]:
    """Every fact of a file, a folder or a Hugging Face data set, in order; records are read later, one by one."""
    if not str(source).strip():
        raise FactError("the source of facts is empty; name a file, a folder, a shipped relation or a data set")
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES and each.is_file())
        if not files:
            raise FactError(f"{source}: no .json or .jsonl file in this folder")
        return [item for each in files for item in open_file(each, each.relative_to(path).as_posix(), template, extra)]
    if path.is_file():
        return open_file(path, path.name, template, extra)
    in_repository = re.fullmatch(r"([\w.-]+/[\w.-]+):(.*)", str(source))
    if isinstance(source, str) and in_repository:
        return open_file(fetch_file(*in_repository.groups()), source, template, extra)
    if isinstance(source, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", source) and path.suffix not in SUFFIXES:
        return open_document(load_dataset(source, split), source, template, extra)
    if isinstance(source, Path) or path.suffix in SUFFIXES or "/" in source:
        raise FactError(f"{source}: there is no such file or folder")
    raise FactError(
        f"{source!r} is no file, folder or shipped relation (a Hugging Face data set is written owner/name, one of its "
        "files owner/name:path/in/repo.json)" + closest(source, relations())
    )


def open_file(path: Path, name: str, template: int, extra: bool) -> list[Pending]:
    """Every fact of one JSON or JSONL file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as trouble:
        raise FactError(f"{name}: cannot be read as UTF-8 text ({trouble}); save it as UTF-8") from None
    if path.suffix == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]  # not at U+2028
        return open_document([parse(line, name, first_line=number) for number, line in lines], name, template, extra)
    return open_document(parse(text, name), name, template, extra)


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


def load_facts(
    source: str | Path | None = None,
    *,
    relation: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    template: int = 0,
    split: str = "train",
    on_bad: str = "refuse",
    extra: str = "refuse",
) -> tuple[Fact, ...]:
    """Load facts in the order of their source, or shuffled.

    Args:
        source: nothing or "factscope" for the shipped facts, a shipped relation's name, a file, a folder (all .json and
            .jsonl files below it), a Hugging Face data set as "owner/name", or one file of its repository as
            "owner/name:path/in/repo.json".
        relation: keep this relation only.
        limit: at most so many; records beyond them are not read.
        seed: shuffle first, with this seed.
        template: which of a relation's templates to ask with; formats with one prompt per record know only 0.
        split: of a Hugging Face data set.
        on_bad: "refuse" stops at a record that does not work out; "skip" leaves it out, and warns with the number left
            out and the first reason. A file that cannot be read at all, or a broken relation file, is always refused.
        extra: what a field that the format does not know does: "refuse", for it may be a known field misspelt, or
            "keep", which lets it stand in the file, unused, and warns with its name.
    """
    pending = pending_of(source, split=split, template=template, extra=_keeps(extra))
    if seed is not None:
        random.Random(seed).shuffle(pending)
    seen: set[str] = set()

    def wanted(found: Any, _: str) -> list[Fact]:
        read = found.facts if isinstance(found, Case) else (found,)
        seen.update(fact.relation for fact in read)
        return [fact for fact in read if relation in (None, fact.relation)]

    facts = collect(pending, wanted, lambda fact: fact.id, limit=limit, on_bad=on_bad)
    if not facts and relation is not None and seen:
        raise FactError(f"no fact of relation {relation!r} in {source or SHIPPED}{closest(relation, seen)}")
    if not facts:
        raise FactError(f"no facts in {source or SHIPPED}: every record was left out")
    return facts


def load_cases(
    source: str | Path,
    *,
    also: Sequence[str | Path] = (),
    seed: int | None = None,
    limit: int | None = None,
    split: str = "train",
    target: str = "new",
    on_bad: str = "refuse",
    extra: str = "refuse",
) -> tuple[Case, ...]:
    """Every case of a file, a folder, a Hugging Face data set or a shipped relation, in order.

    Args:
        source: as in `load_facts`. Where two files use one id, the later one's gets its file's name before it.
        also: further sources, whose cases stand beside them.
        seed: mix the records of all of them first, with this seed.
        limit, split: as in `load_facts`.
        target: one of `TARGETS`: what the edit shall say.
        on_bad: "refuse" names the first record that does not work out; "skip" leaves such records out, with a warning.
        extra: as in `load_facts`.

    A record whose new answer is there and empty is left out in both, with a warning, as EasyEdit leaves it out.

    Raises FactError: no such file, no known format, a bad record (file, index and field), an id that was used before,
    facts none of which has a target.
    """
    if target not in TARGETS:
        raise FactError(f"there is no target {target!r}; choose {' or '.join(TARGETS)}")

    empty: list[str] = []  # ids
    aimless: list[str] = []

    def made(found: Fact | Case, title: str) -> Iterable[Case]:
        if target == "new" and isinstance(found, Fact) and found.foil is None:
            aimless.append(found.id)
        case = aimed(found, title, target)
        if case is None:
            empty.append(found.id)
        return () if case is None else (case,)

    pending = _mixed((source, *also), seed, split, extra)
    try:
        cases = collect(pending, made, lambda case: case.id, limit=limit, on_bad=on_bad, renamed=case_renamed)
        if not cases:
            raise FactError(f"no cases in {source}: every record was left out")
    except FactError:
        if aimless and (count := untargeted(pending)):
            raise FactError(
                f"{Path(source).name}: none of its {count} facts has a target to edit to; they can be traced, and "
                "--target true edits to the true answers"
            ) from None
        raise
    if empty:
        warnings.warn(
            f"{len(empty)} of {len(pending)} records have an empty new answer and are left out, as EasyEdit does; the "
            f"first: {empty[0]}",
            stacklevel=2,
        )
    return completed(cases)


def _mixed(sources: Sequence[str | Path], seed: int | None, split: str, extra: str) -> list[Pending]:
    """The records of all sources, one source after another, or mixed by the seed."""
    keep = _keeps(extra)
    pending = [each for one in sources for each in pending_of(one, split=split, template=0, extra=keep)]
    if seed is not None:
        random.Random(seed).shuffle(pending)
    return pending


def aimed(found: Fact | Case, title: str, target: str) -> Case | None:
    """A record as a case with this target; None where its new answer is empty. FactError if it has no such target."""
    if target == "refuse":
        return refusing(found if isinstance(found, Case) else Case(found.id, title, (), untargeted=(found,)))
    if isinstance(found, Case):
        return found.towards_truth() if target == "true" else None if found.untargeted else found
    case = Case(found.id, title, (), speak=(found.prompt,), untargeted=(found,))
    if target == "true":
        return case.towards_truth()
    if found.foil is None:
        raise FactError(
            f"fact {found.id!r} has no target to edit to: give it a foil, edit to the true answer with --target true, "
            "or leave it out with --skip-bad"
        )
    return replace(case, requests=(EditRequest.of(found),), untargeted=())


def untargeted(pending: Sequence[Pending]) -> int:
    """How many facts the records hold that can be read, if each says the truth and none has a target; else 0."""
    count = 0
    for each in pending:
        try:
            found = each.read()
        except FactError:
            continue
        if isinstance(found, Case) or found.foil is not None:
            return 0
        count += 1
    return count
