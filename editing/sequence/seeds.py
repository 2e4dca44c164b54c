"""The same facts edited one after another in several orders: how much of what is kept depends on the order.

Every seed draws an order of the facts, and whatever else a sequence draws by its seed (context templates, unrelated
facts, the fixed text). It has a whole sequence of its own in the folder `seed-N`, with its edits and its page, which
goes on from where it was stopped as any sequence does. What is kept of each here is the curve of its quantities.

Sequences do not know of each other, so workers (factscope/runs/workers.py) take whole ones, which they write
themselves: their machines must have the run folder in common. Shards (factscope/runs/shards.py) deal them out.
"""

import json
import math
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from editing.sequence.result import Checkpoint, SequenceResult
from editing.sequence.rules import QUANTITIES
from factscope.cache import digest
from factscope.data.fact import Fact
from factscope.data.request import EditRequest, requests_of
from factscope.errors import EditError
from factscope.model.bridge import Bridge, info
from factscope.model.weights import fingerprint
from factscope.plots.show import page_of, shown
from factscope.progress import progress
from factscope.results.result import Result
from factscope.runs import store
from factscope.runs.journal import Journal
from factscope.runs.provenance import Run, stopwatch
from factscope.runs.shards import Shard
from factscope.runs.store import SCHEMA
from factscope.runs.workers import ALONE, Workers, each

JOURNAL = "journal.jsonl"  # in the run folder: a line for each sequence that is done
PAGE = "page.html"

# A whole sequence: of these facts in this order, by this seed, in this folder. It is sent to workers.
One = Callable[[Bridge, Sequence[EditRequest], int, Path], SequenceResult]


@dataclass(frozen=True)
class Orders:
    """Which orders, and who makes their sequences; no number depends on the latter."""

    seeds: tuple[int, ...]
    workers: Workers = ALONE
    shard: Shard | None = None  # only this part of them; None: all

    def __post_init__(self) -> None:
        if not self.seeds:
            raise EditError("sequences over seeds need at least one seed")
        twice = [seed for seed in self.seeds if self.seeds.count(seed) > 1]
        if twice:
            raise EditError(f"the seed {twice[0]} is there twice: its sequence would be counted twice")


@dataclass(frozen=True)
class Point:
    """A checkpoint of one sequence, as far as it is compared with those of others."""

    facts: int
    restrained: bool
    restraint: str  # with which settings, where several were read
    quantities: dict[str, float | None]  # of rules.QUANTITIES, tasks, what was looked at; None for what is no number
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, point: Checkpoint) -> "Point":
        """What is kept of a checkpoint."""
        read = {name: value for name, value in point.extra.items() if isinstance(value, int | float)}
        values = {name: value if math.isfinite(value) else None for name, value in (point.quantities | read).items()}
        return cls(point.facts, point.restrained, point.restraint, values, point.warnings)


@dataclass(frozen=True)
class OrderRun:
    """One sequence: its order, how far it came, and its curve."""

    seed: int
    order: tuple[int, ...]  # the place of each edited fact among those asked for
    stopped: str  # why before the last fact; empty if not
    weights: str  # fingerprint of the model at the end
    seconds: float  # of its edits, with the reading of their own facts
    points: tuple[Point, ...]


class Place(NamedTuple):
    """What checkpoints of different sequences have in common."""

    facts: int
    restrained: bool
    restraint: str


class Spread(NamedTuple):
    """One quantity over the sequences that came to a checkpoint."""

    values: tuple[float, ...]  # one a sequence, in the order of seeds; nan for what is not a number
    mean: float
    sd: float  # of the sample; nan for a single sequence
    low: float
    high: float


@shown("editing.pages.sequence.seeds")
@dataclass(frozen=True, eq=False)
class SequenceOrders(Result):
    """The same facts edited in several orders."""

    method: str
    config: dict[str, Any]  # of the method
    settings: dict[str, Any]  # of the sequences; the seed is each one's own
    model: str
    facts: tuple[str, ...]  # ids, as they were asked for
    runs: tuple[OrderRun, ...]
    moments: str
    notes: tuple[str, ...] = ()
    run: Run | None = None

    @property
    def places(self) -> tuple[Place, ...]:
        """Every checkpoint that any sequence came to: as they follow one another, restrained ones behind the others."""
        found = {Place(point.facts, point.restrained, point.restraint) for one in self.runs for point in one.points}
        return tuple(sorted(found))

    @property
    def ends(self) -> tuple[Point, ...]:
        """Each order's last checkpoint as its model was left; a restrained copy that was read beside does not count."""
        beside = self.settings.get("restrain_at") == "beside"
        return tuple([point for point in one.points if not (beside and point.restrained)][-1] for one in self.runs)

    @property
    def quantities(self) -> tuple[str, ...]:
        """The names of what was measured: as the rules have them, then of tasks and of what was looked at."""
        measured = dict.fromkeys(name for one in self.runs for point in one.points for name in point.quantities)
        ruled = [name for name in QUANTITIES if name in measured]
        return (*ruled, *(name for name in measured if name not in ruled))

    def at_end(self, quantity: str) -> Spread | None:
        """A quantity where each sequence ended; None where none measured it."""
        return _spread(quantity, self.ends)

    def spread(self, quantity: str, place: Place) -> Spread | None:
        """A quantity at a checkpoint, over the sequences that came to it; None where none measured it."""
        points = (point for one in self.runs for point in one.points)
        return _spread(quantity, [p for p in points if Place(p.facts, p.restrained, p.restraint) == place])


