"""One of several parts of long work, for job arrays: each part has a journal of its own, and `merge` makes one of them.

The items of the work are dealt out in turn: shard 2 of 4 has the 2nd, the 6th, the 10th. Where some are computed side
by side, such units are dealt out whole. A shard's journal says which part of which work it is, so that shards that do
not belong together, or are missing or unfinished, are named. Merged lines stand in the order in which one process would
have written them, and their journal is then taken up as any other.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from factscope.errors import StoreError, UserError
from factscope.files import parsed_json
from factscope.runs.journal import Journal, differing

T = TypeVar("T")
SHARD = "shard"  # what a journal's first line says of it, under this name
Line = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """Part `number` of `of`, from 1 on."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise UserError(f"there is no shard {self.number} of {self.of}: they are 1 to {self.of}")

    @classmethod
    def read(cls, text: str) -> "Shard":
        """As on a command line, "2/4"; UserError where it is no shard."""
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if found is None:
            raise UserError(f"--shard {text!r}: write the part and how many there are, as 2/4")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number} of {self.of}"

    def part(self, items: Sequence[T]) -> list[T]:
        """The items of this shard; UserError where there are more shards than items, so that some would have none."""
        if len(items) < self.of:
            if len(items) == 1:
                raise UserError(f"shard {self} cannot be: the work is one piece; leave --shard out")
            raise UserError(
                f"shard {self} cannot be: the work has {len(items)} pieces, and every shard needs one; use at most "
                f"{len(items)} shards"
            )
        return list(items[self.number - 1 :: self.of])

    def said(self, whole: int, unit: int = 1, items: str = "") -> dict[str, Any]:
        """What the journal's first line adds: its part of `whole` lines, which are dealt out by `unit` lines.

        `items` is a digest of what was dealt out, where the rest of the line does not say it.
        """
        more = {"items": items} if items else {}
        return {SHARD: asdict(self) | {"whole": whole, "unit": unit, "threads": torch.get_num_threads()} | more}


@dataclass(frozen=True)
class _Part:
    """A shard's journal."""

    place: Path
    work: dict[str, Any]  # without what is said of the shard
    shard: Shard
    whole: int
    unit: int
    threads: int
    items: str
    lines: list[Line]

    def blocks(self) -> list[list[Line]]:
        return [self.lines[begin : begin + self.unit] for begin in range(0, len(self.lines), self.unit)]

    @property
    def size(self) -> int:
        """How many lines it has when it is whole."""
        units = [min(self.unit, self.whole - begin) for begin in range(0, self.whole, self.unit)]
        return sum(units[self.shard.number - 1 :: self.shard.of])


def merge(journals: Sequence[Path], into: Path, enough: Callable[[dict[str, Any], Sequence[Line]], bool]) -> list[str]:
    """Write the journal `into` that one process would have written; gives notes.

    `enough(work, lines)` says whether the work ends after these lines though there are more items.

    Raises StoreError for a journal of no shard, shards of different work, a shard that is missing, twice there or not
    finished, and a journal `into` that holds something else.
    """
    parts = [_read(place) for place in journals]
    first = parts[0]
    for part in parts[1:]:
        if other := differing(_identity(first), _identity(part)):
            raise StoreError(
                f"{part.place.parent} and {first.place.parent} are shards of different work ({', '.join(other)})"
            )
    by_number: dict[int, _Part] = {}
    for part in parts:
        if twin := by_number.get(part.shard.number):
            raise StoreError(f"{part.place.parent} and {twin.place.parent} are both shard {part.shard}; give each once")
        by_number[part.shard.number] = part
    if missing := [n for n in range(1, first.shard.of + 1) if n not in by_number]:
        names = f"shard {missing[0]}" if len(missing) == 1 else f"shards {', '.join(map(str, missing))}"
        raise StoreError(f"{names} of {first.shard.of} is missing: give the folders of all")
    ordered = [by_number[number] for number in sorted(by_number)]
    for part in ordered:
        if len(part.lines) < part.size and not enough(part.work, part.lines):
            raise StoreError(
                f"shard {part.shard} in {part.place.parent} is not finished ({len(part.lines)} of {part.size} pieces "
                "are done); run its command again"
            )
    _write(into, first.work, _interleaved(ordered, enough))
    threads = [part.threads for part in ordered]
    if len(set(threads)) > 1:
        return [f"the shards were computed with {', '.join(map(str, threads))} threads, so last digits may differ"]
    return []


def _read(place: Path) -> _Part:
    """A shard's journal, checked line by line; StoreError for any other."""
    try:
        with place.open(encoding="utf-8") as file:
            work = parsed_json(file.readline())["work"]
        said = work[SHARD]
    except (OSError, ValueError, KeyError, TypeError) as trouble:
        raise StoreError(f"{place.parent} holds no shard of any work; --shard 1/2 makes the first of two") from trouble
    with Journal(place, work) as journal:
        lines = list(journal.done)
    own = {name: value for name, value in work.items() if name != SHARD}
    dealt = said["whole"], said["unit"], said["threads"], said.get("items", "")
    return _Part(place, own, Shard(said["number"], said["of"]), *dealt, lines)


def _identity(part: _Part) -> dict[str, Any]:
    return part.work | {"shards": part.shard.of, "whole": part.whole, "unit": part.unit, "items": part.items}


def _interleaved(parts: Sequence[_Part], enough: Callable[[dict[str, Any], Sequence[Line]], bool]) -> list[Line]:
    """All lines in the order of one process, as far as it would have gone."""
    blocks = [part.blocks() for part in parts]
    lines: list[Line] = []
    for turn in range(max(map(len, blocks))):
        for own in blocks:
            for line in own[turn] if turn < len(own) else ():
                lines.append(line)
                if enough(parts[0].work, lines):
                    return lines
    return lines


def _write(into: Path, work: dict[str, Any], lines: Sequence[Line]) -> None:
    with Journal(into, work) as journal:
        before = len(journal.done)
        if journal.done[: len(lines)] != list(lines[:before]):
            raise StoreError(f"{into} holds other pieces of this work; merge into another folder with --out")
        for line in lines[before:]:
            journal.add(line)
