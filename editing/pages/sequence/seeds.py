"""The same facts edited in several orders, as a page: what all orders share, and how far they lie apart."""

import math
from typing import Any

import numpy as np

from editing.sequence.rules import QUANTITIES, WARN
from editing.sequence.seeds import OrderRun, Place, Point, SequenceOrders, Spread
from factscope.plots.labels import counted, four_digits, heading, settings_in_words
from factscope.plots.specs import Card, Cell, Curves, Headline, Number, Page, Palette, Section, Series, Table
from factscope.results.provenance import provenance

COLOURS: dict[str, Palette] = {"retention": "purple", "paraphrase": "blue", "neighbourhood": "green"}
HEAD = {  # what stands large, in a few words
    "retention": "of the edits hold at the end",
    "unchanged": "of unrelated facts' next tokens unchanged",
    "perplexity": "perplexity of a fixed text",
    "condition": "condition number, worst weight",
}
TITLES = {"kl": "KL"}
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
    """A line for each quantity where the orders ended, then where that was, and what restrained copies had there."""
    width = max(map(len, map(_named, result.quantities))) + 2
    lines = [" " * width + "".join(f"{title:>10}" for title in ("mean", "sd", "lowest", "highest"))]
    for name in result.quantities:
        if (found := result.at_end(name)) is not None:
            lines.append(f"{_named(name):>{width}}" + "".join(map(_column, found[1:])))
    said = f"{counted(len(result.runs), 'order')} of {counted(len(result.facts), 'fact')}, edited by {result.method}"
    return [*lines, f"{said}; read {_where(result)}", *_told(result), *_copies(result), *result.notes]


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
        {"seed": one.seed, "facts": len(one.order), "stopped": one.stopped, "weights": one.weights,
         "first signs of collapse": _first_signs(one)}
        for one in result.runs
    ]  # fmt: skip
    ends = {name: found._asdict() for name in result.quantities if (found := result.at_end(name)) is not None}
    ends = {name: {key: _plain_number(value) for key, value in found.items()} for name, found in ends.items()}
    body = {"method": result.method, "facts": len(result.facts), "orders": orders, "ends": ends}
    return body | {"checkpoints": points}


def records(result: SequenceOrders) -> list[dict[str, Any]]:
    """A row an order, checkpoint and quantity."""
    return [
        {"method": result.method, "seed": one.seed, "facts": point.facts, "restrained": point.restrained,
         "restraint": point.restraint, "quantity": name, "value": math.nan if value is None else value}
        for one in result.runs for point in one.points for name, value in point.quantities.items()
    ]  # fmt: skip


def headline(result: SequenceOrders) -> Headline:
    """What holds at the end in the mean, and how far the orders lie apart."""
    numbers = tuple(
        Number(_amount(name, found), f"{words}; mean ± sd over orders")
        for name, words in HEAD.items()
        if (found := result.at_end(name)) is not None
    )
    kept = result.at_end("retention")
    held = (
        ""
        if kept is None or math.isnan(kept.low)
        else f", between {kept.low:.0%} and {kept.high:.0%} of the edits hold at the end"
    )
    sentence = f"In {counted(len(result.runs), 'order')} of the same {counted(len(result.facts), 'fact')}{held}."
    return Headline(" ".join([sentence, *_told(result)]), numbers)


def end_table(result: SequenceOrders) -> Table:
    """One row a quantity, where the models were left."""
    rows = []
    for name in result.quantities:
        if (found := result.at_end(name)) is not None:
            numbers = map(_cell, (found.mean, found.sd, found.low, found.high))
            rows.append((_named(name), *numbers, len(found.values)))
    note = "; ".join(f"{name}: {QUANTITIES[name]}" for name in result.quantities if name in QUANTITIES)
    columns = ("at the end", "mean", "standard deviation", "lowest", "highest", "orders")
    return Table(heading(f"read {_where(result)}"), columns, tuple(rows), f"{note}.")


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
        note = heading(QUANTITIES.get(name, "read at every checkpoint")) + "."
        title, least = TITLES.get(name, heading(name)), 1.25 if name in RATIOS else 0.0
        x = np.array(facts)
        drawn.append(
            Curves(title, x, series, "facts edited", (), y_title, log_y=name in RATIOS, least=least, note=note)
        )
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
    alone = len(_lines(result)) == 1  # bands that lie on each other tell nothing
    colour = None if restrained else COLOURS.get(name, "red")
    return Series(title, mean, low if alone else None, high if alone else None, colour)


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
        (one.seed, len(one.order), *(_cell(_value(end, name)) for name in names),
         ", ".join(f"{rule} at {facts}" for rule, facts in _first_signs(one).items()) or "none", one.stopped or "no",
         four_digits(one.seconds))
        for one, end in zip(result.runs, result.ends, strict=True)
    )  # fmt: skip
    note = (
        "Each order's own page and its edits are in the folder seed-N beside this page, or beside its shard's journal "
        "where the work was dealt out. Seconds are of the edits, with the reading of their own facts."
    )
    columns = ("seed", "facts", *map(_named, names), "first signs of collapse", "stopped", "seconds")
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


def _where(result: SequenceOrders) -> str:
    """After how many facts the orders were read last; those that stopped earlier are named by `_told`."""
    facts = sorted({end.facts for end in result.ends})
    restrained = ", restrained" if any(end.restrained for end in result.ends) else ""
    count = counted(facts[-1], "fact") if len(facts) == 1 else f"{facts[0]} to {facts[-1]} facts"
    return f"where each order ended, after {count}{restrained}"


def _copies(result: SequenceOrders) -> list[str]:
    """What restrained copies beside the sequences had at the last number of facts that any came to."""
    last = max(place.facts for place in result.places)
    said = []
    for title, restrained, restraint in _lines(result)[1:]:
        place = Place(last, restrained, restraint)
        found = {name: result.spread(name, place) for name in HEAD}
        parts = [f"{name} {_amount(name, one)}" for name, one in found.items() if one is not None]
        said.append(heading(f"{title}, after {counted(last, 'fact')}: {', '.join(parts)}"))
    return said


def _told(result: SequenceOrders) -> list[str]:
    """Which orders ended early, and how many showed signs of collapse."""
    said = [
        f"Seed {one.seed} stopped after {len(one.order)} facts: {one.stopped}." for one in result.runs if one.stopped
    ]
    broken = [one for one in result.runs if any(point.warnings for point in one.points)]
    if broken:
        said.append(f"{len(broken)} of {len(result.runs)} showed signs of collapse.")
    return said


def _first_signs(one: OrderRun) -> dict[str, int]:
    """The lines that an order crossed, each with the number of facts at which it first did."""
    return {
        rule: next(point.facts for point in one.points if rule in point.warnings)
        for rule in map(str, WARN)
        if any(rule in point.warnings for point in one.points)
    }


def _value(point: Point, name: str) -> float:
    value = point.quantities.get(name)
    return math.nan if value is None else value


def _column(value: float) -> str:
    return f"{'-' if math.isnan(value) else format(value, '.4g'):>10}"


def _plain_number(value: Any) -> Any:
    return [_number(one) for one in value] if isinstance(value, tuple) else _number(value)


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
