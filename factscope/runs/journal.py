"""An append-only record of long work, so that it can be taken up where it stopped.

One JSON line for each finished piece, flushed to the disk before the next begins. The first line says what the work
is; taking up a journal with other settings is refused, because its pieces would not fit (one without a piece is begun
anew). A line that was cut off by a kill is dropped: its piece is done again. Each line ends with a checksum of itself
and all before it, so one that was altered later is refused, too.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from factscope.errors import StoreError
from factscope.files import parsed_json
from factscope.runs.folders import alone

CHECK = "check"


class Journal:
    """`with Journal(path, work) as journal:` — `journal.done` holds the pieces of earlier runs, `add` appends one."""

    def __init__(self, path: str | Path, work: dict[str, Any]) -> None:
        self.path = Path(path)
        self.work = json.loads(json.dumps(work))  # as it will read back
        self.done: list[dict[str, Any]] = []
        self._check = ""  # of the last line

    def __enter__(self) -> "Journal":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as trouble:
            raise StoreError(f"cannot write the journal {self.path}: {trouble.strerror}") from trouble
        self._lock = alone(f"{self.path}.lock", f"{self.path} is in use: another process is at the same work")
        self._lock.__enter__()
        try:
            kept = self._read()
            # without a buffer: one that a full disk did not take would be written at the end, and fail there again
            self._file = self.path.open("r+b" if self.path.exists() else "w+b", buffering=0)
            self._file.truncate(kept)
            self._file.seek(kept)
            if not kept:
                self._write({"work": self.work})
        except BaseException as trouble:  # a refused journal has no __exit__
            self._lock.__exit__(None, None, None)
            if isinstance(trouble, OSError):
                raise StoreError(f"cannot write the journal {self.path}: {trouble.strerror}") from trouble
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.__exit__(None, None, None)

    def add(self, piece: dict[str, Any]) -> None:
        """Record a finished piece, on disk when this returns."""
        try:
            self._write(piece)
        except OSError as trouble:
            raise StoreError(f"cannot write the journal {self.path}: {trouble.strerror}") from trouble
        self.done.append(piece)

    def _write(self, line: dict[str, Any]) -> None:
        check = self._next(line)
        left = json.dumps({**line, CHECK: check}, ensure_ascii=False).encode() + b"\n"
        while left:
            left = left[self._file.write(left) :]
        os.fsync(self._file.fileno())
        self._check = check

    def _next(self, line: dict[str, Any]) -> str:
        """The checksum of a line that follows those that were written or read."""
        return hashlib.sha256((self._check + json.dumps(line, ensure_ascii=False)).encode()).hexdigest()[:16]

    def _read(self) -> int:
        """Load the finished pieces; the number of bytes that are whole."""
        if not self.path.exists():
            return 0
        whole = 0
        lines: list[dict[str, Any]] = []
        found = self.path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(found, 1):
            if not line.endswith(b"\n"):
                break
            try:
                piece = parsed_json(line.decode())
            except ValueError:
                piece = None
            if not isinstance(piece, dict) or CHECK not in piece:
                raise StoreError(
                    f"line {number} of {self.path} is not a line of a journal: start again with another --out"
                )
            check = piece.pop(CHECK)
            if check != self._next(piece):
                raise StoreError(f"line {number} of {self.path} was altered: start again with another --out")
            self._check = check
            lines.append(piece)
            whole += len(line)
        if len(lines) == 1 and lines[0].get("work") != self.work:  # nothing was finished, so nothing would be lost
            self._check = ""
            return 0
        if lines and (before := lines[0].get("work", {})) != self.work:
            raise StoreError(
                f"{self.path} was begun with other settings ({', '.join(differing(before, self.work))}); use the same "
                "ones to continue, or another --out to start again"
            )
        self.done = lines[1:]
        return whole


def differing(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """The settings that are not alike, by name, with both values where they are short: "every: 10, not 5"."""
    found: list[str] = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differing(old, new, f"{prefix}{key}.")
        elif old != new:
            values = f"{json.dumps(old, ensure_ascii=False)}, not {json.dumps(new, ensure_ascii=False)}"
            found.append(f"{prefix}{key}: {values}" if len(values) <= 60 else f"{prefix}{key}")
    return found
