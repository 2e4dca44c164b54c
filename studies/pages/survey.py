"""The survey's Tables 4 to 7 as a page and in words, beside the paper's own rows."""

from typing import Any

from editing.pages.scores import value_with_interval
from factscope.plots.escape import visible
from factscope.plots.labels import counted
from factscope.plots.specs import Card, Cell, Headline, Number, Page, Section, Table, Text
from factscope.results.provenance import provenance
from factscope.statistics import INTERVALS
from studies.tables.survey import POOLED, SetResult, Survey

PAPER = {  # Zhang et al. 2024, Table 4, Llama-2-7b-chat: edit success, portability, locality, per cent
    "WikiData_recent": {
        "serac": (98.68, 63.52, 100.0), "adalora": (65.61, 47.22, 55.78), "mend": (95.75, 55.88, 94.76),
        "rome": (85.08, 37.45, 66.20), "ft_m": (100.0, 64.86, 63.70),
    },
    "ZsRE": {
        "serac": (99.67, 56.48, 30.23), "adalora": (69.86, 52.95, 72.21), "mend": (96.74, 60.41, 92.79),
        "rome": (96.57, 52.20, 27.14), "ft_m": (99.87, 60.31, 89.78),
    },
}  # fmt: skip
MAY = (
    "What may be compared: the order of methods on the same file, with editors trained on its own training half. The "
    "paper's model is fifty times as large, its locality is of before EasyEdit's padding fix, and its portability "
    "counts tokens as ours does under this protocol. Entropy is of a greedy continuation here, of a sampled text there."
)
CROSS = (
    "Facts of each set that a trained editor met in its training. At 0 its row above is of training on another set, as "
    "all of the paper's Table 6 are (MEND, trained on ZsRE, on recent: 95.91 / 61.80 / 66.57)."
)


def words(result: Survey) -> list[str]:
    """Of each set, who is best at what; then what general tasks lost."""
    said = [_best(one, result) for one in result.sets]
    for method, now in result.after.items():
        moved = ", ".join(f"{name} {result.before[name]:.2f} to {value:.2f}" for name, value in now.items())
        said.append(f"After {counted(result.edits, 'edit')} in sequence by {method}: {moved}.")
    return said


def page(result: Survey) -> Page:
    """The four tables, each with what it may be set beside."""
    head = Headline(words(result)[0], tuple(Number(str(one.cases), f"cases of {one.name}") for one in result.sets[:4]))
    scores = tuple(_table4(one, result) for one in result.sets)
    sections = [
        Section("The answer", (head, Text("\n\n".join(words(result))))),
        Section("Methods by sets (Table 4)", (*scores, _paper()), MAY),
        Section("General tasks (Table 5)", (_table5(result),)),
        Section("One case (Table 7)", tuple(_table7(one) for one in result.sets)),
        Section("How it was measured", (_card(result),)),
    ]
    if any(one.trained_on for one in result.sets):
        sections.insert(2, Section("Trained elsewhere (Table 6)", (_table6(result),), CROSS))
    what = f"{counted(len(result.methods), 'method')} by {counted(len(result.sets), 'set')}"
    return Page(f"The survey's tables: {what}", tuple(sections), ", ".join(result.methods))


def summary(result: Survey) -> dict[str, Any]:
    """The numbers of all tables."""
    return {
        "sets": {
            one.name: {
                method: {name: score.value for name in POOLED if (score := one.score(method, name)) is not None}
                for method in result.methods
            }
            for one in result.sets
        },
        "tasks": {"unedited": result.before, **result.after},
    }


def records(result: Survey) -> list[dict[str, Any]]:
    """A row a set, method and score of Table 4, and a method and task of Table 5."""
    rows: list[dict[str, Any]] = [
        {"table": 4, "set": one.name, "method": score.method, "metric": score.metric, "when": score.when,
         "value": score.value, "low": score.low, "high": score.high, "n": score.n}
        for one in result.sets
        for score in one.scores
    ]  # fmt: skip
    for method, values in {"unedited": result.before, **result.after}.items():
        rows += [{"table": 5, "method": method, "metric": name, "value": value} for name, value in values.items()]
    return rows


def _best(one: SetResult, result: Survey) -> str:
    parts = []
    for name in POOLED[:3]:
        known = [(score.value, method) for method in result.methods if (score := one.score(method, name)) is not None]
        if known:
            value, method = max(known)
            parts.append(f"{name.removesuffix(', pooled')} {method} ({value:.2f})")
    return f"{one.name}, {counted(one.cases, 'case')}: best at {', '.join(parts) or 'nothing that was asked'}."


def _table4(one: SetResult, result: Survey) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for method, when in [(result.methods[0], "before"), *((method, "after") for method in result.methods)]:
        scores = [one.score(method, name, when) for name in POOLED]
        cells = [None if score is None else value_with_interval(score) for score in scores]
        rows.append(("unedited" if when == "before" else method, *cells))
    note = f"Comparable with {one.comparable}. In brackets {INTERVALS}."
    return Table(f"{one.name}, {counted(one.cases, 'case')}", ("method", *POOLED), tuple(rows), note=note)


def _paper() -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (name, method, *(round(value / 100, 4) for value in values))
        for name, methods in PAPER.items()
        for method, values in methods.items()
    )
    note = "Zhang et al. 2024, Llama-2-7b-chat, of the sets and methods whose rows are known here."
    return Table("The paper's rows", ("set", "method", *POOLED[:3]), rows, note=note)


def _table5(result: Survey) -> Table:
    rows: list[tuple[Cell, ...]] = [("unedited", *result.before.values())]
    for method, values in result.after.items():
        rows.append((method, *values.values()))
    note = f"After {counted(result.edits, 'edit')} of {result.sets[0].name}, one after another; before any: unedited."
    return Table("General tasks", ("method", *result.before), tuple(rows), note=note)


def _table6(result: Survey) -> Table:
    rows = tuple((one.name, method, count) for one in result.sets for method, count in one.trained_on.items())
    return Table("Facts that an editor was trained on", ("set", "method", "facts"), rows)


def _table7(one: SetResult) -> Table:
    rows = tuple((method, visible(text.strip())) for method, text in one.wrote.items())
    return Table(f"{one.prompt} → {one.target}", ("method", "writes"), rows, note=f"The first case of {one.name}.")


def _card(result: Survey) -> Card:
    return provenance(result.run, ("methods", ", ".join(result.methods)), ("start token", result.start_token))
