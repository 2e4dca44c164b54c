"""The circuit track of MIB, as a page and in words."""

from typing import Any

import numpy as np

from circuits.mib.areas import SIZES
from circuits.mib.track import Track, TrackRow, rows_of
from factscope.plots.labels import counted, settings_in_words
from factscope.plots.specs import Card, Cell, Curves, Headline, Number, Page, Section, Series, Spec, Table, Text
from factscope.results.provenance import provenance


def words(found: Track) -> list[str]:
    """The best method of each task, and on planted models who finds the edges; random scores beside."""
    lines = [_said_of(found, task.name) for task in found.tasks]
    planted = [row for row in found.rows if row.auroc is not None]
    if planted:
        mean = {
            name: float(np.mean([row.auroc for row in planted if row.method == name]))
            for name in dict.fromkeys(row.method for row in planted)
        }
        order = sorted(mean, key=lambda name: -mean[name])
        lines.append(
            "Planted edges are found (mean AUROC) best by "
            + ", ".join(f"{_name(name)} {mean[name]:.3f}" for name in order)
            + "."
        )
    return lines


def page(found: Track) -> Page:
    """The areas as the benchmark's tables have them, the curves behind them, and the tasks."""
    first = _said_of(found, found.tasks[0].name)
    best = rows_of(found, found.tasks[0].name)[0]
    named = f"of {_name(best.method)}, {best.task}"
    numbers = (Number(f"{best.cmd:.2f}", f"CMD {named}"), Number(f"{best.cpr:.2f}", f"CPR {named}"))
    reading = (
        "CMD: area between a circuit's faithfulness and 1, over circuits of ten sizes by size of score; 0 is best. "
        "CPR: area under faithfulness, by signed score; higher is better, and above 1 a circuit does more than the "
        "model. Sizes from .001 to 1 of all edges on a linear axis, so that the step from .5 to 1 is half of both."
    )
    tables = [_areas(found, "cmd"), _areas(found, "cpr")]
    if any(row.auroc is not None for row in found.rows):
        tables.append(_planted(found))
    curves = tuple(spec for task in found.tasks for spec in _curves(found, task.name))
    return Page(
        f"Circuit track: {counted(len({row.method for row in found.rows}), 'method')}, "
        f"{counted(len(found.tasks), 'task')}",
        (
            Section("The answer", (Headline(first, numbers), Text("\n\n".join(words(found)[1:])), *tables), reading),
            Section("Faithfulness by size", curves, "Each point is one circuit, run on the validation prompts."),
            Section("The tasks", (_tasks(found), _card(found)), "Our own sentences, not the benchmark's."),
        ),
        subtitle="after MIB (Mueller et al. 2025)",
    )


def summary(found: Track) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "tasks": [task.name for task in found.tasks],
        "rows": [
            {"method": row.method, "task": row.task, "cpr": row.cpr, "cmd": row.cmd, "auroc": row.auroc}
            for row in found.rows
        ],
    }


def records(found: Track) -> list[dict[str, Any]]:
    """A row for each method, task and size, with the areas beside."""
    return [
        {
            "task": row.task,
            "method": row.method,
            "share of edges": size,
            "faithfulness, signed": row.signed[i],
            "faithfulness, by size": row.unsigned[i],
            "CPR": row.cpr,
            "CMD": row.cmd,
            "AUROC": row.auroc,
            "AUROC as published": row.auroc_as_published,
            "seconds": row.seconds,
        }
        for row in found.rows
        for i, size in enumerate(SIZES)
    ]


def _name(method: str) -> str:
    return method.replace("_", "-")


def _said_of(found: Track, task: str) -> str:
    rows = rows_of(found, task)
    best, highest = rows[0], max(rows, key=lambda row: row.cpr)
    chance = next((row for row in rows if row.method == "random"), None)
    return (
        f"{task}: nearest to the model is {_name(best.method)} (CMD {best.cmd:.2f}), most performance has "
        f"{_name(highest.method)} (CPR {highest.cpr:.2f})"
        + ("." if chance is None else f"; random scores {chance.cmd:.2f} and {chance.cpr:.2f}.")
    )


def _cell(found: Track, task: str, method: str) -> TrackRow | None:
    return next((row for row in found.rows if (row.task, row.method) == (task, method)), None)


def _areas(found: Track, what: str) -> Table:
    methods = list(dict.fromkeys(row.method for row in found.rows))
    tasks = [task.name for task in found.tasks]
    rows: list[tuple[Cell, ...]] = []
    for name in methods:
        values = [getattr(row, what) for task in tasks if (row := _cell(found, task, name)) is not None]
        rows.append((_name(name), *(round(value, 3) for value in values), round(float(np.mean(values)), 3)))
    title = {"cmd": "CMD, lower is better", "cpr": "CPR, higher is better"}[what]
    return Table(title, ("method", *tasks, "mean"), tuple(rows))


def _planted(found: Track) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            _name(row.method), row.task, round(row.auroc, 4),
            None if row.auroc_as_published is None or row.auroc_as_published != row.auroc_as_published
            else round(row.auroc_as_published, 3),
            round(row.found or 0.0, 2),
        )
        for row in found.rows
        if row.auroc is not None
    )  # fmt: skip
    note = (
        "AUROC: the chance that a planted edge has the larger score. As published: through the ten circuits, grown "
        "from the logits, divided by the last false positive rate. Found: of the planted edges, the share among as "
        "many of the largest."
    )
    return Table("Planted edges", ("method", "model", "AUROC", "as published", "found"), rows, note=note)


def _curves(found: Track, task: str) -> tuple[Spec, ...]:
    rows = [row for row in found.rows if row.task == task]
    made = []
    for what, title in (("unsigned", "by size of score (CMD)"), ("signed", "by signed score (CPR)")):
        series = tuple(Series(_name(row.method), np.array(getattr(row, what))) for row in rows)
        made.append(
            Curves(
                f"{task}, {title}",
                np.arange(len(SIZES)),
                series,
                x_title="share of all edges",
                x_labels=tuple(f"{size:g}" for size in SIZES),
                y_title="faithfulness",
            )
        )
    return tuple(made)


def _tasks(found: Track) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (task.name, task.model, task.n_edges, round(task.full, 2), round(task.empty, 2), task.example, task.corrupt,
         task.answer, task.foil, ", ".join(task.planted))
        for task in found.tasks
    )  # fmt: skip
    columns = ("task", "model", "edges", "full", "empty", "prompt", "counterfactual", "answer", "wrong", "planted")
    return Table("The tasks", columns, rows, note="Full and empty: mean logit difference on the validation prompts.")


def _card(found: Track) -> Card:
    items = (
        ("settings", settings_in_words(found.settings)),
        ("seconds", ", ".join(f"{row.task} {_name(row.method)} {row.seconds:.0f}" for row in found.rows)),
    )
    return provenance(found.run, *items)
