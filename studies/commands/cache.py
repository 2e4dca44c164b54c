"""`trace cache`: what is kept between runs, where, and how big; and how to be rid of it.

Kinds are the folders of the cache: models as downloaded and converted, second moments of keys, contexts that a model
wrote for its edits. All of it can be made again; deleting costs the time and the download that made it.
"""

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from factscope.cache import cache_folder
from factscope.errors import StoreError, UserError
from studies.commands.app import tell

KINDS = ("models", "moments", "contexts")  # what there is to expect; another folder of the cache is shown as well

EXAMPLES = """[bold]Examples[/bold]

trace cache

trace cache --json

trace cache clear moments
"""

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)


@app.callback(invoke_without_command=True, epilog=EXAMPLES)
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
) -> None:
    """Show what is kept between runs: kind, size, age and name. FACTSCOPE_CACHE names another folder for it."""
    if context.invoked_subcommand is not None:
        return
    folder, entries = cache_folder(), kept()
    total = sum(size for _, _, size, _ in entries)
    if as_json:
        listed = [{"kind": kind, "name": name, "bytes": size, "changed": day} for kind, name, size, day in entries]
        tell(json.dumps({"folder": str(folder), "bytes": total, "entries": listed}, ensure_ascii=False))
        return
    for kind, name, size, day in entries:
        tell(f"{kind:<10}{in_words(size):>9}  {day}  {name}")
    tell(f"{in_words(total)} in {folder}")


@app.command(epilog="[bold]Example[/bold]\n\ntrace cache clear moments")
def clear(
    kind: Annotated[str | None, typer.Argument(help="models, moments or contexts  [dim](default: all)[/dim]")] = None,
) -> None:
    """Delete what is kept, of one kind or all of it. It is made again when it is needed."""
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
