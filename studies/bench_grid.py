"""One method through the cases of a bench: a journalled row of the grid, taken up where it stopped.

A step edits the protocol's number of cases at once and reads them; where edits are taken out again, several steps are
computed side by side. Every finished step is one line of the method's journal, with what it cost. Where edits stay in,
each is saved too, so that a resumed run stands on the very weights that it stopped on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from editing import methods
from editing.edit import Edit, commit, in_place, revert
from editing.protocols import Protocol
from editing.suite import Asked, Heard, Reading, Row, Speech, listen, readings
from editing.suite_errors import Failure, failures
from studies.edit_apply import load_edits, moments_for
from studies.memory import watched
from workbench.cases import Case
from workbench.facts import Fact
from workbench.journal import Journal
from workbench.progress import Advance
from workbench.run import stopwatch

SIDE_BY_SIDE = 10  # edits of one case each, computed in one batch
CASES = 32  # read at once: their distributions are held for the KL


@dataclass(frozen=True)
class Cost:
    """What one edit took."""

    seconds: float
    memory: float | None  # MB at most beyond what the process held before; None where the system does not say
    stored: float  # MB of the edit itself


@dataclass(frozen=True)
class Trial:
    """One method on all cases."""

    method: str
    config: dict[str, Any]
    rows: tuple[Row, ...]
    speech: tuple[Speech, ...]
    costs: tuple[Cost, ...]  # one an edit
    failures: tuple[Failure, ...] = ()
    general: dict[str, float] = field(default_factory=dict)  # of the model with all edits in


@dataclass(frozen=True, eq=False)
class Grid:
    """One method on all cases."""

    model: Any
    cases: Sequence[Case]
    asked: dict[str, list[Asked]]
    protocol: Protocol
    name: str
    config: Any
    folder: Path
    yardstick: Any
    seed: int
    start: str
    advance: Advance
    ahead: dict[int, Heard] = field(default_factory=dict)  # the unedited model, by the number of a step's first case

    def run(self, work: dict[str, Any], moments: str, tokens: int | None) -> Trial:
        """Do what the journal does not have yet, and give the whole; `work` is what makes the journal this one's."""
        size = self.protocol.size or len(self.cases)
        steps = [self.cases[i : i + size] for i in range(0, len(self.cases), size)]
        side = SIDE_BY_SIDE if not self.protocol.stays and size == 1 else 1
        with Journal(self.folder / f"{self.name}.jsonl", work) as journal:
            self.advance(sum(len(step) for step in steps[: len(journal.done)]))
            done = min(len(journal.done), len(steps))
            stats = None
            if done < len(steps):
                stats = moments_for(self.model, self.name, self.config, moments, tokens, self.seed)
            if self.protocol.stays:
                commit(self.model, [e for i in range(done) for e in load_edits(self._place(i))])
            try:
                for begin in range(done // side * side, len(steps), side):
                    some = steps[begin : begin + side]
                    for number, (piece, edit) in enumerate(self._made(some, stats), start=begin):
                        if number < len(journal.done):
                            continue  # the batch was stopped halfway; its edits are computed as they were
                        if self.protocol.stays:
                            edit.save(self._place(number))
                        journal.add(piece)
                        self.advance(len(steps[number]))
                if len(journal.done) == len(steps):
                    journal.add(self._end())
            finally:
                revert(self.model, in_place(self.model))
            return self._result(journal.done[:-1], journal.done[-1])

    def _place(self, number: int) -> Path:
        return self.folder / "edits" / self.name / f"{number:05d}"

    def _made(self, steps: Sequence[Sequence[Case]], stats: Any) -> Iterator[tuple[dict[str, Any], Edit]]:
        """Each step of a batch: what goes into the journal, and its edit, which stays in place if edits stay."""
        facts = [tuple(fact for case in step for fact in case.facts) for step in steps]
        how: dict[str, Any] = {"moments": stats, "seed": self.seed, "start": self.start, "shown": False}
        with watched() as memory, stopwatch() as seconds:
            edits = self._computed(facts, how)
        clean = [self._heard(step) for step in steps] if not self.protocol.stays else self._clean(steps[0])
        for number, (step, edit) in enumerate(zip(steps, edits, strict=True)):
            cost = Cost(seconds[0] / len(edits), memory(), stored(edit))
            commit(self.model, (edit,))
            try:
                now = self._heard(step)
                alone = not self.protocol.stays and len(step) == len(self.cases)
                elsewhere = general(self.model, self.yardstick) if alone else {}
            finally:
                if not self.protocol.stays:
                    revert(self.model, (edit,))
            piece = {"cost": asdict(cost), "cases": [case.id for case in step], "general": elsewhere}
            yield piece | self._read(step, clean[number], now), edit

    def _computed(self, facts: Sequence[tuple[Fact, ...]], how: dict[str, Any]) -> list[Edit]:
        if len(facts) > 1 and all(len(some) == 1 for some in facts):
            distinct = {(some[0].subject.casefold(), some[0].template.casefold()) for some in facts}
            if len(distinct) == len(facts):
                return methods.compute_each(self.name, self.model, [f for (f,) in facts], self.config, **how)
        return [methods.compute(self.name, self.model, some, self.config, **how) for some in facts]

    def _clean(self, step: Sequence[Case]) -> list[Heard]:
        """What the unedited model says to a step's questions; read ahead, as taking many edits out takes time."""
        at, size = self.cases.index(step[0]), len(step)
        if at not in self.ahead:
            self.ahead.clear()
            with parked(self.model):
                for begin in range(at, min(at + CASES, len(self.cases)), size):
                    self.ahead[begin] = self._heard(self.cases[begin : begin + size])
        return [self.ahead[at]]

    def _heard(self, cases: Sequence[Case]) -> Heard:
        asked = [one for case in cases for one in self.asked[case.id]]
        speak = [(case.id, text) for case in cases for text in case.speak]
        return listen(self.model, asked, speak, self.protocol, self.start, self.seed)

    def _read(self, cases: Sequence[Case], before: Heard, now: Heard) -> dict[str, Any]:
        """Plain data: the readings before and now of every question of these cases, and their texts."""
        asked = [one for case in cases for one in self.asked[case.id]]
        first, then = readings(asked, before, before), readings(asked, now, before)
        return {
            "before": [asdict(one) for one in first],
            "now": [asdict(one) for one in then],
            "speech": [before.speech, now.speech],
        }

    def _end(self) -> dict[str, Any]:
        """What is read when all edits are in: every question again where edits stay, and the yardstick."""
        end: dict[str, Any] = {"final": None, "speech": [], "general": {}}
        if not self.protocol.stays:
            return end
        end["final"] = []
        for begin in range(0, len(self.cases), CASES):
            some = self.cases[begin : begin + CASES]
            now = self._heard(some)
            with parked(self.model):
                before = self._heard(some)
            read = self._read(some, before, now)
            end["final"] += read["now"]
            end["speech"] += read["speech"][1]
        end["general"] = general(self.model, self.yardstick)
        return end

    def _result(self, pieces: Sequence[dict[str, Any]], end: dict[str, Any]) -> Trial:
        asked = [one for case in self.cases for one in self.asked[case.id]]
        before, after = ([Reading(**one) for piece in pieces for one in piece[key]] for key in ("before", "now"))
        final = [Reading(**one) for one in end["final"]] if end["final"] is not None else [None] * len(asked)
        rows = tuple(
            replace(one.row, before=b, after=a, final=f)
            for one, b, a, f in zip(asked, before, after, final, strict=True)
        )
        speak = [(case.id, text) for case in self.cases for text in case.speak] if self.protocol.speech else []
        texts = [[text for piece in pieces for text in piece["speech"][i]] for i in (0, 1)]
        last: list[str | None] = list(end["speech"]) or [None] * len(speak)
        speech = tuple(
            Speech(case, prompt, b, a, f) for (case, prompt), b, a, f in zip(speak, *texts, last, strict=True)
        )
        costs = tuple(Cost(**piece["cost"]) for piece in pieces)
        elsewhere = end["general"] or pieces[-1]["general"]
        return Trial(self.name, asdict(self.config), rows, speech, costs, failures(rows), elsewhere)


class parked:
    """The block runs on the unedited model; the edits that were in place come back after it."""

    def __init__(self, model: Any) -> None:
        self.model, self.edits = model, in_place(model)

    def __enter__(self) -> None:
        revert(self.model, self.edits)

    def __exit__(self, *_: object) -> None:
        commit(self.model, self.edits)


def general(model: Any, yardstick: Any) -> dict[str, float]:
    """What the edited model still does elsewhere; nothing without a yardstick."""
    if yardstick is None:
        return {}
    rows = yardstick.rows(model)
    edits = in_place(model)
    now = yardstick.perplexity(model)
    revert(model, edits)
    try:
        before = yardstick.perplexity(model)
    finally:
        commit(model, edits)
    found = {"perplexity": now, "perplexity before": before}
    if rows:
        found["top-1 unchanged"] = sum(row.after.top == row.before.top for row in rows) / len(rows)
        found["KL"] = sum(row.after.kl for row in rows) / len(rows)
    return found


def stored(edit: Edit) -> float:
    """MB of an edit: its factors, or its text."""
    parts = [part for delta in edit.deltas for part in (delta.left, delta.right, delta.keep) if part is not None]
    return (sum(part.numel() * part.element_size() for part in parts) + len(edit.preface.encode())) / 1e6
