"""Two benches side by side: subtracted where their numbers mean the same thing, and what else is not alike named."""

from dataclasses import dataclass
from pathlib import Path

from editing.evaluation.metrics import label
from editing.evaluation.protocol import Protocol, differences
from editing.pages.scores import value
from factscope.errors import StoreError
from factscope.plots.specs import Cell, Table
from factscope.runs import store
from factscope.runs.journal import differing
from studies.bench.bench import Bench
from studies.bench.page import TIMES


@dataclass(frozen=True)
class Planned:
    """What is known of a bench before it is run, and by which its numbers may or may not be subtracted."""

    protocol: Protocol
    suite: str
    asked: str
    start_token: str


def obstacles(one: Bench | Planned, other: Bench) -> list[str]:
    """Why the numbers of two results must not be subtracted; none if they may."""
    found = list(differences(one.protocol, other.protocol))
    if one.suite != other.suite:
        found.append(f"the suite is {one.suite} in one and {other.suite} in the other")
    elif one.asked != other.asked:
        found.append("the cases or their questions are not the same")
    if one.start_token != other.start_token:
        found.append(f"the start token is {one.start_token!r} in one and {other.start_token!r} in the other")
    return found


def unlike(one: Bench, other: Bench) -> list[str]:
    """What else is not alike: differences between the two may come from it, and that may be why they are compared."""
    found = [] if one.moments == other.moments else [f"the second moments are {one.moments} and {other.moments}"]
    if one.run is not None and other.run is not None:
        for name in ("model", "fingerprint", "dtype", "seed", "device"):
            mine, theirs = getattr(one.run, name), getattr(other.run, name)
            if mine != theirs and not (name == "fingerprint" and one.run.model != other.run.model):
                found.append(f"the {name} is {mine} and {theirs}")
    configs = {trial.method: trial.config for trial in other.trials}
    for trial in one.trials:
        if trial.method in configs:
            found += [f"{trial.method}'s {text}" for text in differing(trial.config, configs[trial.method])]
    return found


def side_by_side(one: Bench, other: Bench) -> Table:
    """Every score that either has; their difference only where nothing stands in the way."""
    allowed = not obstacles(one, other)
    mine, theirs = ({(s.method, s.metric, s.when): s for s in bench.scores} for bench in (one, other))
    rows: list[tuple[Cell, ...]] = []
    for key in dict.fromkeys([*mine, *theirs]):
        a, b = mine.get(key), theirs.get(key)
        cells: list[Cell] = [None if s is None else value(s) for s in (a, b)]
        if allowed:
            cells.append(round(a.value - b.value, 4) if a is not None and b is not None else None)
        rows.append((key[0], label(key[1]), TIMES[key[2]], *cells))
    columns = ("method", "metric", "read", "this", "that", *(("difference",) * allowed))
    return Table("Side by side", columns, tuple(rows))


def load(folder: Path) -> Bench:
    """A saved bench. StoreError if there is none."""
    place = folder.parent if folder.is_file() else folder
    found = store.load(place, Bench)
    if not found.trials:
        raise StoreError(f"{place} holds a bench without a method")
    return found
