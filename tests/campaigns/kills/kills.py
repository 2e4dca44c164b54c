"""Random kills: whoever is killed wherever goes on, and ends with what nobody interrupted has.

Each work is done once in peace. Then it is begun in a new folder, killed up to three times as it goes on, and
run to its end. The kill comes at a random moment, at a random file event, or at a file event whose last bytes are
lost, too; the seed draws which.
"""

import contextlib
import os
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from campaigns.kills.child import Events, heard, killed_after, run, started
from campaigns.kills.likeness import unlike, work_in
from campaigns.kills.works import WORKS, Work
from campaigns.trial import Fall, judged, new_room
from editing.solve.moments import DAY
from helpers.commands import invoke

said = partial(print, flush=True)
KINDS = ("moment", "event", "torn")
MOST = 3  # times that one work is killed


@dataclass(frozen=True)
class Whole:
    """A work that nobody interrupted."""

    work: Work
    seconds: float
    events: int
    found: dict[str, Any]


def warm(place: Path) -> None:
    """Do the first work in this process, so that children find the modules which every work needs."""
    with contextlib.chdir(new(place, WORKS[0]) / "inside"):
        invoke(*WORKS[0].arguments)


def whole(work: Work, place: Path) -> Whole:
    """Do a work in peace. Raises AssertionError where it does not succeed."""
    room = new(place, work)
    began = time.monotonic()
    said = heard(started(work.arguments, room / "inside", Events().watch))
    seconds = time.monotonic() - began
    assert said["ended"] is not None, work.name
    assert said["ended"].exit_code == 0, f"{work.name}: {said['ended']}"
    return Whole(work, seconds, said["events"], found_in(room))


def campaign(place: Path, count: int, seed: int, works: Sequence[Work] = WORKS) -> tuple[dict[str, int], list[Fall]]:
    """Do every work in peace, then kill; how many kills each had, by work and kind, and what fell."""
    warm(place / "warm")
    return killed([whole(work, place / "whole" / str(number)) for number, work in enumerate(works)], place, count, seed)


def killed(wholes: Sequence[Whole], place: Path, count: int, seed: int) -> tuple[dict[str, int], list[Fall]]:
    """`count` kills, dealt to the works by their shares."""
    draw, tried, fell, number = random.Random(seed), dict[str, int](), list[Fall](), 0
    draw.shuffle(turns := [one for one in wholes for _ in range(one.work.share)])
    while (done := sum(tried.values())) < count:
        one = turns[number % len(turns)]
        room = new(place / str(number), one.work)
        for kind in _kills(one, room, draw, count - done):
            name = f"{one.work.name}: {kind}"
            tried[name] = tried.get(name, 0) + 1
        if words := _resumed(one, room):
            fell.append(Fall(f"{one.work.name} (seed {seed}, room {number})", _line(one.work), words))
            said(f"{fell[-1].name}: {words}")
        else:
            shutil.rmtree(room)
        number += 1
        said(f"{sum(tried.values())} kills")
    return tried, fell


def _kills(one: Whole, room: Path, draw: random.Random, left: int) -> list[str]:
    """Kill a work, and again while it goes on; the kinds of those kills that met it alive."""
    found: list[str] = []
    for _ in range(min(left, draw.randint(1, MOST))):
        kind = "moment" if one.work.processes else draw.choice(KINDS)
        if kind == "moment":
            alive = killed_after(draw.random() * one.seconds, one.work.arguments, room / "inside")
        else:
            torn = random.Random(draw.random()) if kind == "torn" else None
            events = Events(last=draw.randint(1, one.events), torn=torn)
            alive = run(one.work.arguments, room / "inside", events.watch) is None
        found += [kind] if alive else []
    return found


def _resumed(one: Whole, room: Path) -> str:
    """Run a killed work to its end; what is wrong with that, "" for nothing."""
    if one.work.later:
        a_day_later(room)
    try:
        ended = run(one.work.arguments, room / "inside")
    except TimeoutError as trouble:
        return str(trouble)
    if ended is None:
        return "the process ended itself"
    whole = ended.exit_code == 0 or (one.work.again and one.work.again in ended.stderr)
    words = judged(ended, str(one.work.arguments[0])) or ("" if whole else ended.stderr[-300:])
    return words or unlike(one.found, found_in(room))


def a_day_later(room: Path) -> None:
    """Let a day go by for what was left half written."""
    for file in room.rglob(".*.part"):
        yesterday = file.stat().st_mtime - 2 * DAY
        os.utime(file, (yesterday, yesterday))


def new(place: Path, work: Work) -> Path:
    """A new folder with the work's files, and a cache of its own."""
    room = new_room(place)
    os.environ["FACTSCOPE_CACHE"] = str(room / "cache")
    work.put(room / "inside")
    return room


def found_in(room: Path) -> dict[str, Any]:
    return {f"{name}/{file}": one for name in ("inside", "cache") for file, one in work_in(room / name).items()}


def _line(work: Work) -> str:
    return " ".join(map(str, work.arguments))
