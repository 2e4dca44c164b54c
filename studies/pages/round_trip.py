"""A round trip as a page and in words: what editing back brings back, beside the exact undo."""

from typing import Any

import numpy as np

from factscope.plots.figures.intervals import Group, Intervals
from factscope.plots.labels import counted
from factscope.plots.specs import Cell, Headline, Number, Page, Section, Table, Text
from factscope.results.provenance import provenance
from factscope.statistics import INTERVALS, interval
from studies.tables.round_trip import MEASURES, RoundTrip, StateRead

WHAT = (
    "Edited: old to new. Edited back: new to old by the same method, on top. Contradicted: instead, a second edit that "
    "cannot hold beside the first. Null: the change that is left after editing back, as large and answering to the "
    "same inputs, but writing at random. Taken out: the first edit's exact undo. Distance: ||W - W before|| / "
    "||W before|| over the weights that the method changes. Reverse and composite: shipped questions that follow "
    "from the edit; reverse asks the new object for the subject."
)


def words(result: RoundTrip) -> list[str]:
    """What came back by each method, and which of two contradicting edits holds."""
    return [line for method in result.methods for line in (_back(result, method), *_against(result, method))]


def page(result: RoundTrip) -> Page:
    """The result in words first, then every measure of every state, and the facts."""
    head = Headline(_all(result), tuple(_number(result, method) for method in result.methods[:4]))
    said = Text("\n\n".join(words(result)))
    pictures = (
        picture(result, "P(old)", "The old answer", (0.0, 1.0)),
        picture(result, "KL unrelated", "Unrelated facts, away from the unedited model"),
    )
    first = Section("What is left", (head, *(one for one in pictures if one.groups), said, table(result)), WHAT)
    facts = tuple(zip(result.prompts, result.old, result.new, result.second, strict=True))
    how = Section(
        "How it was measured",
        (
            Table("Facts", ("prompt", "old", "new", "the edit that contradicts"), facts),
            provenance(result.run, ("unrelated facts", str(result.unrelated))),
        ),
    )
    title = f"Edited and edited back: {counted(len(result.prompts), 'fact')}"
    return Page(title, (first, how), f"{result.model}, {', '.join(result.methods)}")


def summary(result: RoundTrip) -> dict[str, Any]:
    """Every measure's mean, by method and state."""
    return {
        "facts": len(result.prompts),
        "methods": {
            method: {
                one.state: {name: one.mean(name) for name in MEASURES if one.mean(name) is not None}
                for one in result.read
                if one.method == method
            }
            for method in result.methods
        },
    }


def records(result: RoundTrip) -> list[dict[str, Any]]:
    """A row a method, state and fact."""
    return [
        {"method": one.method, "state": one.state, "prompt": prompt}
        | {name: one.values[name][place] for name in MEASURES}
        for one in result.read
        for place, prompt in enumerate(result.prompts)
    ]  # fmt: skip


def picture(result: RoundTrip, measure: str, title: str, limits: tuple[float, float] | None = None) -> Intervals:
    """One measure in every state, the methods beside each other; without groups if no fact has it."""
    states = tuple(dict.fromkeys(one.state for one in result.read))
    read = {(one.method, one.state): one for one in result.read}
    groups = []
    for method in result.methods:
        some = [read[method, state].known(measure) if (method, state) in read else [] for state in states]
        if any(some):
            ends = np.array([_ends(known, measure) if known else (np.nan, np.nan) for known in some])
            means = np.array([np.mean(known) if known else np.nan for known in some])
            groups.append(Group(method, means, ends[:, 0], ends[:, 1]))
    note = f"Bars are {INTERVALS}." if len(result.prompts) > 1 else ""
    return Intervals(title, states, tuple(groups), measure, MEASURES[measure], limits, note)


