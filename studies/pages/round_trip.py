"""A round trip as a page and in words: what editing back brings back, beside the exact undo."""

from typing import Any

from factscope.plots.labels import counted
from factscope.plots.specs import Card, Cell, Headline, Number, Page, Section, Table, Text
from factscope.statistics import INTERVALS, interval
from studies.round_trip import MEASURES, RoundTrip, StateRead

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
    head = Headline(words(result)[0], tuple(_number(result, method) for method in result.methods[:4]))
    first = Section("What is left", (head, Text("\n\n".join(words(result))), table(result)), WHAT)
    facts = tuple(zip(result.prompts, result.old, result.new, result.second, strict=True))
    how = Section(
        "How it was measured",
        (
            Table("Facts", ("prompt", "old", "new", "the edit that contradicts"), facts),
            Card("Provenance", (("unrelated facts", str(result.unrelated)), *result.run.items()), result.run.command),
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


def table(result: RoundTrip) -> Table:
    """A row a method and state; measures that no fact has are left out."""
    shown = [name for name in MEASURES if any(one.mean(name) is not None for one in result.read)]
    rows: list[tuple[Cell, ...]] = []
    for one in result.read:
        if one.state != "unedited" or one.method == result.methods[0]:
            method = "" if one.state == "unedited" else one.method
            rows.append((method, one.state, *(_cell(one, name) for name in shown)))
    note = f"Means over {counted(len(result.prompts), 'fact')}"
    note += f"; in brackets {INTERVALS}." if len(result.prompts) > 1 else "."
    return Table("Every state", ("method", "state", *shown), tuple(rows), note=note)


def _cell(one: StateRead, name: str) -> Cell:
    known = [value for value in one.values[name] if value is not None]
    if not known:
        return None
    mean = sum(known) / len(known)
    low, high = interval(known, MEASURES[name] if MEASURES[name] == "share" else "mean")
    return f"{mean:.3g}" + (f" [{low:.3g}, {high:.3g}]" if len(known) > 1 and low == low else "")


def _number(result: RoundTrip, method: str) -> Number:
    left = result.state(method, "edited back").mean("distance")
    if left is None:
        return Number("no weight", f"{method} changes none")
    return Number(f"{left:.2g}", f"distance of the weights after editing back by {method}; after the exact undo 0")


def _back(result: RoundTrip, method: str) -> str:
    before, edited, again = (result.state(method, state) for state in ("unedited", "edited", "edited back"))
    held, came = (one.values["old preferred"] for one in (edited, again))
    moved = [place for place, value in enumerate(held) if value == 0.0]
    home = sum(came[place] == 1.0 for place in moved)
    said = (
        f"{method}: {len(moved)} of {counted(len(held), 'fact')} were edited; edited back, {home} of these answer the "
        f"old again (P(old) {_p(before.mean('P(old)'))} before, {_p(edited.mean('P(old)'))} edited, "
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
    return "unknown" if value is None else f"{value:.2g}"
