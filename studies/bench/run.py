"""Methods on their way through the cases of a bench, each with its journal, taken up where it stopped.

A step edits the protocol's number of cases at once and reads them; where edits are taken out again, several steps are
computed side by side. Every finished step is one line of the method's journal, with what it cost. Where edits stay in,
each is saved too, so that a resumed run stands on the very weights that it stopped on.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from editing import compute as computing
from editing.edit import Edit, commit, in_place, revert, unedited
from editing.evaluation.failures import Failure, failures
from editing.evaluation.protocol import ORDERS, Protocol
from editing.evaluation.read import Outputs, Reading, Row, Speech, TokenizedQuestion, listen, readings
from editing.evaluation.table import table
from editing.method import MethodConfig, MethodSpec
from editing.sequence.yardstick import Yardstick
from editing.trained.editor import Trained
from factscope.data.case import Case
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.progress import Advance
from factscope.runs.journal import Journal
from factscope.runs.memory import watched
from factscope.runs.provenance import stopwatch
from studies.edit import load_edits, moments_for

SIDE_BY_SIDE = 10  # edits of one case each, computed in one batch
CASES = 32  # read at once: their distributions are held for the KL


@dataclass(frozen=True)
class Cost:
    """What one edit took."""

    seconds: float
    memory: float | None  # MB at most beyond what the process held before; None where the system does not say
    stored: float  # MB of the edit itself
    together: int = 1  # edits that were computed side by side: the seconds are shared out, the memory is of them all


@dataclass(frozen=True)
class MethodResult:
    """One method on all cases."""

    method: str
    config: dict[str, Any]
    rows: tuple[Row, ...]
    speech: tuple[Speech, ...]
    costs: tuple[Cost, ...]  # one an edit
    failures: tuple[Failure, ...] = ()
    general: dict[str, float] = field(default_factory=dict)  # of the model with all edits in
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Setting:
    """What all methods of a bench have in common."""

    model: Bridge
    cases: Sequence[Case]
    asked: dict[str, list[TokenizedQuestion]]
    protocol: Protocol
    folder: Path
    yardstick: Yardstick | None
    seed: int
    start: str
    advance: Advance  # told how many cases are done

    @property
    def steps(self) -> list[Sequence[Case]]:
        """The cases of one edit each."""
        size = self.protocol.size or len(self.cases)
        return [self.cases[begin : begin + size] for begin in range(0, len(self.cases), size)]

    @property
    def side(self) -> int:
        """How many steps are computed side by side."""
        return SIDE_BY_SIDE if not self.protocol.stays and self.protocol.size == 1 else 1

    def heard(self, cases: Sequence[Case]) -> Outputs:
        """What the model, as it is, says to every question of these cases."""
        asked = [one for case in cases for one in self.asked[case.id]]
        speak = [(case.id, text) for case in cases for text in case.speak]
        return listen(self.model, asked, speak, self.protocol, self.start, self.seed)

    def heard_each(self, steps: Sequence[Sequence[Case]]) -> list[Outputs]:
        """The same for several steps, all read together."""
        whole = self.heard([case for step in steps for case in step])
        out, at, spoken = [], 0, 0
        for step in steps:
            end = at + sum(len(self.asked[case.id]) for case in step)
            last = spoken + sum(len(case.speak) for case in step) * bool(self.protocol.speech)
            out.append(replace(whole.part(slice(at, end)), speech=whole.speech[spoken:last]))
            at, spoken = end, last
        return out


@dataclass(frozen=True)
class MethodSetting:
    """A method to be judged: its configuration, its second moments, and what makes a journal this one's."""

    spec: MethodSpec
    config: MethodConfig
    moments: str
    tokens: int | None
    work: dict[str, Any]
    editor: Trained | None = None  # of a method that is trained
    notes: tuple[str, ...] = ()  # what its result must say


