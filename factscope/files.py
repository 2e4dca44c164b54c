"""Files written whole or not at all, and JSON of strangers read.

A page or a result that stops halfway looks like a result. So the bytes go to a temporary file in the same folder, are
forced to the disk, and only then take the name of the file in one step; on any failure the old file is still there,
untouched, and the temporary one is gone. Only a process that is killed leaves it, for the next to sweep up.
"""

import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from factscope.errors import StoreError

TORN = re.compile(r"\..+\.[0-9a-f]{32}\.part|\.probe-\d+")  # names that no finished file has


def read_json(path: str | Path) -> Any:
    """What a JSON file holds. Raises OSError, or ValueError for all that is no JSON which Python can read."""
    return parsed_json(Path(path).read_text(encoding="utf-8"))


def parsed_json(text: str) -> Any:
    """The value in a text; ValueError also where a stranger's lists are nested beyond Python's stack, or where a text
    holds half a character (a lone surrogate), which no file, tokenizer or hash takes.
    """
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("its lists or objects are nested too deeply") from None
    except UnicodeEncodeError as trouble:
        half = trouble.object[trouble.start : trouble.end]
        raise ValueError(f"a text in it holds half a character, {json.dumps(half)}") from None
    return value


def write_bytes_atomically(path: str | Path, content: bytes) -> Path:
    """Write the file whole, making its folder if need be, or raise `StoreError` and change nothing; gives the path."""
    path = Path(path)
    temporary = path.parent / f".{path.name[:40]}.{uuid4().hex}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not `tempfile`: its files are private to the user, and a page is made to be shared.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:  # an interruption too must leave nothing behind
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = (error.strerror or str(error)).lower()
            raise StoreError(f"cannot write {path}: {reason}; choose another folder or make room") from error
        raise
    return path


def write_text_atomically(path: str | Path, content: str) -> Path:
    """The same for text, as UTF-8 with the line ends that it has; a lone surrogate becomes a question mark."""
    return write_bytes_atomically(path, content.encode("utf-8", errors="replace"))


def sweep(folder: str | Path, name: str | None = None, age: float = 0.0) -> None:
    """Remove what killed processes left half written in a folder and below it, or of one file in it.

    No other process may be writing there now; where one may, only what nobody has touched for `age` seconds goes.
    """
    for left in Path(folder).rglob(".*") if name is None else Path(folder).glob(f".{name}.*"):
        if TORN.fullmatch(left.name):
            with suppress(OSError):
                if not age or time.time() - left.stat().st_mtime > age:
                    left.unlink(missing_ok=True)
