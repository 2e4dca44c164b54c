"""A bench as a table for the terminal, as Markdown, as a page, and as rows for other programs; two of them compared."""

import csv
import io
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from editing.protocols import differences
from editing.suite_errors import KINDS as FAILURES
from editing.suite_metrics import METRICS
from editing.suite_table import S_ABOUT, Score
from studies.bench import Bench
from studies.bench_grid import Trial
from workbench.errors import StoreError
from workbench.files import write_bytes_atomically, write_text_atomically
from workbench.plots.intervals import Group, Intervals
from workbench.plots.specs import Card, Cell, Headline, Number, Page, Section, Table

UNEDITED = "unedited"
TIMES = {"before": UNEDITED, "after": "immediate", "final": "final"}


def lines(bench: Bench) -> tuple[tuple[str, ...], list[tuple[Cell, ...]]]:
    """The one table: a row a method (with edits that stay, one immediate and one final), a column a metric."""
    order = [*METRICS, "S"]
    names = sorted({score.metric for score in bench.scores}, key=order.index)
    found = {(one.method, one.metric, one.when): one for one in bench.scores}
    rows: list[tuple[Cell, ...]] = []
    times = read_at(bench)
    apart = len(times) > 1  # else every row was read at the same time, and a column would say so in vain
    first = bench.trials[0].method
    unedited = (_value(found.get((first, name, "before"))) for name in names)
    rows.append((UNEDITED, *(("",) * apart), *unedited, None, None, None))
    for trial in bench.trials:
        for when in times:
            cells = [_value(found.get((trial.method, name, when))) for name in names]
            memory = [cost.memory for cost in trial.costs if cost.memory is not None]
            rows.append(
                (
                    trial.method,
                    *((TIMES[when],) * apart),
                    *cells,
                    round(mean(cost.seconds for cost in trial.costs), 2),
                    round(max(memory), 1) if memory else None,
                    round(mean(cost.stored for cost in trial.costs), 3),
                )
            )
    return ("method", *(("read",) * apart), *names, "s an edit", "peak MB", "MB stored"), rows


def read_at(bench: Bench) -> list[str]:
    """When edited models were read: right after an edit, and where edits stay, at the end."""
    return [when for when in ("after", "final") if any(one.when == when for one in bench.scores)]


def _value(score: Score | None) -> float | None:
    return None if score is None else round(score.value, 4)


def interval(score: Score) -> str:
    """A value with its interval, as it is read."""
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def markdown(bench: Bench) -> str:
    """The table with intervals, the protocol, and every definition that was used."""
    found = {(one.method, one.metric, one.when): one for one in bench.scores}
    columns, rows = lines(bench)
    out = [f"# {bench.suite}: {len(bench.cases)} cases, protocol {bench.protocol.name}", ""]
    out += [f"- {name}: {value}" for name, value in facts_of(bench)] + [""]
    out += [" | ".join(["", *columns, ""]).strip(), "|" + " --- |" * len(columns)]
    for row in rows:
        method = bench.trials[0].method if row[0] == UNEDITED else row[0]
        when = "before" if row[0] == UNEDITED else "final" if row[1] == TIMES["final"] else "after"
        cells = []
        for name, cell in zip(columns, row, strict=True):
            score = found.get((str(method), name, when))
            cells.append(interval(score) if score is not None else "" if cell is None else str(cell))
        out.append("| " + " | ".join(cells) + " |")
    out += ["", "In brackets: 95 % bootstrap intervals over cases.", "", "## Definitions", ""]
    out += [f"- **{name}** ({unit}): {about} Source: {source}." for name, unit, about, source in definitions(bench)]
    return "\n".join(out) + "\n"


def definitions(bench: Bench) -> list[tuple[str, str, str, str]]:
    """Name, unit, words and source of every metric in the table."""
    names = {score.metric for score in bench.scores}
    out = [(one.name, one.unit, one.about, one.source) for one in METRICS.values() if one.name in names]
    return out + ([("S", "share", S_ABOUT[0] + ".", S_ABOUT[1])] if "S" in names else [])


