"""Tables 4 to 7 of the survey of editing as one study (Zhang et al. 2024, arXiv 2401.01286, sections 4.2 to 4.5).

    Table 4   methods by sets: edit success, portability and locality, pooled; and the entropy of what is written
    Table 5   general tasks before and after five edits in sequence, all in the weights or beside them at once
    Table 6   an editor that was trained on one set and used on another: the rows of trained methods in Table 4, with
              how many of a set's facts their editor was trained on; 0 is another set
    Table 7   one case: what every method makes the model write

Each set is an `edit bench` of its own under the protocol `easyedit`, each case edited alone; the five edits are one
under `sequential`. Convention: shares from 0 to 1, where the survey has per cent; entropy in bits, where the survey has
a hundred times a sampled text's. Scope: sets that any reader reads; a set without portability has no such number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editing.evaluation.protocol import protocol
from editing.evaluation.table import Score, found
from editing.evaluation.tasks import Tasks
from editing.trained.editor import Trained
from factscope.data.case import Case
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs.provenance import Run, stopwatch
from studies.bench.bench import Bench, bench

POOLED = ("edit success, pooled", "portability, pooled", "locality, pooled", "generation entropy")
WORDS = 20  # tokens of what is written
EDITS = 5  # in sequence, before general tasks are asked


@dataclass(frozen=True)
class SetResult:
    """One set: the pooled scores of every method, and of its first case what is written."""

    name: str
    cases: int
    scores: tuple[Score, ...]  # of POOLED, after each edit, and before any
    comparable: str
    prompt: str
    target: str
    wrote: dict[str, str]  # by method; "unedited" for the model before
    trained_on: dict[str, int]  # by trained method: requests of the set that its editor's training met

    def score(self, method: str, metric: str, when: str = "after") -> Score | None:
        """A cell of Table 4; None where it does not apply."""
        try:
            return found(self.scores, metric, when, method)
        except KeyError:
            return None


@shown("studies.pages.survey")
@dataclass(frozen=True)
class Survey(Result):
    """All four tables."""

    methods: tuple[str, ...]
    sets: tuple[SetResult, ...]
    before: dict[str, float]  # general tasks of the unedited model
    after: dict[str, dict[str, float]]  # by method, after `edits` edits
    edits: int
    start_token: str
    run: Run


def survey(
    model: Bridge,
    sets: Mapping[str, Sequence[Case]],
    names: Sequence[str],
    folder: str | Path,
    *,
    tasks: Tasks,
    editors: Sequence[Trained] = (),
    edits: int = EDITS,
    **how: Any,
) -> Survey:
    """Edit every set by every method in `folder`, going on from what is done there. The model comes back bitwise.

    Args:
        sets: cases by the name of their set.
        tasks: what is asked before and after `edits` cases of the first set, one after another.
        editors: of methods that are trained.
        how: as of `studies.bench.bench.Options`.

    Raises UserError where there is no set or method, or fewer cases than `edits`, and what `bench` raises.
    """
    if not sets or not names:
        raise UserError("there is nothing to tabulate: name a set and a method")
    first = list(next(iter(sets.values())))[:edits]
    if len(first) < edits:
        raise UserError(f"general tasks are asked after {edits} edits, and the first set has {len(first)} cases")
    run = Run.of(model, how.get("seed", 0))
    with stopwatch() as seconds:
        before = _bare(tasks(model))
        found = [
            _of_set(name, cases, bench(model, cases, names, protocol("easyedit", words=WORDS), Path(folder) / name,
                                       source=name, editors=editors, **how), editors)
            for name, cases in sets.items()
        ]  # fmt: skip
        five = bench(
            model, first, names, protocol("sequential"), Path(folder) / "in sequence", source="five", editors=editors,
            at=(edits,), tasks=tasks, **how,
        )  # fmt: skip
    return Survey(
        methods=tuple(trial.method for trial in five.trials),
        sets=tuple(found),
        before=before,
        after={trial.method: _bare(trial.curve[-1].general) for trial in five.trials},
        edits=edits,
        start_token=five.start_token,
        run=run.ended(seconds[0]),
    )


def _of_set(name: str, cases: Sequence[Case], made: Bench, editors: Sequence[Trained]) -> SetResult:
    rows = {trial.method: trial.rows[0] for trial in made.trials}
    wrote = {method: row.after.said or "" for method, row in rows.items() if row.after is not None}
    one = next(iter(rows.values()))
    requests = [request for case in cases for request in case.requests]
    return SetResult(
        name=name,
        cases=len(cases),
        scores=tuple(score for score in made.scores if score.metric in POOLED),
        comparable=made.comparable,
        prompt=one.prompt,
        target=one.target,
        wrote={"unedited": one.before.said or ""} | wrote,
        trained_on={editor.method: len(editor.known(requests)) for editor in editors},
    )


def _bare(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix("task/"): value for name, value in numbers.items() if name.startswith("task/")}