def _spread(quantity: str, points: Sequence[Point]) -> Spread | None:
    found = [
        math.nan if (value := point.quantities[quantity]) is None else value
        for point in points
        if quantity in point.quantities
    ]
    if not found:
        return None
    if any(map(math.isnan, found)):  # a mean of the others would hide a model that is broken
        return Spread(tuple(found), *4 * (math.nan,))
    return Spread(tuple(found), fmean(found), stdev(found) if len(found) > 1 else math.nan, min(found), max(found))


def in_order(requests: Sequence[EditRequest], seed: int) -> tuple[EditRequest, ...]:
    """The facts in the order that a seed draws."""
    return tuple(requests[place] for place in drawn(len(requests), seed))


def drawn(count: int, seed: int) -> list[int]:
    """The places of so many facts in the order that a seed draws."""
    places = list(range(count))
    random.Random(f"order {seed}").shuffle(places)
    return places


def over_seeds(
    model: Bridge,
    asked: Sequence[EditRequest | Fact],
    one: One,
    orders: Orders,
    folder: str | Path,
    said: dict[str, Any],
    shown: bool | None = None,
) -> SequenceOrders | None:
    """One whole sequence for each seed, each in a folder of its own; of a shard nothing is given but its journal.

    Args:
        one: makes a sequence (`editing.sequence.run.sequence`); a function of a module, or a frozen dataclass, for it
            is sent to workers.
        said: all that the sequences depend on beside the facts and their seeds, as plain values.

    Raises EditError for a single fact, and what the sequences raise.
    """
    requests, folder = requests_of(asked), Path(folder)
    if len(requests) < 2:
        raise EditError("one fact has one order: give several facts, or leave the seeds out")
    if len(requests) < 9 and len(orders.seeds) > (possible := math.factorial(len(requests))):
        raise EditError(
            f"{len(requests)} facts have {possible} orders, and {len(orders.seeds)} are asked for: give more facts, or "
            "fewer seeds"
        )
    run = Run.of(model, orders.seeds[0])
    work: dict[str, Any] = {"what": "edit sequence over seeds", "schema": SCHEMA, "fingerprint": fingerprint(model)}
    work |= {"facts": digest(requests), "seeds": orders.seeds} | said
    mine, shard = list(orders.seeds), orders.shard
    if shard is not None:
        work |= shard.said(len(orders.seeds))
        mine = shard.part(orders.seeds)
    with Journal(folder / JOURNAL, work) as log, stopwatch() as seconds:
        left = mine[len(log.done) :]
        lines = list(log.done)
        with (
            # alone, the bar of each sequence is seen, and not one of all
            progress("sequences of edits", len(mine), len(lines), not orders.workers.alone and shown) as advance,
            closing(each(model, Sequenced(one, requests, folder), left, orders.workers)) as found,
        ):
            for line in found:
                log.add(line)
                lines.append(line)
                advance(1)
    return None if shard is not None else _result(model, requests, lines, run.ended(seconds[0]))


@dataclass(frozen=True, eq=False)
class Sequenced:
    """What a worker does with a seed: the whole sequence, saved with its page; gives the line of the journal."""

    one: One
    requests: tuple[EditRequest, ...]
    folder: Path

    def __call__(self, model: Bridge, seed: int) -> dict[str, Any]:
        """The line, as a journal gives it back."""
        from factscope.plots.page import write_page  # plotly is heavy, and a sequence is long

        place = self.folder / f"seed-{seed}"
        result = self.one(model, in_order(self.requests, seed), seed, place)
        store.save(result, place)
        write_page(page_of(result), place / PAGE)
        order = drawn(len(self.requests), seed)[: len(result.facts)]
        kept = OrderRun(
            seed, tuple(order), result.stopped, result.last.weights, sum(result.seconds),
            tuple(map(Point.of, result.checkpoints)),
        )  # fmt: skip
        shared = {name: getattr(result, name) for name in ("method", "config", "settings", "moments", "notes")}
        line = {"of": shared | {"settings": _without_seed(result.settings)}, "order": asdict(kept)}
        read_back: dict[str, Any] = json.loads(json.dumps(line))  # what a stopped run would read from its journal
        return read_back


def _without_seed(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "seed"}


def _result(
    model: Bridge, requests: Sequence[EditRequest], lines: Sequence[dict[str, Any]], run: Run
) -> SequenceOrders:
    shared = lines[0]["of"]
    notes = tuple(dict.fromkeys(note for line in lines for note in line["of"]["notes"]))
    return SequenceOrders(
        method=shared["method"],
        config=shared["config"],
        settings=shared["settings"],
        model=info(model).name,
        facts=tuple(request.id for request in requests),
        runs=tuple(_read(line["order"]) for line in lines),
        moments=shared["moments"],
        notes=notes,
        run=run,
    )


def _read(line: dict[str, Any]) -> OrderRun:
    """A sequence as the journal has it."""
    points = tuple(Point(**point | {"warnings": tuple(point["warnings"])}) for point in line["points"])
    return OrderRun(**line | {"order": tuple(line["order"]), "points": points})
