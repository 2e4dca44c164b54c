"""One attack on a command, and the oracle that judges how it ended.

A command may end in two ways: with 0, having done what was asked, or with 2 and one sentence in its own name. All else
has fallen: a traceback, another code, silence, a hang, memory without end, control characters at the terminal, a run
folder that is neither whole nor absent, a file outside the folder in which the command was given, code that ran. The
last is seen by a canary: every hostile file that could run code would write a file of that name.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import re
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from factscope.runs import store
from helpers.commands import COMMANDS, invoke
from helpers.models import TOY

PACKAGES = ("factscope", "tracing", "circuits", "editing", "studies")
CANARY = "canary"
SECONDS = 60  # of the processor's time that a command may take on a tiny model, or twenty times as many by the clock
MANY = 50  # commands that one process runs
WELL = "well"  # what a process says of a command with which nothing is wrong
GIGABYTES = 6  # of address space that it may take beyond what the process has: threads and maps count
NAN = re.compile(r"\bnan\b", re.IGNORECASE)
WHOLE = (store.JSON, store.TENSORS)


@dataclass(frozen=True)
class Fall:
    """A command that ended as none may."""

    name: str
    command: str
    words: str


@dataclass(frozen=True)
class Report:
    """What a campaign tried, by kind, and what fell; `lines` are printed, `tables` kept beside them."""

    tried: dict[str, int]
    fell: list[Fall]
    lines: tuple[str, ...] = ()
    tables: dict[str, Any] = field(default_factory=dict)


def asked(count: int, seed: int) -> tuple[int, int]:
    """How many trials and from which seed: as the environment says, else these."""
    return int(os.environ.get("CAMPAIGN_COUNT", count)), int(os.environ.get("CAMPAIGN_SEED", seed))


class Asked(NamedTuple):
    """A command and the folder in which it is given; `refused`: it must not succeed; `answers`: NaN is none."""

    arguments: Sequence[Any]
    inside: Path
    refused: bool = False
    answers: bool = False


def apart(asked: Asked) -> str:
    """What is wrong with how a command ends in a process of its own, which can be ended and whose deeds nobody sees."""
    with Served() as served:
        return served(asked)


def attempt(
    name: str,
    arguments: Sequence[Any],
    room: Path,
    refused: bool = False,
    way: Callable[[Asked], str] = apart,
    answers: bool = False,
) -> Fall | None:
    """Run a command in `room`/inside, apart, `here` or `Served`; what fell, or None."""
    before, inside = outside(room), room / "inside"
    words = way(Asked(arguments, inside, refused, answers))
    words = words or after(inside)
    if not words and outside(room) != before:
        words = f"wrote outside: {sorted(map(str, set(outside(room)) ^ set(before)))[:3]}"
    return Fall(name, " ".join(map(str, arguments))[:300], words) if words else None


class Served(contextlib.AbstractContextManager["Served"]):
    """A process that runs commands one after another, killed when the time of one is up.

    To begin a process costs more than most commands. A new one takes over after `MANY`, and after each that fell.
    """

    child, done = 0, 0

    def __call__(self, asked: Asked) -> str:
        """What is wrong with how a command ends; "" for nothing."""
        if not self.child:
            self._begin()
        self.done += 1
        given = [list(map(str, asked.arguments)), str(asked.inside), asked.refused, asked.answers]
        os.write(self.task, json.dumps(given).encode() + b"\n")  # escapes half characters, too
        if self._ends():
            words = os.read(self.report, 8000).decode() or "the process ended itself"
        else:
            words = f"hung for {SECONDS} s"
        if words != WELL or self.done >= MANY:
            self.__exit__()
        return words.removeprefix(WELL)

    def _ends(self) -> bool:
        """Wait for the command, by the processor's time: the machine may be busy with other work."""
        began, first = time.monotonic(), self._worked()
        while not select.select([self.report], [], [], 2)[0]:
            if self._worked() - first > SECONDS or time.monotonic() - began > 20 * SECONDS:
                return False
        return True

    def _worked(self) -> float:
        ticks = Path(f"/proc/{self.child}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def _begin(self) -> None:
        (task, self.task), (self.report, report) = os.pipe(), os.pipe()
        sys.stdout.flush()
        self.child, self.done = os.fork(), 0
        if self.child:
            os.close(task)
            os.close(report)
            return
        try:
            os.close(self.task)
            os.close(self.report)
            sizes = Path("/proc/self/statm").read_text().split()
            most = int(sizes[0]) * os.sysconf("SC_PAGE_SIZE") + GIGABYTES * 2**30
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            with os.fdopen(task, "rb") as tasks:
                for line in tasks:
                    arguments, inside, *how = json.loads(line)
                    words = here(Asked(arguments, Path(inside), *how))
                    os.write(report, (words or WELL).encode("utf-8", "replace")[:4000])
        finally:
            os._exit(0)

    def __exit__(self, *_: object) -> None:
        """End the process, if there is one."""
        if self.child:
            with contextlib.suppress(OSError):
                os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
            os.close(self.task)
            os.close(self.report)
            self.child = 0


def here(asked: Asked) -> str:
    """The same in this process: for a sample that is known to end."""
    arguments = asked.arguments
    try:
        with contextlib.chdir(asked.inside):
            ended = invoke(*arguments)
        words = judged(ended, str(arguments[0]), asked.refused)
        if words or not asked.answers or ended.exit_code or NAN.search(" ".join(map(str, arguments))):
            return words
        told = NAN.search(ended.stdout)
        return f"NaN in an answer: {ended.stdout[max(0, told.start() - 60) : told.end() + 20]!r}" if told else ""
    except BaseException as trouble:  # of a command, KeyboardInterrupt and pyo3's panics too
        frame = traceback.extract_tb(trouble.__traceback__)[-1]
        ours = [one for one in traceback.extract_tb(trouble.__traceback__) if _is_ours(one.filename)]
        places = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in (frame, *ours[-2:]))
        return f"{type(trouble).__name__}: {str(trouble)[:150]} at {places}"


