"""Restrained copies beside a sequence, as PRUNE was published: both models at every number of edits (Ma et al. 2024).

Their Table 1 (the largest singular value of the sum), Fig. 3 (tasks) and Fig. 4 (efficacy, generalisation, locality),
and what their theory is about: whether the condition number says how far ordinary keys must move (sequence/keys.py).
"""

from collections.abc import Callable

import numpy as np

from editing.evaluation.metrics import label
from editing.sequence.result import Checkpoint, SequenceResult
from factscope.plots.labels import four_digits, heading
from factscope.plots.specs import Curves, Section, Series, Spec, Table, Text
from factscope.statistics import spearman

PLAIN = "unrestrained"
SCORES = ("ES", "PS", "NS", "unrelated, unchanged", "unrelated KL")
TASK = "task/"  # before the name of a task among what a checkpoint's hook gave
ABOUT = (
    "At every checkpoint the sum of all edits is restrained aside, read, and put away: the sequence goes on without. "
    "Movement: how far the keys of unrelated facts must move, ||dk|| / ||k||, for the edited weight to write what it "
    "wrote; its bound is the largest singular value of the sum over the smallest of the edited weight."
)
PUBLISHED = (
    "Ma et al. 2024, Table 1, after 10, 50, 100 and 200 edits: ROME 7.25, 11.38, 15.62, 57.61; MEMIT 7.46, 15.63, "
    "23.39, 935; MEND 14.08, 75.53, 127.89, 191.04, largest singular values of the sum on their models. Weights of "
    "other sizes and scales: only whether they grow may be compared."
)


def beside_sections(result: SequenceResult) -> tuple[Section, ...]:
    """Plain and restrained at every number of edits; and the movement of keys and tasks, where they were measured."""
    specs: list[Spec] = []
    if said := beside_words(result):
        specs.append(Text(" ".join(said)))
    if result.copies or any(point.keys for point in result.checkpoints):
        specs.append(beside_table(result))
    if result.copies:
        specs += [one for name in SCORES if (one := _scores(result, name)) is not None]
    specs += task_curves(result)
    return (
        (Section("Beside its restraint" if result.copies else "Keys and tasks", tuple(specs), ABOUT),) if specs else ()
    )


def beside_words(result: SequenceResult) -> list[str]:
    """What each restraint gained and cost at the end, and whether the condition number tells how keys must move."""
    said = []
    for name, points in result.copies.items():
        last = points[-1]
        plain = next(one for one in result.line if one.facts == last.facts)
        parts = [
            f"{metric} {was.value:.2f} to {now.value:.2f}"
            for metric in SCORES
            if (was := plain.score(metric)) is not None and (now := last.score(metric)) is not None
        ]
        said.append(f"After {last.facts} facts, restrained ({name}): {', '.join(parts)}.")
    moved = [(point.quantities["condition"], _movement(point)) for point in result.line if point.facts and point.keys]
    if len(moved) > 2 and all(np.isfinite(one) for pair in moved for one in pair):
        rho, _ = spearman([pair[0] for pair in moved], [pair[1] for pair in moved])
        said.append(
            f"Over {len(moved)} checkpoints the condition number and the movement of ordinary keys have a rank "
            f"correlation of {rho:+.2f}."
        )
    return said


def beside_table(result: SequenceResult) -> Table:
    """A row for each number of edits and each copy: PRUNE's Table 1, and what it bounds."""
    columns = ("facts", "model", "largest of the sum", "condition ×", "movement of keys", "its bound",
               *(f"{name}" for name in SCORES))  # fmt: skip
    rows = tuple(
        (point.facts, point.restraint or PLAIN, four_digits(max(one.update_largest for one in point.spectra)),
         four_digits(point.quantities["condition"]), four_digits(_movement(point)),
         four_digits(max((bound for _, bound in point.keys.values()), default=float("nan"))),
         *(None if (score := point.score(name)) is None else four_digits(score.value) for name in SCORES))
        for point in result.checkpoints
    )  # fmt: skip
    return Table("Plain and restrained at every checkpoint", columns, rows, note=PUBLISHED)


def task_curves(result: SequenceResult) -> tuple[Curves, ...]:
    """One picture for each task: the model as it goes on, and each restrained copy (PRUNE's Fig. 3)."""
    names = [name for name in result.checkpoints[0].extra if name.startswith(TASK)]

    def drawn(name: str) -> Curves:
        return _curves(name.removeprefix(TASK), result, lambda point: float(point.extra[name]))

    return tuple(map(drawn, names))


def _scores(result: SequenceResult, name: str) -> Curves | None:
    if all(point.score(name) is None for point in result.checkpoints):
        return None

    def value(point: Checkpoint) -> float:
        score = point.score(name)
        return float("nan") if score is None else score.value

    return _curves(label(name), result, value)


def _curves(title: str, result: SequenceResult, value: Callable[[Checkpoint], float]) -> Curves:
    """The plain line and the copies over the number of edits; both begin at the unedited model."""
    line = result.line
    x = [point.facts for point in line]
    series = [Series(PLAIN, np.array([value(point) for point in line]))]
    for name, points in result.copies.items():
        found = {0: line[0]} | {point.facts: point for point in points}
        series.append(Series(name, np.array([value(found[n]) if n in found else np.nan for n in x])))
    return Curves(heading(title), np.array(x), tuple(series), "facts edited", y_title="value")


def _movement(point: Checkpoint) -> float:
    return max((moved for moved, _ in point.keys.values()), default=float("nan"))
