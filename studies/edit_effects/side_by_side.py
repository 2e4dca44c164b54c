"""Several ways of making the same edit, side by side: the same prompt, the same model before, one column for each."""

from collections.abc import Sequence

import numpy as np

from factscope.plots.specs import (
    Cell,
    Curves,
    Heatmap,
    Links,
    Page,
    Section,
    Series,
    Spec,
    Table,
    Text,
    state_labels,
    state_name,
)
from studies.edit_effects.measures import measure_of
from studies.edit_effects.result import EditStudy
from studies.edit_effects.words import words


def side_by_side(found: Sequence[EditStudy]) -> Page:
    """The page of a comparison; each method's own page is in its folder."""
    first = found[0]
    old, new = first.answers
    said = Text("\n\n".join(f"{study.method}: {words(study)[0]}" for study in found))
    pages = Links(tuple(study.method for study in found), "Each method's own page")
    sections = (
        Section("In short", (said, pages, _measures(found))),
        Section("Where the model is read for the new answer", _traces(found), _TRACE),
        Section("Where the new answer comes in", _curves(found)),
        Section("Who writes it", (*_direct(found), _heads(found))),
    )
    return Page(f"{first.request.prompt}:{old} or{new}?", sections, ", ".join(study.method for study in found))


_TRACE = "What each method changed in the trace of the residual stream, logits towards the new answer, on one scale."


def _measures(found: Sequence[EditStudy]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in found[0].measures:
        each = [measure_of(study, one.name) for study in found if any(m.name == one.name for m in study.measures)]
        if len(each) == len(found):
            cells = [f"{_figure(m.edit)} (nulls {_most(m.scrambled + m.values)})" for m in each]
            rows.append((one.name, one.unit, *cells))
    rows.append(("new answer leads from, last token", "layer", *(state_name(s.after.lens.leads_from()) for s in found)))
    rows.append(("from, last subject token", "layer", *(state_name(s.after.lens.leads_from(1)) for s in found)))
    note = "In brackets the most that any null of that edit changed."
    return Table("Changes", ("change", "unit", *(study.method for study in found)), tuple(rows), note)


def _most(values: Sequence[float]) -> str:
    known = [value for value in values if value == value]
    return f"at most {_figure(max(known))}" if known else "none"


def _figure(value: float) -> str:
    """Three digits, and counts of thousands whole."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _traces(found: Sequence[EditStudy]) -> tuple[Spec, ...]:
    changes = []
    for study in found:
        before, after = study.before.trace.towards("resid"), study.after.trace.towards("resid")
        if before is not None and after is not None and study.before.trace.result is not None:
            changes.append((study, study.before.trace.result.prompt, (after - before).numpy()))
    top = max((float(np.abs(change[:, 1:]).max()) for _, _, change in changes), default=1.0)
    return tuple(
        Heatmap(
            f"{study.method}, layer {', '.join(map(str, study.layers))}: after less before", change,
            tuple(str(layer) for layer in range(len(change))), prompt.labels, value_title="towards the new answer",
            unit="logits", scale="diverging", limits=(-top, top), marked=tuple(prompt.subject_positions), left_out=(0,),
        )
        for study, prompt, change in changes
    )  # fmt: skip


def _curves(found: Sequence[EditStudy]) -> tuple[Spec, ...]:
    before = found[0].before.lens
    names = state_labels(before.probability.shape[-1])
    drawn = []
    for what in ("probability", "rank"):
        for place, where in enumerate(before.places):
            series = [Series("before", getattr(before, what)[1, place].numpy())]
            series += [Series(study.method, getattr(study.after.lens, what)[1, place].numpy()) for study in found]
            drawn.append(
                Curves(f"{what.capitalize()} of{found[0].answers[1]} at the {where}", np.arange(len(names)),
                       tuple(series), x_labels=names, y_title=what, log_y=what == "rank")
            )  # fmt: skip
    return tuple(drawn)


def _direct(found: Sequence[EditStudy]) -> tuple[Spec, ...]:
    layers = np.arange(found[0].before.circuit.graph.n_layers)
    sides = [("before", found[0].before), *((study.method, study.after) for study in found)]
    series = tuple(Series(name, (side.heads.mlps[1] - side.heads.mlps[0]).numpy()) for name, side in sides)
    return (Curves("Direct attribution of each MLP", layers, series, y_title="new - old", unit="logits"),)


def _heads(found: Sequence[EditStudy]) -> Table:
    most = sorted(
        {head.name for study in found for head in study.heads[:10]},
        key=lambda name: -max(abs(head.shift) for study in found for head in study.heads if head.name == name),
    )
    rows = []
    for name in most[:30]:
        each = [next(head for head in study.heads if head.name == name) for study in found]
        rows.append((name, *(cell for head in each for cell in (head.shift, head.what))))
    columns = tuple(column for study in found for column in (f"{study.method}: turn", f"{study.method}: change"))
    return Table(
        "Heads", ("head", *columns), tuple(rows), "Turn: logits towards the new answer in the head's direct write."
    )
