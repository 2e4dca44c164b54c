"""The same facts edited in several orders, as a page: what all orders share, and how far they lie apart."""

import math
from typing import Any

import numpy as np

from editing.sequence.rules import QUANTITIES, WARN
from editing.sequence.seeds import OrderRun, Place, SequenceOrders, Spread
from factscope.plots.labels import counted, four_digits, heading, settings_in_words
from factscope.plots.specs import Card, Cell, Curves, Headline, Number, Page, Palette, Section, Series, Table
from factscope.results.provenance import provenance

COLOURS: dict[str, Palette] = {"retention": "purple", "paraphrase": "blue", "neighbourhood": "green"}
SHARES = ("retention", "paraphrase", "neighbourhood", "unchanged")
RATIOS = ("perplexity", "condition")  # over the unedited model's
ABOUT = (
    "Each order is a whole sequence of its own: the same facts, edited one after another as its seed draws them, with "
    "context templates, unrelated facts and a fixed text of its own. Lines are means over the orders, bands reach from "
    "the lowest to the highest."
)


def page(result: SequenceOrders) -> Page:
    """The page: the mean and the spread at the end, along the way, and every order."""
    subtitle = f"{result.model}, {result.method}, {len(result.facts)} facts"
    return Page(
        f"{counted(len(result.facts), 'fact')} edited in {counted(len(result.runs), 'order')}",
        (
            Section("What happened", (headline(result), end_table(result)), ABOUT),
            Section("Over the number of edits", curves(result)),
            Section("Every order", (order_table(result),)),
            Section("Every checkpoint", (checkpoint_table(result),)),
            Section("How it was made", (card(result),)),
        ),
        subtitle,
    )


def words(result: SequenceOrders) -> list[str]:
    """A line for each quantity at the end, then how many orders came there."""
    place = result.last
    lines = [f"{'':>14}{'mean':>10}{'sd':>10}{'lowest':>10}{'highest':>10}"]
    for name in result.quantities:
        if (found := result.spread(name, place)) is not None:
            numbers = "".join(f"{value:>10.4g}" for value in (found.mean, found.sd, found.low, found.high))
            lines.append(f"{_named(name):>14}{numbers}")
    said = f"{counted(len(result.runs), 'order')} of {counted(len(result.facts), 'fact')}, edited by {result.method}"
    return [*lines, f"{said}; at the end is {_where(result, place)}", *_told(result), *result.notes]


def summary(result: SequenceOrders) -> dict[str, Any]:
    """The spread of every quantity at every checkpoint, and each order's end; null for what is not a number."""
    points = [
        {"facts": place.facts, "restrained": place.restrained, "restraint": place.restraint}
        | {
            name: {"mean": _number(found.mean), "sd": _number(found.sd), "lowest": _number(found.low),
                   "highest": _number(found.high), "orders": len(found.values)}
            for name in result.quantities if (found := result.spread(name, place)) is not None
        }
        for place in result.places
    ]  # fmt: skip
    orders = [
        {"seed": one.seed, "facts": len(one.order), "stopped": one.stopped, "weights": one.weights}
        for one in result.runs
    ]
    return {"method": result.method, "facts": len(result.facts), "orders": orders, "checkpoints": points}


def records(result: SequenceOrders) -> list[dict[str, Any]]:
    """A row an order, checkpoint and quantity."""
    return [
        {"method": result.method, "seed": one.seed, "facts": point.facts, "restrained": point.restrained,
         "restraint": point.restraint, "quantity": name, "value": math.nan if value is None else value}
        for one in result.runs for point in one.points for name, value in point.quantities.items()
    ]  # fmt: skip


def headline(result: SequenceOrders) -> Headline:
    """What holds at the end in the mean, and how far the orders lie apart."""
    place = result.last
    numbers = tuple(
        Number(_amount(name, found), f"{QUANTITIES[name].split(';')[0]}, mean ± sd over orders")
        for name in ("retention", "unchanged", "perplexity", "condition")
        if (found := result.spread(name, place)) is not None
    )
    kept = result.spread("retention", place)
    held = "" if kept is None else f", between {kept.low:.0%} and {kept.high:.0%} of the edits hold at the end"
    sentence = f"In {counted(len(result.runs), 'order')} of the same {counted(len(result.facts), 'fact')}{held}."
    return Headline(" ".join([sentence, *_told(result)]), numbers)


def end_table(result: SequenceOrders) -> Table:
    """One row a quantity, where the models were left."""
    rows = []
    for name in result.quantities:
        if (found := result.spread(name, result.last)) is not None:
            numbers = map(_cell, (found.mean, found.sd, found.low, found.high))
            rows.append((_named(name), *numbers, len(found.values)))
    note = "; ".join(f"{name}: {QUANTITIES[name]}" for name in result.quantities)
    columns = ("at the end", "mean", "standard deviation", "lowest", "highest", "orders")
    return Table(f"The end: {_where(result, result.last)}", columns, tuple(rows), f"{note}.")


def curves(result: SequenceOrders) -> tuple[Curves, ...]:
    """Each quantity over the number of facts, the mean of all orders with its range."""
    facts = sorted({place.facts for place in result.places})
    drawn = []
    for name in result.quantities:
        lines = (_series(result, name, *of, facts) for of in _lines(result))
        series = tuple(one for one in lines if np.isfinite(one.y).any())
        if not series:
            continue
        y_title = "share" if name in SHARES else "nats" if name == "kl" else "times" if name in RATIOS else ""
        note = heading(QUANTITIES[name]) + "."
        drawn.append(
            Curves(heading(name), np.array(facts), series, "facts edited", (), y_title, log_y=name in RATIOS,
                   least=1.25 if name in RATIOS else 0.0, note=note)
        )  # fmt: skip
    return tuple(drawn)


