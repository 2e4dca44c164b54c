"""`trace cache`: what is kept between runs, where, and how big; and how to be rid of it.

Kinds are the folders of the cache: models as downloaded and converted, second moments of keys, contexts that a model
wrote for its edits, what was proven of models. All of it can be made again; deleting costs the time and the download
that made it.
"""

import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from factscope.cache import cache_folder
from factscope.errors import StoreError, UserError
from studies.commands.app import tell
from studies.commands.command import OwnForm, command, group
from studies.commands.options import AsJson, Options, argument, starting

KINDS = (
    "models",
    "moments",
    "contexts",
    "proofs",
)  # what there is to expect; another folder of the cache is shown as well


@dataclass(frozen=True, kw_only=True)
class CacheOptions(Options):
    """How it is told."""

    as_json: AsJson = False


@command("cache", CacheOptions, "trace cache", "trace cache --json", "trace cache clear moments", bare=True)
def cache(options: CacheOptions) -> None:
    """Show what is kept between runs: kind, size, age and name. FACTSCOPE_CACHE names another folder for it.

    Also: cache clear deletes it, of one kind or all of it.
    """
    folder, entries = cache_folder(), kept()
    total = sum(size for _, _, size, _ in entries)
    if options.as_json:
        listed = [{"kind": kind, "name": name, "bytes": size, "changed": day} for kind, name, size, day in entries]
        tell(json.dumps({"folder": str(folder), "bytes": total, "entries": listed}, ensure_ascii=False))
        return
    for kind, name, size, day in entries:
        tell(f"{kind:<10}{in_words(size):>9}  {day}  {name}")
    tell(f"{in_words(total)} in {folder}")


@dataclass(frozen=True, kw_only=True)
class ClearOptions(Options):
    """What is deleted."""

    kind: Annotated[
        str | None,
        argument(
            "models, moments, contexts or proofs  [dim](default: all)[/dim]",
            metavar="KIND",
            autocompletion=starting(lambda: kinds()),
        ),
    ] = None


@command("cache clear", ClearOptions, "trace cache clear moments", bare=True)
def clear(options: ClearOptions) -> None:
    """Delete what is kept, of one kind or all of it. It is made again when it is needed."""
    kind = options.kind
    if kind is not None and kind not in kinds():
        there = ", ".join(kinds())
        raise UserError(f"the cache has no {kind!r}; choose one of {there}, or name none to clear everything")
    freed = 0
    for one in kinds() if kind is None else (kind,):
        place = cache_folder() / one
        freed += _bytes(place)
        try:
            if place.exists():
                shutil.rmtree(place)
        except OSError as trouble:
            raise StoreError(f"cannot delete {place}: {trouble.strerror}; delete it by hand") from trouble
    tell(f"{in_words(freed)} freed in {cache_folder()}")


def kinds() -> tuple[str, ...]:
    """The folders of the cache, the expected ones first."""
    place = cache_folder()
    there = sorted(each.name for each in place.iterdir() if each.is_dir()) if place.is_dir() else []
    return (*KINDS, *(name for name in there if name not in KINDS))


def kept() -> list[tuple[str, str, int, str]]:
    """(kind, name, bytes, day of the last change) of every entry, largest first within a kind."""
    found = []
    for kind in kinds():
        place = cache_folder() / kind
        entries = [entry for entry in place.iterdir() if entry.is_dir()] if place.is_dir() else []
        sized = [(kind, entry.name, _bytes(entry), _day(entry)) for entry in entries if not entry.name.startswith(".")]
        found += sorted(sized, key=lambda one: -one[2])
    return found


def in_words(size: int) -> str:
    """Bytes as people say them: 93 MB, in powers of a thousand as disks are sold."""
    amount, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _day(folder: Path) -> str:
    return f"{datetime.fromtimestamp(folder.stat().st_mtime):%Y-%m-%d}"


app = group(
    "cache", "What is kept between runs.", (cache, clear), "trace cache", "trace cache clear moments", cls=OwnForm
)
