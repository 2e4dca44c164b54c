"""One attack on a command, and the oracle that judges how it ended.

A command may end in two ways: with 0, having done what was asked, or with 2 and one sentence in its own name. All else
has fallen: a traceback, another code, silence, a hang, memory without end, control characters at the terminal, a run
folder that is neither whole nor absent, a file outside the folder in which the command was given, code that ran. The
last is seen by a canary: every hostile file that could run code would write a file of that name.
"""

import contextlib
import importlib
import json
import os
import re
import resource
import select
import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factscope.runs import store
from helpers.commands import COMMANDS, invoke
from helpers.models import TOY

CANARY = "canary"
SECONDS = 60  # that a command may take on a tiny model; the machine may be busy
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


def attempt(
    name: str,
    arguments: Sequence[Any],
    room: Path,
    refused: bool = False,
    apart: bool = True,
    answers: bool = False,
) -> Fall | None:
    """Run a command in `room`/inside; what fell, or None. `refused`: it must not succeed. `answers`: NaN is none.

    `apart`: in a process of its own, so that what cannot be interrupted can be ended, and what it does to this process
    is seen by nobody.
    """
    before, inside = outside(room), room / "inside"
    words = (_apart if apart else _words)(arguments, inside, refused, answers)
    words = words or after(inside)
    if not words and outside(room) != before:
        words = f"wrote outside: {sorted(map(str, set(outside(room)) ^ set(before)))[:3]}"
    return Fall(name, " ".join(map(str, arguments))[:300], words) if words else None


def _apart(arguments: Sequence[Any], inside: Path, refused: bool, answers: bool) -> str:
    """The same in a child that is killed when its time is up."""
    report, answer = os.pipe()
    if not (child := os.fork()):
        words = "the process ended itself"
        try:
            sizes = Path("/proc/self/statm").read_text().split()
            most = int(sizes[0]) * os.sysconf("SC_PAGE_SIZE") + GIGABYTES * 2**30
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            words = _words(arguments, inside, refused, answers)
        finally:
            os.write(answer, words.encode("utf-8", "replace")[:4000])
            os._exit(0)
    os.close(answer)
    try:
        if select.select([report], [], [], SECONDS)[0]:
            words = os.read(report, 8000).decode()
            os.waitpid(child, 0)
            return words if words else ""
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return f"hung for {SECONDS} s"
    finally:
        os.close(report)


def _words(arguments: Sequence[Any], inside: Path, refused: bool, answers: bool) -> str:
    """Run the command and judge it; "" for nothing to say."""
    try:
        with contextlib.chdir(inside):
            ended = invoke(*arguments)
        words = judged(ended, str(arguments[0]), refused)
        if words or not answers or ended.exit_code or NAN.search(" ".join(map(str, arguments))):
            return words
        told = NAN.search(ended.stdout)
        return f"NaN in an answer: {ended.stdout[max(0, told.start() - 60) : told.end() + 20]!r}" if told else ""
    except BaseException as trouble:  # of a command, KeyboardInterrupt and pyo3's panics too
        frame = traceback.extract_tb(trouble.__traceback__)[-1]
        ours = [one for one in traceback.extract_tb(trouble.__traceback__) if _is_ours(one.filename)]
        places = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in (frame, *ours[-2:]))
        return f"{type(trouble).__name__}: {str(trouble)[:150]} at {places}"


def _is_ours(filename: str) -> bool:
    return any(f"/{package}/" in filename for package in ("tracing", "circuits", "editing", "studies", "factscope"))


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
    """Once in a process: what its children would else do each for itself (load the toy, import the commands)."""
    for module in ("circuits.pages.circuit", "studies.circuit", "studies.edit", "studies.saved", "tracing.average"):
        importlib.import_module(module)
    from factscope.model.load import load
    from studies.commands import app

    toy, usual = load(str(TOY), device="cpu"), app.loader

    def loader(model: str, device: str | None, dtype: str) -> Any:
        return (
            (lambda: toy)
            if (model, dtype) == (str(TOY), "float32") and device in (None, "cpu")
            else usual(model, device, dtype)
        )

    app.loader = loader
    for command in COMMANDS:
        invoke(command, "no such command")
