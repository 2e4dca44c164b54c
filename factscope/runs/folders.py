"""Where a run goes: a folder of its own, named by time or by its content, and writable before hours of work."""

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from factscope.errors import StoreError, UserError
from factscope.files import sweep

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
def alone(lock: str | Path, refusal: str) -> Iterator[None]:
    """Hold a lock file for the block, so that no two processes do the same work; StoreError(`refusal`) if it is held.

    The file goes while it is still ours: after the release it could be another process's.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout as trouble:
        raise StoreError(refusal) from trouble
    except OSError as trouble:
        raise StoreError(f"cannot write {lock}: {trouble.strerror}; choose another folder with --out") from trouble
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file; the release does
            Path(lock).unlink(missing_ok=True)
        held.release()


@contextlib.contextmanager
def writable(folder: Path, fresh: bool = False) -> Iterator[Path]:
    """Make sure, before hours of work, that results can be written to `folder`.

    `fresh` refuses a folder that holds a run; one that another process writes into is always refused. After a failure
    no part of a new result is left, nor an empty folder; a whole result stays where only its page is missing, and a
    journal, for the work to be taken up from.
    """
    if fresh and (folder / "result.json").exists():
        raise UserError(f"{folder} holds a run already; choose another folder with --out")
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)  # whoever holds the folder may have swept it up
    except OSError as trouble:
        raise StoreError(
            f"cannot write into {folder}: {trouble.strerror}; choose another folder with --out"
        ) from trouble
    before = {name for name in RESULT if (folder / name).exists()}
    try:
        with alone(folder / ".lock", f"{folder} is in use: another process writes into it; choose another with --out"):
            sweep(folder)
            yield folder
    except BaseException as trouble:
        whole = (folder / "result.json").exists() and "result.json" not in before  # it is written last
        if whole:
            trouble.add_note(f"The result is saved in {folder}.")
        for name in () if whole else RESULT - before:
            (folder / name).unlink(missing_ok=True)
        place = folder.absolute()
        while place != existing.absolute():
            with contextlib.suppress(OSError):
                place.rmdir()  # only if it is empty
            place = place.parent
        raise
