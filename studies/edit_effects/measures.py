"""How large is each change, beside the changes that mean nothing?

Four kinds of null stand beside an edit: broad and narrow scrambles of it (`editing/nulls.py`), the same search again in
the unedited model (other wordings, a jittered cut), and the prompts that the edit ought to leave alone.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from circuits.analysis.diff import CircuitDiff, diff
from circuits.analysis.head_changes import HeadTable, head_changes
from editing.evaluation.evaluate import EditReport
from studies.edit_effects.model_state import ModelState
from studies.edit_effects.result import EditStudy, Measure

CIRCUIT = "edge effects changed"  # the measure that a study's first line is about


def measures(study: EditStudy) -> tuple[Measure, ...]:
    """Every kind of change, by the edit and beside it by each null."""
    before, after = study.before, study.after
    broad = [side for side in study.nulls if side.kind == "directions"]
    narrow = [side for side in study.nulls if side.kind == "values"]

    def over(name: str, unit: str, size: Callable[[ModelState], float], **others: tuple[float, ...]) -> Measure:
        return Measure(name, unit, size(after), tuple(map(size, broad)), tuple(map(size, narrow)), **others)

    sides = {side.name: diff(before.circuit, side.circuit, draws=0) for side in (after, *study.nulls)}
    again = [diff(before.circuit, each.circuit, draws=0) for each in study.again]
    neighbours = [diff(each.before, each.after, draws=0) for each in study.neighbours]

    def between(name: str, unit: str, size: Callable[[CircuitDiff], float]) -> Measure:
        return over(
            name, unit, lambda side: size(sides[side.name]),
            again=tuple(map(size, again)), neighbours=tuple(map(size, neighbours)),
        )  # fmt: skip

    def turned(name: str, unit: str, size: Callable[[HeadTable, HeadTable], float]) -> Measure:
        near = tuple(size(each.heads_before, each.heads_after) for each in study.neighbours)
        return over(name, unit, lambda side: size(before.heads, side.heads), neighbours=near)

    def traced(kind: str) -> Callable[[ModelState], float]:
        def size(side: ModelState) -> float:
            one, other = before.trace.towards(kind), side.trace.towards(kind)
            return float("nan") if one is None or other is None else float((other - one).abs().max())

        return size

    found = [
        over("new answer against the old", "logits", lambda side: abs(side.gap - before.gap)),
        between(CIRCUIT, "share of their sum before", lambda d: d.relative_change),
        between("largest change of one edge's effect", before.circuit.unit, lambda d: d.largest_change),
        between("edges gained and lost", "edges", lambda d: float(len(d.gained) + len(d.lost))),
        between("circuits unlike (1 - Jaccard)", "share", lambda d: 1 - d.jaccard),
        between("nodes gained and lost", "nodes", lambda d: float(len(d.nodes_gained) + len(d.nodes_lost))),
    ]
    found += [
        turned("heads whose attribution to an answer rose or fell", "heads", _changed),
        turned("largest turn of one head towards an answer", "logits", _turn),
    ]
    found += [over(f"largest change of the trace, {kind}", "logits", traced(kind)) for kind in study.config["sites"]]
    reports = {side.name: one for side, one in zip(study.nulls, study.null_reports, strict=True)}
    reports[after.name] = study.report
    for what, kind in (("paraphrase", "paraphrase"), ("neighbour", "locality")):
        if any(row.kind == kind for row in study.report.rows):
            found.append(over(f"drift on {what}s (KL)", "nats", partial(_drift_of, reports, kind)))
    return tuple(found)


def _changed(one: HeadTable, other: HeadTable) -> float:
    return float(sum(change.what != "none" for change in head_changes(one, other)))


def _turn(one: HeadTable, other: HeadTable) -> float:
    return abs(head_changes(one, other)[0].shift)


def _drift_of(reports: dict[str, EditReport], kind: str, side: ModelState) -> float:
    return float(np.mean([row.after.kl for row in reports[side.name].rows if row.kind == kind and row.after]))


def measure_of(study: EditStudy, name: str) -> Measure:
    """One of a study's measures."""
    return next(one for one in study.measures if one.name == name)
