"""Where a run goes: a folder of its own, named by time or by its settings, and writable before hours of work."""

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from factscope.errors import StoreError, UserError

RESULT = frozenset(
    {"result.json", "result.safetensors", "page.html", "config.yaml"}
)  # in a run folder: all or none of them


def new_folder(command: str, words: str, runs: Path = Path("runs")) -> Path:
    """runs/<time>-<command>-<slug>, not there yet."""
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{command}-{_slug(words)}"
    for number in range(1000):
        folder = runs / (stem if number == 0 else f"{stem}-{number}")
        if not folder.exists():
            return folder
    raise StoreError(f"{runs} holds a thousand folders of this second; choose a folder with --out")


def settled_folder(command: str, words: str, key: str, runs: Path = Path("runs")) -> Path:
    """runs/<command>-<slug>-<key>, the same one for the same options: what the same command goes on from."""
    return runs / f"{command}-{_slug(words)}-{key}"


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:60].strip("-") or "prompt"


@contextlib.contextmanager
def writable(folder: Path, fresh: bool = False) -> Iterator[Path]:
    """Make sure, before hours of work, that results can be written to `folder`.

    `fresh` refuses a folder that holds a run. After a failure neither part of a new result nor an empty folder is left;
    a journal stays, for the work to be taken up from.
    """
    if not folder.name and folder == Path():
        raise UserError("--out is empty; give a folder's name")
    if fresh and (folder / "result.json").exists():
        raise UserError(f"{folder} holds a run already; choose another folder with --out")
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as trouble:
        raise StoreError(
            f"cannot write into {folder}: {trouble.strerror}; choose another folder with --out"
        ) from trouble
    before = {name for name in RESULT if (folder / name).exists()}
    try:
        yield folder
    except BaseException:
        for name in RESULT - before:
            (folder / name).unlink(missing_ok=True)
        place = folder.absolute()
        while place != existing.absolute():
            with contextlib.suppress(OSError):
                place.rmdir()  # only if it is empty
            place = place.parent
        raise