def run_all(setting: Setting, wanted: Sequence[MethodSetting]) -> list[MethodResult]:
    """Every method on all cases.

    Where edits are taken out again, the methods take turns at a few steps each, so that the unedited model is read once
    for all of them. Where edits stay, one method after another goes through the whole.
    """
    steps, side = setting.steps, setting.side
    if setting.protocol.stays:
        out = []
        for one in wanted:
            with CaseRunner(setting, one) as runner:
                for begin in range(runner.done, len(steps)):
                    runner.advance_to(begin, runner.clean(begin))
                out.append(runner.result())
        return out
    with ExitStack() as stack:
        runners = [stack.enter_context(CaseRunner(setting, one)) for one in wanted]
        for begin in range(0, len(steps), side):
            waiting = [runner for runner in runners if runner.done < min(begin + side, len(steps))]
            clean = setting.heard_each(steps[begin : begin + side]) if waiting else []
            for runner in waiting:
                runner.advance_to(begin, clean)
        return [runner.result() for runner in runners]


class CaseRunner:
    """One method on its way through the cases, with its journal open."""

    def __init__(self, setting: Setting, wanted: MethodSetting) -> None:
        self.setting, self.wanted, self.name = setting, wanted, wanted.spec.name
        self.stats: Any = None
        self.ahead: dict[int, Outputs] = {}  # the unedited model, by the number of a step's first case

    def __enter__(self) -> "CaseRunner":
        setting, steps = self.setting, self.setting.steps
        self.journal = Journal(setting.folder / f"{self.name}.jsonl", self.wanted.work)
        self.journal.__enter__()
        setting.advance(sum(len(step) for step in steps[: self.done]))
        wanted = self.wanted
        try:
            if self.done < len(steps):  # of the unedited model, so before any edit is put back
                self.stats = moments_for(
                    setting.model,
                    wanted.spec,
                    wanted.config,
                    wanted.moments,
                    wanted.tokens,
                    setting.seed,
                    setting.start,
                )
            if setting.protocol.stays:
                commit(setting.model, [e for number in range(self.done) for e in load_edits(self._place(number))])
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *trouble: Any) -> None:
        revert(self.setting.model, in_place(self.setting.model))
        self.journal.__exit__(*trouble)

    @property
    def done(self) -> int:
        """How many steps are in the journal."""
        return min(len(self.journal.done), len(self.setting.steps))

    def advance_to(self, begin: int, clean: Sequence[Outputs]) -> None:
        """Do the steps from `begin` that are computed side by side, and note those that the journal does not have.

        `clean` is what the unedited model says to each. Raises EditError with the method's name.
        """
        some = self.setting.steps[begin : begin + self.setting.side]
        try:
            for number, (piece, edit) in enumerate(self._made(some, clean), start=begin):
                if number < self.done:
                    continue  # the batch was stopped halfway; its edits are computed as they were
                if self.setting.protocol.stays:
                    edit.save(self._place(number))
                self.journal.add(piece)
                self.setting.advance(len(some[number - begin]))
        except EditError as trouble:
            raise EditError(f"{self.name}: {trouble}") from trouble

    def _place(self, number: int) -> Path:
        return self.setting.folder / "edits" / self.name / f"{number:05d}"

    def _made(self, steps: Sequence[Sequence[Case]], clean: Sequence[Outputs]) -> Iterator[tuple[dict[str, Any], Edit]]:
        """Each step: what goes into the journal, and its edit, which stays in place if edits stay."""
        setting, model = self.setting, self.setting.model
        requests = [tuple(one for case in step for one in case.requests) for step in steps]
        how: dict[str, Any] = {"moments": self.stats, "seed": setting.seed, "start": setting.start, "shown": False}
        how |= {"editor": self.wanted.editor, "allow_trained": True}  # refused before, where it is not allowed
        with watched() as memory, stopwatch() as seconds:
            edits = self._computed(requests, how)
        for before, step, edit in zip(clean, steps, edits, strict=True):
            cost = Cost(seconds[0] / len(edits), memory(), stored(edit), len(edits))
            commit(model, (edit,))
            try:
                now = setting.heard(step)
                alone = not setting.protocol.stays and len(step) == len(setting.cases)
                elsewhere = general(model, setting.yardstick) if alone else {}
            finally:
                if not setting.protocol.stays:
                    revert(model, (edit,))
            piece = {"cost": asdict(cost), "cases": [case.id for case in step], "general": elsewhere}
            yield piece | self._read(step, before, now), edit

    def _computed(self, requests: Sequence[tuple[EditRequest, ...]], how: dict[str, Any]) -> list[Edit]:
        model, config = self.setting.model, self.wanted.config
        if len(requests) > 1 and all(len(some) == 1 for some in requests):
            alone = [one for (one,) in requests]
            if len({one.key for one in alone}) == len(alone):
                return computing.compute_each(self.wanted.spec, model, alone, config, **how)
        return [computing.compute(self.wanted.spec, model, some, config, **how) for some in requests]

    def clean(self, number: int) -> list[Outputs]:
        """What the unedited model says to one step's questions; read ahead, as taking many edits out takes time."""
        if number not in self.ahead:
            self.ahead.clear()
            size = self.setting.protocol.size or len(self.setting.cases)
            some = self.setting.steps[number : number + max(1, CASES // size)]
            with unedited(self.setting.model):
                self.ahead.update(enumerate(self.setting.heard_each(some), start=number))
        return [self.ahead[number]]

    def _read(self, cases: Sequence[Case], before: Outputs, now: Outputs) -> dict[str, Any]:
        """Plain data: the readings before and now of every question of these cases, and their texts."""
        asked = [one for case in cases for one in self.setting.asked[case.id]]
        first, then = readings(asked, before, before), readings(asked, now, before)
        return {
            "before": [asdict(one) for one in first],
            "now": [asdict(one) for one in then],
            "speech": [before.speech, now.speech],
        }

    def _end(self) -> dict[str, Any]:
        """What is read when all edits are in: every question again where edits stay, and the yardstick."""
        setting = self.setting
        end: dict[str, Any] = {"final": None, "speech": [], "general": {}}
        if not setting.protocol.stays:
            return end
        end["final"] = []
        for begin in range(0, len(setting.cases), CASES):
            some = setting.cases[begin : begin + CASES]
            now = setting.heard(some)
            with unedited(setting.model):
                before = setting.heard(some)
            read = self._read(some, before, now)
            end["final"] += read["now"]
            end["speech"] += read["speech"][1]
        end["general"] = general(setting.model, setting.yardstick)
        return end

    def result(self) -> MethodResult:
        """The method on all cases, once every step is done."""
        if len(self.journal.done) == len(self.setting.steps):
            self.journal.add(self._end())
        *pieces, end = self.journal.done
        cases, protocol = self.setting.cases, self.setting.protocol
        asked = [one for case in cases for one in self.setting.asked[case.id]]
        before, after = ([Reading(**one) for piece in pieces for one in piece[key]] for key in ("before", "now"))
        final = [Reading(**one) for one in end["final"]] if end["final"] is not None else [None] * len(asked)
        rows = tuple(
            replace(one.row, before=b, after=a, final=f)
            for one, b, a, f in zip(asked, before, after, final, strict=True)
        )
        speak = [(case.id, text) for case in cases for text in case.speak] if protocol.speech else []
        texts = [[text for piece in pieces for text in piece["speech"][i]] for i in (0, 1)]
        last: list[str | None] = list(end["speech"]) or [None] * len(speak)
        speech = tuple(
            Speech(case, prompt, b, a, f) for (case, prompt), b, a, f in zip(speak, *texts, last, strict=True)
        )
        costs = tuple(Cost(**piece["cost"]) for piece in pieces)
        elsewhere = end["general"] or pieces[-1]["general"]
        config, notes = asdict(self.wanted.config), self.wanted.notes
        return MethodResult(self.name, config, rows, speech, costs, failures(rows), elsewhere, notes)


def general(model: Bridge, yardstick: Yardstick | None) -> dict[str, float]:
    """What the edited model still does elsewhere; nothing without a yardstick."""
    if yardstick is None:
        return {}
    now = yardstick.perplexity(model)
    rows = yardstick.rows(yardstick.read(model))
    with unedited(model):
        before = yardstick.perplexity(model)
    found = {"perplexity": now, "perplexity before": before}
    return found | {one.metric: one.value for one in table("", rows, ORDERS["sequence"]) if one.when == "final"}


def stored(edit: Edit) -> float:
    """MB of an edit: its factors, what stands beside them, or its text and what chooses its questions."""
    parts = [part for delta in edit.deltas for part in (delta.left, delta.right, delta.keep) if part is not None]
    parts += [part for one in edit.bypasses for part in one.tensors.values()]
    parts += edit.scope.parts() if edit.scope is not None else []
    return (sum(part.numel() * part.element_size() for part in parts) + len(edit.preface.encode())) / 1e6