def _is_ours(filename: str) -> bool:
    return any(f"/{package}/" in filename for package in PACKAGES)


def judged(ended: Any, command: str, refused: bool = False) -> str:
    """What is wrong with how a command ended; "" for nothing."""
    said = ended.stderr.strip().splitlines()
    if "Traceback" in ended.stderr:
        return f"a traceback: {said[-1][:200]}"
    if ended.exit_code not in (0, 2):
        return f"exit code {ended.exit_code}: {ended.stderr[-200:]}"
    if ended.exit_code == 2 and not any(line.startswith(f"{command}: ") for line in said):
        return f"exit code 2 without a sentence: {ended.stderr[-200:]!r}"
    if ended.exit_code == 2 and len(said[-1]) > 2000:
        return f"a sentence of {len(said[-1])} characters"
    if refused and ended.exit_code == 0:
        return f"accepted: {ended.stdout[:200]!r}"
    shown = ended.stdout + ended.stderr
    control = next((sign for sign in shown if (ord(sign) < 32 and sign not in "\n\t") or 127 <= ord(sign) < 160), "")
    return f"control character {control!r} at the terminal" if control else ""


def after(inside: Path) -> str:
    """What a command left behind that it must not."""
    if found := next(inside.parent.rglob(CANARY), None):
        found.unlink()
        return "code ran: the canary was written"
    for folder in {file.parent for name in (*WHOLE, "page.html") for file in (inside / "runs").rglob(name)}:
        missing = [name for name in WHOLE if not any((at / name).is_file() for at in (folder, folder / "report"))]
        if missing:
            return f"half a run: {folder.name} has no {' and no '.join(missing)}"
    left = [file.name for file in inside.rglob("*") if file.suffix in (".part", ".lock") or ".probe-" in file.name]
    return f"left behind: {left[:3]}" if left else ""


def outside(room: Path) -> dict[Path, tuple[int, int]]:
    """Everything beside the folder in which the command is given, but the cache: path -> size and time."""
    found = {}
    for place, folders, files in os.walk(room):
        if Path(place) == room:
            folders[:] = [name for name in folders if name not in ("inside", "cache")]
        for name in files:
            stat = (Path(place) / name).lstat()
            found[Path(place) / name] = (stat.st_size, stat.st_mtime_ns)
    return found


def new_room(place: Path) -> Path:
    """A folder with one inside, in which commands are given; what lies beside that must stay as it is."""
    (place / "inside" / "runs").mkdir(parents=True)
    (place / "beside").mkdir()
    (place / "beside" / "mine.json").write_text(json.dumps({"mine": True}))
    return place


def prepare() -> None:
    """Once in a process: what its children would else do each for itself (import all modules, load the toy)."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    from factscope.model.load import load
    from studies.commands import app

    toy, usual = load(str(TOY), device="cpu"), app.loader

    def loader(model: str, device: str | None, dtype: str, spread: str | None = None) -> Any:
        return (
            (lambda: toy)
            if (model, dtype, spread) == (str(TOY), "float32", None) and device in (None, "cpu")
            else usual(model, device, dtype, spread)
        )

    app.loader = loader
    for command in COMMANDS:
        invoke(command, "no such command")
    gc.collect()
    gc.freeze()  # else a child that collects copies all that it shares
