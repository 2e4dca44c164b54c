"""An edit study in one line for a person, and in numbers for a program."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from factscope.plots.labels import counted
from studies.edit_effects.measures import CIRCUIT, measure_of
from studies.edit_effects.result import EditStudy


def words(study: EditStudy) -> list[str]:
    """Whether it took, and whether it did more than nulls do; which heads turned."""
    old, new = study.answers
    before, after = (side.lens.probability[:, 0, -1].tolist() for side in (study.before, study.after))
    odds = ", ".join(
        f"P({answer.strip()}) {_probability(before[i])} to {_probability(after[i])}"
        for i, answer in ((1, new), (0, old))
    )
    took = "The edit took" if study.took else f"The edit did not take: {old.strip()!r} is still ahead"
    return [f"{_beyond(study)}{took} ({odds}). {_size(study)}", _heads(study)]


def _heads(study: EditStudy) -> str:
    """Which heads turned beyond every null, the greatest first."""
    turned = [head for head in study.heads if head.out_of_nulls is not False][:6]
    words = ", ".join(f"{head.name} {head.shift:+.2g}" for head in turned)
    p = f" (p {turned[0].p:.2g}, corrected for all heads)" if turned and turned[0].p is not None else ""
    return (
        f"Heads that turned further than any head in any null, in logits towards the new answer: {words or 'none'}{p}"
    )


def _probability(value: float) -> str:
    """Two digits, but no rounding up to certainty."""
    return f"{value:.2g}" if value < 0.995 else "over 0.995"


def _beyond(study: EditStudy) -> str:
    """What must be said first of all: that nulls do as much."""
    measure = measure_of(study, CIRCUIT)
    if measure.beyond is False:
        return "No larger than its nulls: a scrambled edit of the same norm changed the circuit as much. "
    if measure.beyond is None:
        return "Without nulls there is nothing to compare this with. "
    return ""


def _size(study: EditStudy) -> str:
    measure, diff = measure_of(study, CIRCUIT), study.diff
    kinds = [
        (values, name) for values, name in ((measure.values, "values"), (measure.scrambled, "directions")) if values
    ]
    ranges = [f"{counted(len(values), f'{name} null')} {_range(values)}" for values, name in kinds]
    beside = f"; {', '.join(ranges)}" if ranges else ""
    beside += f" (p {measure.p:.2g})" if measure.p is not None else ""
    again = f", another wording in the unedited model {np.mean(measure.again):.0%}" if measure.again else ""
    crossed = measure_of(study, "edges gained and lost")
    most = [*crossed.scrambled, *crossed.values]
    null = f"; gained and lost together by a scrambled edit at most {max(most):,.0f}" if most else ""
    search = f", by another wording {np.mean(crossed.again):,.0f}" if most and crossed.again else ""
    return (
        f"Edge effects changed by {measure.edit:.0%} of their sum{beside}{again}. "
        f"Of {diff.edges_before:,} edges before and {diff.edges_after:,} after the edit, "
        f"{len(diff.gained):,} are gained, {len(diff.lost):,} lost{null}{search}."
    )


def _range(shares: Sequence[float]) -> str:
    """One share, or the smallest and the largest of several."""
    low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
    return low if len(shares) == 1 else f"{low} to {high}"


def summary(study: EditStudy) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    lead = study.after.lens.leads_from()
    return {
        "edit": study.edit[:12],
        "method": study.method,
        "prompt": study.request.prompt,
        "answers": {"old": study.answers[0], "new": study.answers[1]},
        "took": study.took,
        "gap": {"before": study.before.gap, "after": study.after.gap},
        "leads_from": None if lead is None else lead - 1,
        "edges": {
            "gained": len(study.diff.gained), "lost": len(study.diff.lost), "kept": len(study.diff.shared),
            "moved": study.diff.n_moved, "only_crossed": len(study.diff.only_crossed), "jaccard": study.diff.jaccard,
        },
        "heads": {head.name: head.what for head in study.heads if head.what != "none"},
        "cross_faithfulness": {
            f"model {cell.model}, circuit {cell.circuit}": _number(cell.faithfulness) for cell in study.cross.cells
        },
        "measures": {
            m.name: {
                "unit": m.unit, "edit": _number(m.edit), "directions": [_number(v) for v in m.scrambled],
                "values": [_number(v) for v in m.values], "again": [_number(v) for v in m.again],
                "neighbours": [_number(v) for v in m.neighbours], "beyond": m.beyond, "p": m.p,
            }
            for m in study.measures
        },
        "seconds": sum(study.seconds.values()),
    }  # fmt: skip


def records(study: EditStudy) -> list[dict[str, Any]]:
    """A row a kind of change and what made it: the edit, a control edit (null), a rerun, or the neighbours."""
    rows: list[dict[str, Any]] = []
    for one in study.measures:
        made = {"edit": (one.edit,), "directions null": one.scrambled, "values null": one.values,
                "again": one.again, "neighbours": one.neighbours}  # fmt: skip
        rows += [
            {"change": one.name, "unit": one.unit, "by": by, "number": number, "value": value}
            for by, values in made.items()
            for number, value in enumerate(values)
        ]
    return rows


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
