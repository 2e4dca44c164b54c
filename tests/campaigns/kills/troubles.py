"""What befalls long work besides a kill: a full or read-only disk, a twin, another time, a torn journal.

The disk is a small tmpfs where this user may mount one, else a limit on the size of files; the time is shifted in the
child and in the dates of its files, since the machine's own clock belongs to others too.
"""

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from campaigns.kills.child import Ended, heard, killed_after, run, started
from campaigns.kills.kills import Whole, found_in, new
from campaigns.kills.likeness import unlike
from campaigns.trial import judged

KILOBYTES = (0, 4, 8, 16, 24, 40, 80, 160, 400)  # of disk; the smallest results of the works need about 60
YEAR = 365 * 86_400.0


@contextlib.contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A file system of its own at `place`; the function mounts it again with other options. PermissionError: none."""
    place.mkdir(parents=True, exist_ok=True)
    try:
        _mount(place, f"size={max(4, kilobytes)}k")
    except (OSError, subprocess.CalledProcessError) as trouble:
        raise PermissionError("no file system can be mounted here") from trouble
    try:
        yield lambda options: _mount(place, f"remount,{options}")
    finally:
        subprocess.run(["umount", str(place)], check=True, capture_output=True)


def _mount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True, capture_output=True)


def sentence(ended: Ended | None, one: Whole, may_succeed: bool = True) -> str:
    """What is wrong with how a work in trouble ended: with one sentence, or well if it may; "" for nothing."""
    if ended is None:
        return "the process was killed"
    words = judged(ended, str(one.work.arguments[0]))
    return words or ("accepted in silence" if ended.exit_code == 0 and not may_succeed else "")


def afterwards(one: Whole, room: Path) -> str:
    """Run the work again where the trouble is over; what is not as in the run that nothing befell."""
    ended = run(one.work.arguments, room / "inside")
    words = "the process was killed" if ended is None else judged(ended, str(one.work.arguments[0]))
    if words or ended is None or ended.exit_code:
        return words or f"not taken up: {ended.stderr[-300:] if ended else ''}"
    return unlike(one.found, found_in(room))


def disk_full(one: Whole, place: Path, draw: random.Random) -> str:
    """The disk fills while it works, and is given more room."""
    room, size = new(place, one.work), draw.choice(KILOBYTES)
    try:
        with disk(room / "inside" / "runs", size) as again:
            words = sentence(run(one.work.arguments, room / "inside"), one)
            again("size=100m")
            return words or afterwards(one, room)
    except PermissionError:
        words = sentence(run(one.work.arguments, room / "inside", lambda: _small_files(size)), one)
        return words or afterwards(one, room)


def _small_files(kilobytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing beyond the limit is an error, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(1, kilobytes) * 1024, resource.RLIM_INFINITY))


def read_only(one: Whole, place: Path, draw: random.Random) -> str:
    """The folder cannot be written, from the beginning or from some moment on; then it can."""
    room = new(place, one.work)
    with disk(room / "inside" / "runs", 100_000) as again:
        if draw.random() < 0.5:
            killed_after(draw.random() * one.seconds, one.work.arguments, room / "inside")
        again("ro")
        words = sentence(run(one.work.arguments, room / "inside"), one, may_succeed=False)
        again("rw")
        return words or afterwards(one, room)


def twins(one: Whole, place: Path, draw: random.Random) -> str:
    """Two processes begin the same work in one folder: one or both do it, and who does not says why."""
    room = new(place, one.work)
    first = started(one.work.arguments, room / "inside")
    time.sleep(draw.random() * one.seconds * draw.choice((0.01, 0.5)))
    second = started(one.work.arguments, room / "inside")
    ends = [heard(first)["ended"], heard(second)["ended"]]
    words = next((words for end in ends if (words := sentence(end, one))), "")
    if not words and all(end.exit_code for end in ends):
        words = f"neither did it: {ends[0].stderr[-150:]} | {ends[1].stderr[-150:]}"
    if not words and any(end.exit_code and "another" not in end.stderr for end in ends):
        words = f"refused for another reason: {[end.stderr[-150:] for end in ends]}"
    return words or unlike(one.found, found_in(room)) or afterwards(one, room)


def another_time(one: Whole, place: Path, draw: random.Random) -> str:
    """Killed; then its files are of the past or future, and so is the clock."""
    room = new(place, one.work)
    killed_after(draw.random() * one.seconds, one.work.arguments, room / "inside")
    for file in room.rglob("*"):
        stamp = draw.choice((0.0, time.time() + 80 * YEAR, time.time() - YEAR))
        os.utime(file, (stamp, stamp))
    shift = draw.choice((-50, -1, 1, 70)) * YEAR
    ended = run(one.work.arguments, room / "inside", lambda: _shifted(shift))
    words = "the process was killed" if ended is None else judged(ended, str(one.work.arguments[0]))
    if not words and ended is not None and ended.exit_code:
        words = f"not taken up: {ended.stderr[-300:]}"
    return words or unlike(one.found, found_in(room))


def _shifted(seconds: float) -> None:
    """Another time for all that ask in this process."""
    import datetime

    from factscope.runs import folders, provenance

    usual = time.time
    time.time = lambda: usual() + seconds

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.fromtimestamp(usual() + seconds, tz)

    folders.datetime = provenance.datetime = Shifted  # type: ignore[misc]


def torn_journal(one: Whole, place: Path, draw: random.Random) -> str:
    """Killed, and its journals are cut, changed in a bit, or say a line twice: refused, or done again."""
    room = new(place, one.work)
    killed_after((0.3 + 0.7 * draw.random()) * one.seconds, one.work.arguments, room / "inside")
    harmed = ""
    for file in sorted((room / "inside").rglob("*.jsonl")):
        data = file.read_bytes()
        how, file_data = harm(data, draw)
        file.write_bytes(file_data)
        harmed = harmed or ("" if how == "cut" else how)
    ended = run(one.work.arguments, room / "inside")
    words = sentence(ended, one)
    if words or ended is None or ended.exit_code == 2:
        refused = ended is not None and ("altered" in ended.stderr or "not a line of a journal" in ended.stderr)
        return words or ("" if harmed and refused else f"refused: {ended.stderr[-200:] if ended else ''}")
    return unlike(one.found, found_in(room))


def harm(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """A journal cut at any byte, with a bit flipped, or with a line twice."""
    if not data:
        return "cut", data
    how, at = draw.choice(("cut", "bit", "twice")), draw.randrange(len(data))
    if how == "cut":
        return how, data[:at]
    if how == "bit":
        return how, data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    lines = data.splitlines(keepends=True)
    which = draw.randrange(len(lines))
    return how, b"".join([*lines[: which + 1], *lines[which:]])


TROUBLES = (disk_full, read_only, twins, another_time, torn_journal)
