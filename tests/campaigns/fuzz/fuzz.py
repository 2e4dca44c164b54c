"""Random inputs, thousands of them: every command ends with 0 or with one sentence, and no answer is NaN.

Hypothesis draws the inputs, from a seed that is printed; what fell is collected by where it fell, and each kind is
shrunk by hypothesis to the smallest input that falls so. Commands run in a forked process that may be ended; what fell
there is tried again in a process of its own, and if it does not fall then, what came before it is part of the fall.
"""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from campaigns.fuzz.inputs import Input, Seeds, clear, kinds
from campaigns.trial import Asked, Fall, Served, apart, attempt, here, new_room

T = TypeVar("T")
said = partial(print, flush=True)
QUIET: dict[str, Any] = {
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "verbosity": Verbosity.quiet,
}
SHRINKS = 60  # inputs that are tried to make a fall smaller


def drawn(inputs: st.SearchStrategy[T], count: int, seed: int) -> list[T]:
    """So many inputs of a kind, the same ones for the same seed."""
    found: list[T] = []

    @hypothesis.seed(seed)
    @settings(max_examples=count, phases=(Phase.generate,), **QUIET)
    @hypothesis.given(inputs)
    def draw(one: T) -> None:
        found.append(one)

    draw()
    return found[:count]


def shares(count: int, places: dict[str, tuple[int, Any]]) -> dict[str, int]:
    """How many of each kind."""
    whole = sum(share for share, _ in places.values())
    return {kind: max(1, count * share // whole) for kind, (share, _) in places.items()}


def sown(place: Path) -> Seeds:
    """Sound results to grow from, made in a new folder."""
    place.mkdir(parents=True)
    with chdir(place):
        return Seeds.made(place)


def campaign(
    place: Path, count: int, seed: int, only: str = "", shrink: bool = True, say: Callable[[str], Any] = said
) -> tuple[dict[str, int], list[Fall]]:
    """`count` inputs; how many of each kind were tried, and what fell: one for each way of falling, with its number."""
    ways = {kind: way for kind, way in kinds(sown(place / "seeds")).items() if kind.startswith(only)}
    room, tried, fell = new_room(place / "room"), dict[str, int](), list[Fall]()
    for kind, many in shares(count, ways).items():
        inputs = drawn(ways[kind][1], many, seed)
        tried[kind] = len(inputs)
        met: dict[str, list[Fall]] = {}
        with Served() as served:
            for number, one in enumerate(inputs):
                if fall := tried_out(one, room, served):
                    fall = tried_out(one, room) or replace(
                        fall, words=f"after {number} others, not alone: {fall.words}"
                    )
                    if way_of(fall) not in met:
                        say(f"{fall.name}: {fall.words}; {fall.command}")
                    met.setdefault(way_of(fall), []).append(fall)
        say(f"{kind}: {len(inputs)} inputs, {sum(map(len, met.values()))} fell in {len(met)} ways")
        for way, falls in met.items():
            small = shrunk(ways[kind][1], way, room, seed) if shrink else None
            fall = small or falls[0]
            fell.append(replace(fall, name=f"{kind} (seed {seed}, {len(falls)} of {len(inputs)})"))
    return tried, fell


def tried_out(one: Input, room: Path, way: Callable[[Asked], str] = apart) -> Fall | None:
    """Give one input; what fell, or None."""
    clear(room / "inside")
    (room / "inside" / "runs").mkdir()
    one.put(room / "inside")
    fall = attempt(one.kind, one.arguments, room, way=way, answers=True)
    if fall is None:
        return None
    odd = {name: data[:300] for name, data in one.files.items() if len(data) < 3000}
    return replace(fall, command=f"{list(one.arguments)} {odd}"[:1500])


def way_of(fall: Fall) -> str:
    """By where it fell, whatever the input: the same for inputs that fall alike."""
    return re.sub(r"'.*?'|\".*?\"|\d+(?!\.?\d*:)", "", fall.words.split(" at ")[-1])[-120:]


def shrunk(inputs: st.SearchStrategy[Input], way: str, room: Path, seed: int) -> Fall | None:
    """The smallest input that falls so, as far as a few trials find it."""
    last: list[Fall] = []

    def falls(one: Input) -> bool:
        fall = tried_out(one, room)
        if fall is not None and way_of(fall) == way:
            last.append(fall)
            return True
        return False

    try:
        hypothesis.find(inputs, falls, random=random.Random(seed), settings=settings(max_examples=SHRINKS, **QUIET))
    except NoSuchExample:
        return None
    return last[-1] if last else None


def sample(place: Path, each: int, seed: int) -> Iterator[tuple[Input, Fall | None]]:
    """A few of each kind, in this process; with what fell."""
    room = new_room(place / "room")
    for way in kinds(sown(place / "seeds")).values():
        for one in drawn(way[1], each, seed):
            yield one, tried_out(one, room, here)
