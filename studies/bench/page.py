"""A bench as a table for the terminal, as Markdown, as a page, and as rows for other programs."""

import csv
import io
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from editing.evaluation.failures import KINDS as FAILURES
from editing.evaluation.metrics import METRICS, label
from editing.evaluation.table import S_ABOUT, Score, plain
from editing.pages.methods import method_table
from editing.pages.scores import Column, in_lines, ordered, rounded, value, value_with_interval
from editing.pages.scores import score_table as table_of
from editing.pages.wordings import wording_words, wordings
from factscope.files import write_bytes_atomically, write_text_atomically
from factscope.model.known import Known
from factscope.plots.figures.intervals import Group, Intervals
from factscope.plots.labels import counted, heading, setting_in_words
from factscope.plots.specs import Card, Cell, Curves, Headline, Number, Page, Section, Series, Table, Text
from factscope.results.provenance import provenance
from factscope.statistics import INTERVALS
from studies.bench.bench import Bench
from studies.bench.method_result import MethodResult

UNEDITED = "unedited"
EXAMPLES = 3  # of each kind of failure and method
TIMES = {"before": UNEDITED, "after": "immediate", "final": "final"}


def columns(bench: Bench, said: Callable[[Score], Cell] = value) -> list[Column]:
    """The unedited model, then each method: where edits stay, once immediate and once final."""
    times = read_at(bench)
    out = [Column.of(UNEDITED, bench.scores, "before", said, bench.trials[0].method)]
    for trial in bench.trials:
        for when in times:
            title = f"{trial.method}, {TIMES[when]}" if len(times) > 1 else trial.method
            out.append(Column.of(title, bench.scores, when, said, trial.method))
    return out


def score_table(bench: Bench, said: Callable[[Score], Cell] = value) -> Table:
    """The one table, with what an edit of each method took below."""
    took = {trial.method: cost_of(trial) for trial in bench.trials}
    each = [took[trial.method] for trial in bench.trials for _ in read_at(bench)]
    costs = [(name, None, None, None, *(one[name] for one in each)) for name in COSTS]
    return table_of(columns(bench, said), cost_words(bench), costs)


COSTS = ("s per edit", "peak MB", "kB stored")


def cost_of(trial: MethodResult) -> dict[str, float | None]:
    """What an edit of one method took, by the names in `COSTS`."""
    memory = [cost.memory for cost in trial.costs if cost.memory is not None]
    return {
        "s per edit": round(mean(cost.seconds for cost in trial.costs), 3),
        "peak MB": round(max(memory), 1) if memory else None,
        "kB stored": round(1000 * mean(cost.stored for cost in trial.costs), 3),
    }


def cost_words(bench: Bench) -> str:
    """What the time and the memory of "an edit" are of."""
    size = bench.protocol.size or len(bench.cases)
    most = max(cost.together for trial in bench.trials for cost in trial.costs)
    of = "one case" if size == 1 else f"{size} cases"
    shared = f", {most} computed side by side: they share the seconds, and the memory is of all" * (most > 1)
    return f"An edit is of {of}{shared}. Seconds and memory are the method's alone, without reading."


def read_at(bench: Bench) -> list[str]:
    """When edited models were read: right after an edit, and where edits stay, at the end."""
    return [when for when in ("after", "final") if any(one.when == when for one in bench.scores)]


def markdown(bench: Bench) -> str:
    """The tables with intervals, the protocol, and every definition that was used."""
    out = [f"# {bench.suite}: {len(bench.cases)} cases, protocol {bench.protocol.name}", ""]
    out += [f"- {name}: {value}" for name, value in facts_of(bench)] + [""]
    out += [*_piped(score_table(bench, value_with_interval)), "", f"In brackets: {INTERVALS}. "]
    out[-1] += cost_words(bench)
    for table in further(bench):
        out += ["", f"## {table.title}", "", *_piped(table)]
    out += ["", "## Definitions", ""]
    for table in method_table([trial.method for trial in bench.trials]):
        out += [*_piped(table), ""]
    out += [f"- **{name}** ({unit}): {about} Source: {source}." for name, unit, about, source in definitions(bench)]
    return "\n".join(out) + "\n"