def _lines(result: SequenceOrders) -> list[tuple[str, bool, str]]:
    """What is drawn as a line: the sequences themselves, and restrained copies beside them; each with its name."""
    if result.settings.get("restrain_at") == "checkpoint":
        names = sorted({place.restraint for place in result.places if place.restrained})
        return [("restrained at every checkpoint", True, name) for name in names]
    copies = sorted({place.restraint for place in result.places if place.restrained})
    beside = copies if result.settings.get("restrain_at") == "beside" else []
    return [("mean of all orders", False, ""), *((f"restrained, {name}", True, name) for name in beside)]


def _series(
    result: SequenceOrders, name: str, title: str, restrained: bool, restraint: str, facts: list[int]
) -> Series:
    """A quantity's mean over the orders at each number of facts, and its range; gaps where nothing was read."""
    found = [result.spread(name, Place(at, restrained, restraint)) for at in facts]
    mean, low, high = (
        np.array([math.nan if one is None else getattr(one, edge) for one in found]) for edge in ("mean", "low", "high")
    )
    return Series(title, mean, low, high, None if restrained else COLOURS.get(name, "red"))


def checkpoint_table(result: SequenceOrders) -> Table:
    """One row a checkpoint: every quantity as mean and standard deviation over the orders that came there."""
    rows: list[tuple[Cell, ...]] = []
    for place in result.places:
        found = [result.spread(name, place) for name in result.quantities]
        count = max(len(one.values) for one in found if one is not None)
        said = place.restraint or "yes" if place.restrained else "no"
        rows.append((place.facts, said, count, *("" if one is None else _plain(one) for one in found)))
    columns = ("facts", "restrained", "orders", *map(_named, result.quantities))
    return Table("Checkpoints", columns, tuple(rows), "Mean ± standard deviation over the orders that came there.")


def order_table(result: SequenceOrders) -> Table:
    """One row an order: where it ended, and which lines it crossed first."""
    names = result.quantities
    rows = tuple(
        (one.seed, len(one.order), *(_cell(_ending(result, one, name)) for name in names),
         _crossed(one) or "none", one.stopped or "no",
         four_digits(one.seconds), one.weights[:12])
        for one in result.runs
    )  # fmt: skip
    note = (
        "Each order's own page and its edits are in the folder seed-N beside this page, or beside its shard's journal "
        "where the work was dealt out. Seconds are of the edits, with the reading of their own facts."
    )
    columns = ("seed", "facts", *map(_named, names), "first signs of collapse", "stopped", "seconds", "weights")
    return Table("Orders", columns, rows, note)


def card(result: SequenceOrders) -> Card:
    """What is needed to do it again."""
    settings = {key: value for key, value in result.settings.items() if value not in (None, ())}
    items = (
        ("method", result.method),
        ("its settings", settings_in_words(result.config)),
        ("each sequence", settings_in_words(settings)),
        ("seeds", ", ".join(str(one.seed) for one in result.runs)),
        ("second moments", result.moments),
        *(("to know", note) for note in result.notes),
    )
    return provenance(result.run, *items)


def _where(result: SequenceOrders, place: Place) -> str:
    count = sum(any((p.facts, p.restrained) == place[:2] for p in one.points) for one in result.runs)
    restrained = ", restrained" if place.restrained else ""
    return f"after {place.facts} facts{restrained}, where {counted(count, 'order')} came"


def _told(result: SequenceOrders) -> list[str]:
    """Which orders ended early, and how many showed signs of collapse."""
    said = [
        f"Seed {one.seed} stopped after {len(one.order)} facts: {one.stopped}." for one in result.runs if one.stopped
    ]
    broken = [one for one in result.runs if any(point.warnings for point in one.points)]
    if broken:
        said.append(f"{len(broken)} of {len(result.runs)} showed signs of collapse.")
    return said


def _crossed(one: OrderRun) -> str:
    """The lines that an order crossed, each with the number of facts at which it first did."""
    first = {
        rule: next(point.facts for point in one.points if rule in point.warnings)
        for rule in map(str, WARN)
        if any(rule in point.warnings for point in one.points)
    }
    return ", ".join(f"{rule} at {facts}" for rule, facts in first.items())


def _ending(result: SequenceOrders, one: OrderRun, name: str) -> float:
    """An order's quantity where its model was left."""
    beside = result.settings.get("restrain_at") == "beside"
    value = [point for point in one.points if not (beside and point.restrained)][-1].quantities.get(name)
    return math.nan if value is None else value


def _named(name: str) -> str:
    return f"{name} ×" if name in RATIOS else name


def _amount(name: str, found: Spread) -> str:
    spread = "" if math.isnan(found.sd) else f" ± {found.sd:.0%}" if name in SHARES else f" ± {found.sd:.2g}"
    return (f"{found.mean:.0%}" if name in SHARES else f"× {found.mean:.3g}") + spread


def _plain(found: Spread) -> str:
    return f"{found.mean:.3g}" + ("" if math.isnan(found.sd) else f" ± {found.sd:.2g}")


def _cell(value: float) -> Cell:
    return four_digits(0.0 if abs(value) < 1e-9 else value)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
