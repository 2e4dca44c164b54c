"""What lm-eval said of an edited model, as words and as a page."""

from dataclasses import asdict
from typing import Any

from editing.evaluation.lm_eval import TaskReport
from factscope.plots.specs import Card, Cell, Page, Section, Table
from factscope.results.provenance import provenance

NOTE = (
    "± is lm-eval's standard error of each number alone; both models are asked the same questions, so the difference "
    "is known better than the two errors suggest."
)


def words(report: TaskReport) -> list[str]:
    """One line per metric: unedited and edited, each with its standard error."""
    rows = [("task", "metric", "unedited", "edited")]
    for one in report.scores:
        rows.append((one.task, one.metric, told(one.before, one.before_error), told(one.after, one.after_error)))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    asked = [f"{name}: {count} questions, {report.shots[name]} shots" for name, count in report.questions.items()]
    return [*lines, *asked]


def summary(report: TaskReport) -> dict[str, Any]:
    """The numbers that a program would ask for first; null for what is not a number."""
    scores = [{key: None if value != value else value for key, value in vars(one).items()} for one in report.scores]
    return {
        "edits": report.edits,
        "tasks": report.tasks,
        "scores": scores,
        "questions": report.questions,
        "shots": report.shots,
        "versions": report.versions,
        "lm_eval": report.harness,
    }


def records(report: TaskReport) -> list[dict[str, Any]]:
    """A row a task and metric, without the edits and with them."""
    return [asdict(score) for score in report.scores]


def told(value: float, error: float | None) -> str:
    """A value with its standard error, where there is one."""
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


def page(report: TaskReport) -> Page:
    """The table, and how it was made."""
    columns = ("task", "metric", "larger is better", "unedited", "±", "edited", "±")
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            one.task,
            one.metric,
            {True: "yes", False: "no", None: ""}[one.larger_is_better],
            one.before,
            one.before_error,
            one.after,
            one.after_error,
        )
        for one in report.scores
    )
    asked = tuple(
        (name, f"{count} questions, {report.shots[name]} shots, version {report.versions[name]}")
        for name, count in report.questions.items()
    )
    cards = [Card("Tasks", (*asked, ("lm-eval", report.harness), ("edits", ", ".join(report.edits) or "none")))]
    if report.run is not None:
        cards.append(provenance(report.run))
    sections = (Section("Scores", (Table("lm-eval", columns, rows, NOTE),)), Section("How it was made", tuple(cards)))
    return Page(f"lm-eval: {', '.join(report.tasks)}", sections, report.run.model if report.run is not None else "")
