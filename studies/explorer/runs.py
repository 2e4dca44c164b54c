"""Which runs a folder holds, and what each says of itself without its tensors: kind, facts, model, command, time."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from factscope.errors import StoreError
from factscope.runs import store
from factscope.runs.kinds import named

ASKED = ("request", "requests", "prompt", "prompts")  # fields of a result that say what it is about
DEEP = 5  # levels of a result below which nothing says what it is about
PAGE = "page.html"


@dataclass(frozen=True)
class Entry:
    """One run, as the list shows it."""

    place: tuple[str, ...]  # the folders that lead to it from the one that is looked through
    kind: str  # in words, with its article
    facts: tuple[str, ...]  # the sentences that it is about
    model: str
    command: str
    started: str  # UTC, ISO 8601; "" where the run does not say it
    seconds: float | None
    trouble: str = ""  # why it cannot be read
    targets: tuple[str, ...] = ()  # what an edit puts for each sentence's answer, "" for nothing; or none at all

    @property
    def name(self) -> str:
        """The folders as one path."""
        return "/".join(self.place)


def entries(folder: Path) -> tuple[Entry, ...]:
    """All runs in `folder` and its folders, the newest first; those that cannot be read say why.

    Raises StoreError where there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise StoreError(f"there is no folder {folder}; name one that holds runs, as runs")
    found = [_entry(folder, file) for file in _results(folder)]
    if not found:
        raise StoreError(f"{folder} holds no run: a run is a folder with {store.JSON}, as every command leaves it")
    return tuple(sorted(found, key=lambda entry: (entry.started, entry.name), reverse=True))


def kept_file(folder: Path, place: Sequence[str], name: str) -> Path | None:
    """A file of a run, where it is there: a plain file, and within `folder` wherever links may lead."""
    file = folder.joinpath(*place, name)
    try:
        return file if file.is_file() and file.resolve().is_relative_to(folder.resolve()) else None
    except (OSError, RuntimeError, ValueError):  # a link to itself
        return None


def _results(folder: Path) -> Iterator[Path]:
    """The result files of runs: not of the parts that a run keeps within its own folder."""
    for file in sorted(folder.rglob(store.JSON)):
        if kept_file(folder, file.relative_to(folder).parts[:-1], store.JSON) is None:
            continue
        inside = file.relative_to(folder).parents
        if not any((folder / part / store.JSON).is_file() for part in list(inside)[1:]):
            yield file


def _entry(folder: Path, file: Path) -> Entry:
    place, stat = file.parent.relative_to(folder).parts, file.stat()
    try:
        said, targets = _said(file.parent, stat.st_mtime_ns, stat.st_size)
        return Entry(place, *said, targets=targets)
    except StoreError as trouble:
        return Entry(place, "a run that cannot be read", (), "", "", "", None, str(trouble))


@lru_cache(maxsize=4096)
def _said(
    run: Path, _changed: int, _size: int
) -> tuple[tuple[str, tuple[str, ...], str, str, str, float | None], tuple[str, ...]]:
    """Kind, facts, model, command, start and seconds, and the targets; read once for each state of the file."""
    document = store.header(run)
    body = document["result"]
    ran: dict[str, Any] = next((one for one in _fields(body, ("run",)) if isinstance(one, dict)), {})
    seconds = ran.get("seconds")
    asked = asked_of(body)
    said = (
        named(document["kind"]),
        tuple(asked),
        str(ran.get("model", "")),
        str(ran.get("command", "")),
        str(ran.get("started", "")),
        float(seconds) if isinstance(seconds, int | float) else None,
    )
    return said, tuple(asked.values())


def asked_of(body: Any) -> dict[str, str]:
    """The sentences that a result is about: the shallowest request or prompt in it, or several that stand together.

    With each the target that a request gives it, "" for a prompt.
    """
    for found in _fields(body, ASKED):
        asked: dict[str, str] = {}
        for one in found if isinstance(found, list) else [found]:
            if text := _sentence(one):
                target = one.get("target") if one.get("prompt") else ""
                asked.setdefault(text, target if isinstance(target, str) else "")
        if asked:
            return asked
    return {}


def _sentence(one: Any) -> str:
    """The prompt of a request, or the text of a prompt."""
    if not isinstance(one, dict):
        return ""
    text = one.get("prompt") or one.get("text")
    return text if isinstance(text, str) else ""


def _fields(body: Any, names: Sequence[str]) -> Iterator[Any]:
    """The values of these fields, the shallowest first, in the order in which they are written."""
    level = [body]
    for _ in range(DEEP):
        below: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                yield from (part[name] for name in names if part.get(name))
                below += part.values()
            elif isinstance(part, list):
                below += part[:8]
        level = below


def same_facts(runs: Sequence[Entry]) -> dict[Entry, tuple[Entry, ...]]:
    """For each run the others that are about one of its sentences, in the order of the list."""
    about: dict[str, list[Entry]] = {}
    for entry in runs:
        for fact in entry.facts:
            about.setdefault(_plain(fact), []).append(entry)
    return {
        entry: tuple(dict.fromkeys(other for fact in entry.facts for other in about[_plain(fact)] if other != entry))
        for entry in runs
    }


def _plain(text: str) -> str:
    return json.dumps(" ".join(text.split()).casefold())