def _piped(table: Table) -> list[str]:
    """A table's lines in Markdown; a bar in a text would end its cell."""
    cells = [["" if cell is None else str(cell).replace("|", "\\|") for cell in row] for row in table.rows]
    rule = ["---"] * len(table.columns)
    return ["| " + " | ".join(row) + " |" for row in (list(table.columns), rule, *cells)]


def further(bench: Bench) -> list[Table]:
    """What else changed, and how edits failed, where that was read."""
    out = []
    elsewhere = [trial for trial in bench.trials if trial.general]
    if elsewhere:
        names = tuple(elsewhere[0].general)
        rows: tuple[tuple[Cell, ...], ...] = tuple(
            (name, *(round(trial.general[name], 4) for trial in elsewhere)) for name in names
        )
        out.append(Table("With all edits in", ("what", *(trial.method for trial in elsewhere)), rows))
    if any(trial.curve for trial in bench.trials):
        out.append(curve_table(bench))
    if any(trial.failures for trial in bench.trials):
        out.append(failure_table(bench))
    return out


CURVED = ("ES", "PS", "NS", "reliability", "edit success, pooled", "portability, pooled", "locality, pooled",
          "generation entropy")  # fmt: skip


def curve_table(bench: Bench) -> Table:
    """Everything so far, read again after so many cases: a row a method and number."""
    names = [name for name in CURVED for trial in bench.trials for one in trial.curve[:1]
             if any(score.metric == name and score.when == "final" for score in one.scores)]  # fmt: skip
    names = list(dict.fromkeys(names))
    others = list(dict.fromkeys(name for trial in bench.trials for one in trial.curve for name in one.general))
    rows: list[tuple[Cell, ...]] = []
    for trial in bench.trials:
        for point in trial.curve:
            now = {one.metric: one for one in point.scores if one.when == "final"}
            cells = [value_with_interval(now[name]) if name in now else None for name in names]
            rows.append((trial.method, point.cases, *cells, *(rounded(point.general[name]) for name in others)))
    return Table(CURVE_TITLE, ("method", "cases", *names, *others), tuple(rows), note=f"In brackets {INTERVALS}.")


def curves(bench: Bench) -> tuple[Curves, ...]:
    """One picture for each score over the number of cases, a line a method (the survey's Fig. 4)."""
    found = [trial for trial in bench.trials if len(trial.curve) > 1]
    if not found:
        return ()
    x = np.array([point.cases for point in found[0].curve])
    out = []
    for name in CURVED:
        series = []
        for trial in found:
            scores = [{one.metric: one for one in point.scores if one.when == "final"} for point in trial.curve]
            if all(name in one for one in scores):
                y, low, high = (
                    np.array([getattr(one[name], side) for one in scores]) for side in ("value", "low", "high")
                )
                series.append(Series(trial.method, y, low, high))
        if series:
            out.append(Curves(label(name), x, tuple(series), "cases edited", y_title=name))
    return tuple(out)


CURVE_TITLE = "Over the number of edits"


def definitions(bench: Bench) -> list[tuple[str, str, str, str]]:
    """Name, unit with the better direction, words and source of every metric in the table."""
    names = {score.metric for score in bench.scores}
    used = [one for one in METRICS.values() if one.name in names]
    out = [(one.label, f"{one.unit}, {one.better} is better", one.about, one.source) for one in used]
    return out + ([("S", "share, higher is better", S_ABOUT[0] + ".", S_ABOUT[1])] if "S" in names else [])


def facts_of(bench: Bench) -> tuple[tuple[str, str], ...]:
    """What a number of this bench must be read with."""
    known = f", all known to the model ({Known()})" if bench.known else ""
    return (
        *bench.protocol.described(),
        ("comparable with", bench.comparable),
        (
            "cases",
            f"{len(bench.cases)} of {bench.suite} ({bench.source}){known}, questions {bench.asked[:12]}",
        ),
        ("start token", bench.start_token),
        ("second moments", bench.moments),
        *((trial.method, note) for trial in bench.trials for note in trial.notes),
        *((trial.method, said) for trial in bench.trials for said in wording_words(trial.rows)),
        *((("left out", f"{bench.left_out} questions of these cases that cannot be asked"),) * bool(bench.left_out)),
    )