def facts_of(bench: Bench) -> tuple[tuple[str, str], ...]:
    """What a number of this bench must be read with."""
    return (
        *bench.protocol.described(),
        ("cases", f"{len(bench.cases)} of {bench.suite} ({bench.source}), questions {bench.asked[:12]}"),
        ("start token", bench.start_token),
        ("second moments", bench.moments),
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


def write_rows(bench: Bench, folder: Path) -> tuple[Path, Path]:
    """rows.csv and rows.parquet, the same rows."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    rows = flat(bench)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    packed = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), packed)
    return (
        write_text_atomically(folder / "rows.csv", text.getvalue()),
        write_bytes_atomically(folder / "rows.parquet", packed.getvalue()),
    )


def page(bench: Bench) -> Page:
    """The table, what failed and how, what else changed, every question, and how it was made."""
    columns, rows = lines(bench)
    sections = [
        Section("All methods", (headline(bench), picture(bench), Table("Scores", columns, tuple(rows)))),
        Section("Every score with its interval", (interval_table(bench),)),
        Section(
            "Definitions",
            (Table("Metrics", ("metric", "unit", "what it is", "source"), tuple(definitions(bench))),),
        ),
    ]
    if any(trial.failures for trial in bench.trials):
        sections.append(Section("How edits failed", (failure_table(bench), example_table(bench)), FAILED))
    elsewhere = [trial for trial in bench.trials if trial.general]
    if elsewhere:
        names = tuple(elsewhere[0].general)
        cells: tuple[tuple[Cell, ...], ...] = tuple(
            (trial.method, *(round(trial.general[name], 4) for name in names)) for trial in elsewhere
        )
        sections.append(Section("What else changed", (Table("With all edits in", ("method", *names), cells),)))
    cards = [Card("Protocol", facts_of(bench))]
    cards += [Card(trial.method, tuple((k, str(v)) for k, v in trial.config.items())) for trial in bench.trials]
    if bench.run is not None:
        cards.append(Card("Run", bench.run.items(), command=bench.run.command))
    sections.append(Section("How it was made", tuple(cards)))
    name = bench.run.model if bench.run is not None else ""
    return Page(f"{bench.suite}: {len(bench.trials)} methods", tuple(sections), f"{name}, {len(bench.cases)} cases")


FAILED = (
    "Edits whose own prompt is not answered with the target, by what the model writes instead. The kinds are the "
    "KnowEdit survey's; they are told apart by rules of ours, at the head of editing/suite_errors.py."
)


def headline(bench: Bench) -> Headline:
    """Which protocol this is, and what it may be set beside."""
    seconds = sum(cost.seconds for trial in bench.trials for cost in trial.costs)
    return Headline(
        f"Protocol {bench.protocol.name}: {bench.protocol.edits}. Comparable with "
        f"{bench.protocol.comparable or 'results of the same settings only'}.",
        (
            Number(str(len(bench.cases)), "cases"),
            Number(str(len(bench.trials)), "methods"),
            Number(f"{seconds:.0f} s", "for all edits"),
        ),
    )


def picture(bench: Bench) -> Intervals:
    """Every score that is a share, of the unedited model and each method; as read last, where edits stay."""
    *earlier, when = read_at(bench)
    title = f"Scores, {TIMES[when]}" if earlier else "Scores"
    found = {(one.method, one.metric, one.when): one for one in bench.scores}
    names = [*METRICS, "S"]
    shown = tuple(sorted({one.metric for one in bench.scores if one.unit == "share"}, key=names.index))

    def group(name: str, method: str, time: str, aside: bool = False) -> Group:
        some = [found.get((method, metric, time)) for metric in shown]
        values = np.array([[s.value, s.low, s.high] if s else [np.nan] * 3 for s in some])
        return Group(name, values[:, 0], values[:, 1], values[:, 2], aside)

    groups = [group(UNEDITED, bench.trials[0].method, "before", aside=True)]
    groups += [group(trial.method, trial.method, when) for trial in bench.trials]
    note = "Bars are 95 % bootstrap intervals over cases."
    return Intervals(title, shown, tuple(groups), "score", "share", limits=(-0.02, 1.02), note=note)


def interval_table(bench: Bench) -> Table:
    """Every score with its interval."""
    return Table(
        "Scores with intervals",
        ("method", "metric", "read", "cases", "value", "low", "high"),
        tuple(
            (one.method, one.metric, TIMES[one.when], one.n, *(round(v, 4) for v in (one.value, one.low, one.high)))
            for one in bench.scores
        ),
        note="95 % bootstrap intervals over cases.",
    )


def failure_table(bench: Bench) -> Table:
    """Counts of each kind."""
    rows: tuple[tuple[Cell, ...], ...] = tuple((trial.method, *failed(trial).values()) for trial in bench.trials)
    return Table("Failed edits by kind", ("method", *FAILURES), rows)


def example_table(bench: Bench, each: int = 3) -> Table:
    """The first few of each kind and method."""
    rows = []
    for trial in bench.trials:
        for kind in FAILURES:
            some = [one for one in trial.failures if one.kind == kind][:each]
            rows += [(trial.method, kind, one.prompt, one.target, one.said) for one in some]
    return Table("Examples", ("method", "kind", "prompt", "target", "what it wrote"), tuple(rows))


# ---- two results side by side


def obstacles(one: Bench, other: Bench) -> list[str]:
    """Why the numbers of two results must not be subtracted; none if they may."""
    found = list(differences(one.protocol, other.protocol))
    if one.suite != other.suite:
        found.append(f"the suite is {one.suite} in one and {other.suite} in the other")
    elif one.asked != other.asked:
        found.append("the cases or their questions are not the same")
    if one.start_token != other.start_token:
        found.append(f"the start token is {one.start_token!r} in one and {other.start_token!r} in the other")
    return found


def side_by_side(one: Bench, other: Bench) -> tuple[tuple[str, ...], list[tuple[Cell, ...]]]:
    """Every score that either has; their difference only where nothing stands in the way."""
    allowed = not obstacles(one, other)
    mine, theirs = ({(s.method, s.metric, s.when): s for s in bench.scores} for bench in (one, other))
    rows: list[tuple[Cell, ...]] = []
    for key in dict.fromkeys([*mine, *theirs]):
        a, b = mine.get(key), theirs.get(key)
        cells: list[Cell] = [_value(a), _value(b)]
        if allowed:
            cells.append(round(a.value - b.value, 4) if a is not None and b is not None else None)
        rows.append((key[0], key[1], TIMES[key[2]], *cells))
    return ("method", "metric", "read", "this", "that", *(("difference",) * allowed)), rows


def failed(trial: Trial) -> dict[str, int]:
    """How many edits failed in each way."""
    return {kind: sum(one.kind == kind for one in trial.failures) for kind in FAILURES}


def load(folder: Path) -> Bench:
    """A saved bench. StoreError if there is none."""
    from workbench import store

    place = folder.parent if folder.is_file() else folder
    found = store.load(place, Bench)
    if not found.trials:
        raise StoreError(f"{place} holds a bench without a method")
    return found
