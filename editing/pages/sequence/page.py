"""A sequence of edits as a page: numbers in, specs out, nothing is computed on a model."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from editing.evaluation.metrics import label
from editing.evaluation.table import plain
from editing.pages.methods import about
from editing.pages.scores import Column, interval
from editing.pages.scores import score_table as table_of
from editing.pages.sequence.beside import beside_sections, beside_words
from editing.sequence.result import Checkpoint, SequenceResult
from editing.sequence.rules import QUANTITIES, WARN
from factscope.model.known import Known
from factscope.model.weights import MLP_OUT, WeightName
from factscope.plots.figures.slides import Points, Scatter, Slides
from factscope.plots.labels import counted, four_digits, heading, settings_in_words
from factscope.plots.specs import (
    Card,
    Cell,
    Curves,
    Headline,
    Heatmap,
    Number,
    Page,
    Palette,
    Section,
    Series,
    Spec,
    Table,
)
from factscope.results.provenance import provenance
from factscope.statistics import INTERVALS, principal_plane

NEIGHBOURS = "locality, unchanged"  # where an edit leaks first: no headline is without it
SHOWN = {"ES": "purple", "PS": "blue", "NS": "green"}
SHARES = f"Bands are {INTERVALS}."
PROTOCOL = (
    "Each edit was computed on the model as the earlier edits left it. Immediate: each fact read right after its own "
    "edit. Now: all facts so far, read at the checkpoint. Everything is compared with the model before any edit."
)


LOOKED = (
    "The distance of the causal trace and of the circuit from those of the unedited model, at each checkpoint, for one "
    "edited and one unrelated fact. Those of the edited fact must change, as its answer does; those of the unrelated "
    "fact should stay."
)


def page(result: SequenceResult) -> Page:
    """The page: what was kept, what was forgotten, what else moved, and how it was made."""
    sections = [
        Section("What happened", (headline(result), score_table(result)), PROTOCOL),
        Section("Over the number of edits", score_curves(result), SHARES),
        *beside_sections(result),
        Section("What is forgotten", (forgetting(result),), FORGETTING),
        Section("The edited weights", weight_specs(result)),
        Section("The edited values", (values_picture(result),), VALUES),
        Section("Every checkpoint", (checkpoint_table(result),)),
        Section("How it was made", (card(result),)),
    ]
    looked = look_curves(result)
    if looked:
        sections.insert(3, Section("Inside the model", looked, LOOKED))
    subtitle = f"{result.model}, {result.method}, {len(result.facts)} of {result.asked} facts"
    return Page(f"{counted(len(result.facts), 'fact')} edited, one after another", tuple(sections), subtitle)


FORGETTING = (
    "Each column is a group of facts that were edited between two checkpoints, each row a checkpoint: the share of the "
    "group whose prompt prefers the new answer then. The lowest cell of a column was read first; what fades upwards "
    "was overwritten by later edits."
)
VALUES = (
    "What the MLP of the last edited layer writes at each subject's last token, right after the fact's own edit and at "
    "the end, on the two principal components of the former (as in Ma et al. 2024, Fig. 5). If the two clouds "
    "coincide, later edits left the written values in place; if they differ, later edits moved them."
)


def words(result: SequenceResult) -> list[str]:
    """A line per checkpoint, then two or three sentences."""
    last = result.last
    said = [f"{len(result.facts)} of {result.asked} facts edited by {result.method}: " + _kept(last)]
    moved = f"perplexity {last.quantities['perplexity']:.2f} times the unedited model's"
    moved += f", condition number {last.quantities['condition']:.2f} times"
    beside = last.score(NEIGHBOURS)
    if beside is not None:
        said.append(f"Tokens of neighbours' answers unchanged in {beside.value:.0%}")
    if "unchanged" in last.quantities:
        moved = f"unrelated facts' next token unchanged in {last.quantities['unchanged']:.0%}, " + moved
    said.append(heading(moved))
    if result.stopped:
        said.append(f"Stopped: {result.stopped}")
    return [*_lines(result.checkpoints), *said, *beside_words(result), *result.notes]


def _lines(points: Sequence[Checkpoint]) -> list[str]:
    names = list(points[-1].quantities)
    ratios = ("perplexity", "condition")  # over the unedited model's
    lines = [f"{'facts':>6}" + "".join(f"{name + (' ×' if name in ratios else ''):>15}" for name in names)]
    for point in points:
        cells = [f"{point.quantities[name]:>15.4g}" if name in point.quantities else f"{'':>15}" for name in names]
        how = f"  restrained{f', {point.restraint}' if point.restraint else ''}" if point.restrained else ""
        lines.append(f"{point.facts:>6}" + "".join(cells) + how)
    return lines


def summary(result: SequenceResult) -> dict[str, Any]:
    """The numbers that a program would ask for first; null for what is not a number."""
    points = [
        {"facts": one.facts, "restrained": one.restrained, "warnings": one.warnings}
        | {name: _number(value) for name, value in one.quantities.items()}
        | ({"look": {name: _number(value) for name, value in one.extra.items()}} if one.extra else {})
        for one in result.checkpoints
    ]
    body = {"method": result.method, "facts": len(result.facts), "asked": result.asked, "edits": len(result.edits)}
    return body | {
        "stopped": result.stopped,
        "weights": result.last.weights,
        "scores": plain(result.last.scores),
        "checkpoints": points,
    }


def records(result: SequenceResult) -> list[dict[str, Any]]:
    """A row a checkpoint, metric and time: the value with its 95 % interval; drift and perplexity as metrics too."""
    rows: list[dict[str, Any]] = []
    for point in result.checkpoints:
        place = {"facts": point.facts, "edits": point.edits, "restrained": point.restrained}
        rows += [{**place, **asdict(score)} for score in point.scores]
        rows += [
            {**place, "method": result.method, "metric": name, "when": "final", "value": value}
            for name, value in {"perplexity": point.perplexity, **point.quantities}.items()
        ]
    return rows


def _number(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _kept(point: Checkpoint) -> str:
    now, soon = point.score("ES"), point.score("ES", "after")
    if now is None or soon is None:
        return "nothing was edited"
    after = " after the restraint" if point.restrained else ""
    return f"{soon.value:.0%} held right after their edit, {now.value:.0%} hold at the end{after}"


def headline(result: SequenceResult) -> Headline:
    """How many edits hold, what it cost, and when it began to break."""
    last = result.last
    numbers = [Number(f"{last.quantities['retention']:.0%}", "of all edits hold at the end")]
    beside = last.score(NEIGHBOURS)
    if beside is not None:
        numbers.append(Number(f"{beside.value:.0%}", "of the tokens of neighbours' answers unchanged"))
    if "unchanged" in last.quantities:
        numbers.append(Number(f"{last.quantities['unchanged']:.0%}", "unrelated facts: next token unchanged"))
    numbers.append(Number(f"× {last.quantities['perplexity']:.3g}", "perplexity of a fixed text"))
    numbers.append(Number(f"× {last.quantities['condition']:.3g}", "condition number, worst weight"))
    first = [(rule, point.facts) for rule in map(str, WARN) for point in result.checkpoints if rule in point.warnings]
    begun = {rule: min(at for one, at in first if one == rule) for rule, _ in first}
    words = f"Of {counted(len(result.facts), 'edit')}, " + _kept(last) + "."
    if begun:
        words += " Signs of collapse: " + ", ".join(f"{rule} from {at} facts on" for rule, at in begun.items()) + "."
    if result.stopped:
        words += f" Stopped early: {result.stopped}."
    return Headline(words, tuple(numbers))


def score_table(result: SequenceResult) -> Table:
    """Every score right after each edit and at the end, with intervals; before and after a restraint at the end."""
    end = result.last
    columns = [Column.of("before any edit", end.scores, "before"), Column.of("immediate", end.scores, "after")]
    columns.append(Column.of("immediate, 95 %", end.scores, "after", interval))
    for point in result.checkpoints[-2:] if _restrained_at_end(result) else (end,):
        title = "restrained" if point.restrained else "at the end"
        columns += [
            Column.of(title, point.scores, "final"),
            Column.of(f"{title}, 95 %", point.scores, "final", interval),
        ]
    return table_of(columns, f"{INTERVALS}. Unrelated facts are read at checkpoints only.")


def _round(number: float) -> Cell:
    if abs(number) < 1e-9:  # the edge of an interval at 0, up to rounding
        return 0.0
    return four_digits(number)


def _restrained_at_end(result: SequenceResult) -> bool:
    return result.settings["restrain"] is not None and result.settings["restrain_at"] == "end"


def _line(result: SequenceResult) -> tuple[Checkpoint, ...]:
    """The checkpoints that follow one another: without the one after a restraint at the end."""
    return result.checkpoints[:-1] if _restrained_at_end(result) else result.line


def score_curves(result: SequenceResult) -> tuple[Spec, ...]:
    """Immediate and final scores, drift of unrelated facts, perplexity."""
    points = _line(result)
    x = np.array([point.facts for point in points])
    drawn: list[Spec] = []
    for name in (*SHOWN, "unrelated, unchanged", "unrelated KL"):
        if all(point.score(name) is None for point in points):
            continue
        palette: Palette = SHOWN.get(name, "red")  # type: ignore[assignment]
        series = [_series("now", points, name, "final", palette)]
        if name in SHOWN:
            series.append(_series("immediate, all so far", points, name, "after", None))
        unit = "nats" if name.endswith("KL") else ""
        drawn.append(Curves(heading(label(name)), x, tuple(series), "facts edited", (), "" if unit else "share", unit))
    factor = np.array([point.perplexity for point in points])
    note = f"Before any edit {factor[0]:.3g}. The text: {result.text}."
    drawn.append(
        Curves(
            "Perplexity",
            x,
            (Series("perplexity", factor),),
            "facts edited",
            (),
            "perplexity",
            log_y=True,
            least=1.25,
            note=note,
        )
    )
    return tuple(drawn)


def look_curves(result: SequenceResult) -> tuple[Curves, ...]:
    """Every number that was looked at ("whose: what (unit)") at all checkpoints, one picture for each what."""
    points = _line(result)
    names = [
        name for name, value in points[0].extra.items()
        if isinstance(value, float) and ": " in name and all(name in point.extra for point in points)
    ]  # fmt: skip
    titles = dict.fromkeys(name.split(": ", 1)[1] for name in names)
    x = np.array([point.facts for point in points])
    return tuple(
        Curves(
            heading(title),
            x,
            tuple(
                Series(name.split(": ", 1)[0], np.array([point.extra[name] for point in points]))
                for name in names
                if name.split(": ", 1)[1] == title
            ),
            "facts edited",
            y_title="change",
        )
        for title in titles
    )


def _series(title: str, points: Sequence[Checkpoint], name: str, when: str, palette: Palette | None) -> Series:
    scores = [point.score(name, when) for point in points]
    y, low, high = (
        np.array([np.nan if score is None else getattr(score, edge) for score in scores])
        for edge in ("value", "low", "high")
    )
    return Series(title, y, low, high, palette)


def forgetting(result: SequenceResult) -> Heatmap:
    """Share of each group of edits that holds at each checkpoint."""
    points = [point for point in _line(result) if point.facts]
    ends = [0, *(point.facts for point in points)]
    values = np.full((len(points), len(points)), np.nan)
    for row, point in enumerate(points):
        for column in range(row + 1):
            values[row, column] = np.mean(point.held[ends[column] : ends[column + 1]])
    columns = tuple(f"{begin + 1}–{end}" for begin, end in pairwise(ends))
    rows = tuple(str(point.facts) for point in points)
    return Heatmap(
        "Edits that still hold", values, rows, columns, "after", "facts edited", "share that holds", "",
        limits=(0.0, 1.0), palette="purple",
    )  # fmt: skip


def weight_specs(result: SequenceResult) -> tuple[Spec, ...]:
    """Condition numbers, extreme singular values and size of the change by edits; all singular values by a slider."""
    points = _line(result)
    x, names = np.array([point.facts for point in points]), [one.weight for one in points[0].spectra]
    found = {(one.weight, at): one for at, point in enumerate(points) for one in point.spectra}

    def curves(title: str, fields: Sequence[str], log: bool, note: str) -> Curves:
        series = tuple(
            Series(f"{_short(name)} {field if len(fields) > 1 else ''}".strip(),
                   np.array([getattr(found[name, at], field) for at in range(len(points))]))
            for name in names for field in fields
        )  # fmt: skip
        return Curves(title, x, series, "facts edited", (), title.lower(), log_y=log, note=note)

    slides = tuple(
        Slides(
            f"All singular values of {name}",
            tuple(
                f"{point.facts}{f' restrained {point.restraint}'.rstrip() * point.restrained}"
                for point in result.checkpoints
            ),
            tuple(_spectrum_curves(result.checkpoints[0], point, name) for point in result.checkpoints),
            "facts edited:",
            "From the largest to the smallest; the slider chooses the checkpoint.",
        )
        for name in names
    )
    return (
        curves("Condition number", ("condition",), True, "Largest singular value over smallest."),
        curves("Singular value", ("largest", "smallest"), True, "The largest and the smallest of each edited weight."),
        curves("Relative change", ("share",), False, "||dW|| / ||W before any edit||, Frobenius."),
        *slides,
    )


def _short(weight: str) -> str:
    name = WeightName.of(weight)
    return f"layer {name.layer}" + ("" if name.part == MLP_OUT else f", {name.part.partition('.')[2]}")


def _spectrum_curves(first: Checkpoint, point: Checkpoint, name: str) -> Curves:
    before, now = first.singular[name].numpy(), point.singular[name].numpy()
    series = (Series("before any edit", before, palette="blue"), Series("now", now, palette="purple"))
    return Curves(name, np.arange(len(now)), series, "number, from the largest", (), "singular value", log_y=True)


def values_picture(result: SequenceResult) -> Scatter:
    """Written values and what became of them, on the two principal components of those written."""
    written = result.values["written"].double().numpy()
    states = {"when written": written}
    states |= {name: result.values[key].double().numpy() for key, name in ENDS.items() if key in result.values}
    plane, shares = principal_plane(written)
    places = {name: (one - written.mean(0)) @ plane for name, one in states.items()}
    labels = tuple(f"{row.prompt} {row.target}" for row in result.rows if row.kind == "rewrite")
    groups = tuple(Points(name, one[:, 0], one[:, 1], labels) for name, one in places.items())
    carried = f"{shares[0]:.0%} and {shares[1]:.0%}"
    note = f"Layer {result.layer}. The components carry {carried} of the written values' variance."
    moved = moved_share(result)
    note += "".join(
        f" {name.capitalize()} a value has moved by {share:.2g} times what its own edit had moved it (median)."
        for name, share in moved.items()
    )
    return Scatter("Edited values", groups, "first component", "second component", "", True, note)


ENDS = {"end": "at the end", "restrained": "after the restraint"}


def moved_share(result: SequenceResult) -> dict[str, float]:
    """Median over facts of ||end - written|| / ||written - before||: 0 where later edits left the value alone."""
    before, written = (result.values[name].double() for name in ("before", "written"))
    own = (written - before).norm(dim=1)
    return {
        name: float(((result.values[key].double() - written).norm(dim=1) / own).median())
        for key, name in ENDS.items()
        if key in result.values
    }


def checkpoint_table(result: SequenceResult) -> Table:
    """One row per checkpoint, with the quantities that rules can name."""
    columns = ("facts", "restrained", *QUANTITIES, "broken", "seconds")
    rows = tuple(
        (point.facts, "yes" if point.restrained else "no",
         *(_round(point.quantities.get(name, float("nan"))) for name in QUANTITIES),
         ", ".join(point.warnings), _round(point.seconds))
        for point in result.checkpoints
    )  # fmt: skip
    note = "; ".join(f"{name}: {words}" for name, words in QUANTITIES.items())
    return Table("Checkpoints", columns, rows, f"{note}. Seconds are those of the readings alone.")


def card(result: SequenceResult) -> Card:
    """What is needed to do it again."""
    settings = {key: value for key, value in result.settings.items() if value not in (None, ())}
    per_edit = f"{np.median(result.seconds):.2f} s per edit in the median, with the reading of its own facts"
    items = (
        ("method", result.method),
        *about(result.method),
        ("its settings", settings_in_words(result.config)),
        ("the sequence", settings_in_words(settings)),
        ("second moments", result.moments),
        ("contexts", " | ".join(result.contexts)),
        ("fixed text", result.text),
        ("unrelated facts", f"{len(result.unrelated)}, known to the unedited model ({Known()}), no subject of an edit"),
        ("edits", f"{len(result.edits)}; {per_edit}"),
        ("weights at the end", result.last.weights),
        *(("to know", note) for note in result.notes),
    )
    return provenance(result.run, *items)