def table(result: RoundTrip) -> Table:
    """A row a method and state; measures that no fact has are left out."""
    shown = [name for name in MEASURES if any(one.mean(name) is not None for one in result.read)]
    rows: list[tuple[Cell, ...]] = []
    for one in result.read:
        if one.state != "unedited" or one.method == result.methods[0]:
            method = "none" if one.state == "unedited" else one.method
            rows.append((method, one.state, *(_cell(one, name) for name in shown)))
    note = f"Means over {counted(len(result.prompts), 'fact')}"
    note += f"; in brackets {INTERVALS}." if len(result.prompts) > 1 else "."
    return Table("Every state", ("method", "state", *shown), tuple(rows), note=note)


def _cell(one: StateRead, name: str) -> Cell:
    known = one.known(name)
    if not known:
        return None
    mean, (low, high) = _short(sum(known) / len(known)), _ends(known, name)
    ends = [_short(low), _short(high)] if len(known) > 1 and low == low else [mean]
    return mean if set(ends) == {mean} else f"{mean} [{', '.join(ends)}]"


def _ends(known: list[float], name: str) -> tuple[float, float]:
    return interval(known, MEASURES[name] if MEASURES[name] == "share" else "mean")


def _short(value: float) -> str:
    """Two digits; what is under a thousandth, of a probability or of nats, says no more than that."""
    return f"{value:.2g}" if value == 0 or abs(value) >= 0.001 else "<0.001"


def _all(result: RoundTrip) -> str:
    """What came back by all methods together."""
    homes = [(method, *_home(result, method)) for method in result.methods]
    said = "; ".join(f"by {method} {home} of {moved}" for method, moved, home in homes)
    return (
        f"Edited back, facts that had been edited answer the old again: {said}. The weights are not where they were; "
        "taken out instead, an edit leaves nothing."
    )


def _number(result: RoundTrip, method: str) -> Number:
    left = result.state(method, "edited back").mean("distance")
    if left is None:
        return Number("no weight", f"{method} changes none")
    return Number(f"{left:.2g}", f"distance of the weights after editing back by {method}; after the exact undo 0")


def _back(result: RoundTrip, method: str) -> str:
    before, edited, again = (result.state(method, state) for state in ("unedited", "edited", "edited back"))
    moved, home = _home(result, method)
    said = (
        f"{method}: {moved} of {counted(len(result.prompts), 'fact')} were edited; edited back, {home} of these answer "
        f"the old again (P(old) {_p(before.mean('P(old)'))} before, {_p(edited.mean('P(old)'))} edited, "
        f"{_p(again.mean('P(old)'))} edited back)"
    )
    far, left = edited.mean("distance"), again.mean("distance")
    if far is not None and left is not None:
        null, drift = result.state(method, "null").mean("KL unrelated"), again.mean("KL unrelated")
        said += f"; the weights are {left:.2g} of their norm from where they were, after the edit alone {far:.2g}"
        if drift is not None and null is not None:
            said += (
                f", and unrelated facts have moved by {drift:.2g} nats, under a random change as large by {null:.2g}"
            )
    return said + ". Taken out instead, the edit leaves nothing: distance 0."


def _home(result: RoundTrip, method: str) -> tuple[int, int]:
    """How many facts were edited, and how many of those answer the old again once edited back."""
    held, came = (result.state(method, state).values["old preferred"] for state in ("edited", "edited back"))
    moved = [place for place, value in enumerate(held) if value == 0.0]
    return len(moved), sum(came[place] == 1.0 for place in moved)


def _against(result: RoundTrip, method: str) -> list[str]:
    if not any(result.second):
        return []
    edited, after = (result.state(method, state) for state in ("edited", "contradicted"))
    return [
        f"{method}, contradicted: the second edit's answer has P {_p(after.mean('P(third)'))}, before it "
        f"{_p(edited.mean('P(third)'))}; the first edit's falls from {_p(edited.mean('P(new)'))} to "
        f"{_p(after.mean('P(new)'))}."
    ]


def _p(value: float | None) -> str:
    return "unknown" if value is None else _short(value)
