"""A command in a forked process, which may be killed, starved of disk or told another time.

The parent has loaded the toy and imported the commands, and has no threads; so a child begins its work at once, and is
as good as a fresh interpreter for whatever lies on the disk. The kill is the system's own SIGKILL, given by the parent
at a moment, or by the child to itself at one of its file events. What `Ended` says of a killed child is None.
"""

import contextlib
import json
import os
import random
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from helpers.commands import Ended, invoke

SECONDS = 300  # that a piece of work may take; the machine may be busy
TOKEN = "FACTSCOPE_CAMPAIGN"  # in the environment of a child and of whatever processes it starts
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SAID = 6000  # characters of an output that the parent hears: a pipe holds no more than 64 kB

Trouble = Callable[[], Any]  # what befalls a child before it begins


class Child(NamedTuple):
    """A process at work, and where it will say how it ended."""

    pid: int
    report: int


def started(arguments: Sequence[Any], inside: Path, trouble: Trouble | None = None) -> Child:
    """Fork a child that runs the command in `inside`."""
    report, answer = os.pipe()
    sys.stdout.flush()
    with warnings.catch_warnings():  # a thread that waits for the test runner is none of ours
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        os.close(answer)
        return Child(pid, report)
    try:
        os.close(report)
        os.environ[TOKEN] = str(os.getpid())
        with contextlib.chdir(inside):
            if trouble is not None:
                trouble()
            try:
                found = invoke(*arguments)
            except BaseException as fault:  # a traceback at a terminal
                found = Ended(1, "", f"Traceback: {type(fault).__name__}: {fault}")
        said = {"ended": [found.exit_code, found.stdout[-SAID:], found.stderr[-SAID:]], "events": Events.seen}
        os.write(answer, json.dumps(said).encode())
    finally:
        os._exit(0)


def heard(child: Child, seconds: float = SECONDS) -> dict[str, Any]:
    """What a child says at its end: "ended", which is None for one that was killed, and the number of its "events".

    Raises TimeoutError for one that hangs, and kills it.
    """
    try:
        if not select.select([child.report], [], [], seconds)[0]:
            os.kill(child.pid, signal.SIGKILL)
            raise TimeoutError(f"hung for {seconds:.0f} s")
        words = os.read(child.report, 2**17)
        found: dict[str, Any] = json.loads(words) if words else {"ended": None, "events": 0}
    finally:
        os.close(child.report)
        os.waitpid(child.pid, 0)
        for left in started_by(child.pid):
            with contextlib.suppress(OSError):
                os.kill(left, signal.SIGKILL)
    found["ended"] = None if found["ended"] is None else Ended(*found["ended"])
    return found


def run(arguments: Sequence[Any], inside: Path, trouble: Trouble | None = None) -> Ended | None:
    """How the command ended; None if it was killed."""
    ended: Ended | None = heard(started(arguments, inside, trouble))["ended"]
    return ended


def killed_after(seconds: float, arguments: Sequence[Any], inside: Path) -> bool:
    """Kill the command when the time is up; whether it was still at work."""
    child = started(arguments, inside)
    if not select.select([child.report], [], [], seconds)[0]:
        os.kill(child.pid, signal.SIGKILL)
    return heard(child)["ended"] is None


def started_by(pid: int) -> list[int]:
    """The living processes that a child started, and those that they did: Ray's."""
    mark, found = f"{TOKEN}={pid}\0".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(place.name) != pid and mark in (place / "environ").read_bytes():
                found.append(int(place.name))
    return found


@dataclass
class Events:
    """File events of a process as they come: files opened to be written, renamed, removed, made; bytes forced to disk.

    At event number `last` it kills itself. `torn`: had bytes just been forced to the disk, some of the last are taken
    away again, as a disk without power would.
    """

    last: int | None = None
    torn: random.Random | None = None
    seen: ClassVar[int] = 0  # so far, in this process

    def watch(self) -> None:
        """From now on, for good: only in a child."""
        self.sizes: dict[int, int] = {}
        self.own, self.fsync = os.getpid(), os.fsync
        os.fsync = self._forced  # type: ignore[assignment]
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: Any) -> None:
        written = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") or (
            written and not str(arguments[0]).startswith(("/dev", "/proc"))
        ):
            self._counted()

    def _forced(self, file: int) -> None:
        self._counted()
        self.fsync(file)
        size, before = os.fstat(file).st_size, self.sizes.get(os.fstat(file).st_ino, 0)
        if self.torn is not None and Events.seen + 1 == self.last and size > before:
            os.ftruncate(file, self.torn.randint(before, size))
        self.sizes[os.fstat(file).st_ino] = size
        self._counted()

    def _counted(self) -> None:
        if os.getpid() != self.own:
            return
        Events.seen += 1
        if Events.seen == self.last:
            os.kill(self.own, signal.SIGKILL)
            time.sleep(60)