def flat(bench: Bench) -> list[dict[str, Any]]:
    """Every question of every method as one row of plain values."""
    out = []
    for trial in bench.trials:
        for row in trial.rows:
            body = asdict(row)
            times = {when: body.pop(when) for when in ("before", "after", "final")}
            values = {f"{when}_{key}": v for when, one in times.items() if one for key, v in one.items()}
            out.append({"method": trial.method, **body, **values})
    return out


def write_tables(bench: Bench, folder: Path) -> None:
    """table.md, scores.csv, rows.csv and rows.parquet (the same rows); speech.csv where longer texts were written."""
    import pyarrow
    from pyarrow import parquet

    write_text_atomically(folder / "table.md", markdown(bench))
    rows, packed = flat(bench), io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), packed)
    write_bytes_atomically(folder / "rows.parquet", packed.getvalue())
    write_text_atomically(folder / "rows.csv", _csv(rows))
    write_text_atomically(folder / "scores.csv", _csv([asdict(score) for score in bench.scores]))
    spoken = [
        {"method": t.method, **asdict(one), "likeness": list(one.likeness)} for t in bench.trials for one in t.speech
    ]
    if spoken:
        write_text_atomically(folder / "speech.csv", _csv(spoken))


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def page(bench: Bench) -> Page:
    """The picture and the table, every score with its interval, what failed and how, and how it was made."""
    sections = [
        Section("All methods", (headline(bench), Text("\n".join(outcomes(bench))), picture(bench), score_table(bench))),
        Section("Every score with its interval", (interval_table(bench),)),
        Section(
            "Definitions",
            (
                *method_table([trial.method for trial in bench.trials]),
                Table("Metrics", ("metric", "unit", "what it is", "source"), tuple(definitions(bench))),
            ),
        ),
    ]
    for table in further(bench):
        if table.title == FAILURE_TITLE:
            sections.append(Section("How edits failed", (table, example_table(bench)), FAILED))
        elif table.title == CURVE_TITLE:
            sections.insert(1, Section(CURVE_TITLE, (*curves(bench), table)))
        else:
            sections.append(Section("What else changed", (table,)))
    for trial in bench.trials:
        sections += [replace(one, heading=f"{one.heading}: {trial.method}") for one in wordings(trial.rows)]
    cards = [Card("Protocol", facts_of(bench))]
    cards += [
        Card(trial.method, tuple((k, setting_in_words(v)) for k, v in trial.config.items())) for trial in bench.trials
    ]
    if bench.run is not None:
        cards.append(provenance(bench.run))
    sections.append(Section("How it was made", tuple(cards)))
    name = bench.run.model if bench.run is not None else ""
    return Page(
        heading(f"{bench.suite}: {counted(len(bench.trials), 'method')}"),
        tuple(sections),
        f"{name}, {counted(len(bench.cases), 'case')}",
    )


FAILURE_TITLE = "Failed edits by kind"
FAILED = (
    "Edits whose own prompt is not answered with the target, by what the model writes instead. The kinds are the "
    "KnowEdit survey's; they are told apart by rules of ours, at the head of editing/evaluation/failures.py."
)


def words(bench: Bench) -> list[str]:
    """The table of scores, and what else was found."""
    return [
        *in_lines(score_table(bench)),
        cost_words(bench),
        *(f"{name}: {value}" for name, value in facts_of(bench)),
    ]


def summary(bench: Bench) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "cases": len(bench.cases),
        "protocol": vars(bench.protocol),
        "comparable_with": bench.comparable,
        "scores": plain(bench.scores),
        "costs": {trial.method: cost_of(trial) for trial in bench.trials},
        "general": {trial.method: trial.general for trial in bench.trials if trial.general},
        "failures": {trial.method: failed(trial) for trial in bench.trials},
    }


def records(bench: Bench) -> list[dict[str, Any]]:
    """A row a method, metric and time: the value with its 95 % interval; `rows.csv` has the questions."""
    return [asdict(score) for score in bench.scores]


def headline(bench: Bench) -> Headline:
    """Which protocol this is, and what it may be set beside."""
    seconds = sum(cost.seconds for trial in bench.trials for cost in trial.costs)
    return Headline(
        f"Protocol {bench.protocol.name}: {bench.protocol.edits}. Comparable with {bench.comparable}.",
        (
            Number(str(len(bench.cases)), "cases"),
            Number(str(len(bench.trials)), "methods"),
            Number(f"{seconds:.0f} s", "for all edits"),
        ),
    )


TOLD = (  # what is said of a method: the first metric of each that was read
    (("reliability", "ES"), "answered anew behind the edited prompt"),
    (("generality", "PS"), "in other words"),
    (("locality, unchanged", "NS"), "as before where nothing must change"),
    (("forgotten",), "without the old answer"),
    (("forgotten, paraphrases",), "without it in other words"),
    (("portability, pooled",), "what follows"),
)


def outcomes(bench: Bench) -> list[str]:
    """A line a method, the surest first: how much was learned, told in other words, and left alone."""
    when = read_at(bench)[-1]
    found = {(one.method, one.metric): one for one in bench.scores if one.when == when}
    lines = []
    for trial in bench.trials:
        scores = [
            (next((found[trial.method, name] for name in names if (trial.method, name) in found), None), what)
            for names, what in TOLD
        ]
        told = [f"{score.value:.0%} {what}" for score, what in scores if score is not None]
        lines.append((scores[0][0].value if scores[0][0] else 0.0, f"{trial.method}: {', '.join(told)}."))
    return [line for _, line in sorted(lines, key=lambda one: -one[0])]


def picture(bench: Bench) -> Intervals:
    """Every score that is a share, of the unedited model and each method; as read last, where edits stay."""
    *earlier, when = read_at(bench)
    title = f"Scores, {TIMES[when]}" if earlier else "Scores"
    found = {(one.method, one.metric, one.when): one for one in bench.scores}
    shown = tuple(ordered({one.metric for one in bench.scores if one.unit == "share"}))

    def group(name: str, method: str, time: str, aside: bool = False) -> Group:
        some = [found.get((method, metric, time)) for metric in shown]
        values = np.array([[s.value, s.low, s.high] if s else [np.nan] * 3 for s in some])
        return Group(name, values[:, 0], values[:, 1], values[:, 2], aside)

    groups = [group(UNEDITED, bench.trials[0].method, "before", aside=True)]
    groups += [group(trial.method, trial.method, when) for trial in bench.trials]
    note = f"Bars are {INTERVALS}."
    return Intervals(title, shown, tuple(groups), "score", "share", limits=(-0.02, 1.02), note=note)


def interval_table(bench: Bench) -> Table:
    """Every score with its interval; the unedited model's once."""
    first = bench.trials[0].method
    rows = [
        (UNEDITED if one.when == "before" else one.method, one)
        for one in bench.scores
        if one.when != "before" or one.method == first
    ]
    return Table(
        "Scores with intervals",
        ("method", "metric", "read", "cases", "value", "low", "high"),
        tuple(
            (
                name,
                label(one.metric),
                TIMES[one.when],
                one.n,
                *map(rounded, (one.value, one.low, one.high)),
            )
            for name, one in rows
        ),
        note=f"{INTERVALS}.",
    )


def failure_table(bench: Bench) -> Table:
    """Counts of each kind."""
    rows: tuple[tuple[Cell, ...], ...] = tuple((trial.method, *failed(trial).values()) for trial in bench.trials)
    return Table(FAILURE_TITLE, ("method", *FAILURES), rows)


def example_table(bench: Bench) -> Table:
    """The first few of each kind and method."""
    rows = []
    for trial in bench.trials:
        for kind in FAILURES:
            some = [one for one in trial.failures if one.kind == kind][:EXAMPLES]
            rows += [(trial.method, kind, one.prompt, one.target, one.said) for one in some]
    return Table("Examples", ("method", "kind", "prompt", "target", "what it wrote"), tuple(rows))


def failed(trial: MethodResult) -> dict[str, int]:
    """How many edits failed in each way."""
    return {kind: sum(one.kind == kind for one in trial.failures) for kind in FAILURES}
