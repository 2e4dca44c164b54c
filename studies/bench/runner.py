"""One method on its way through the cases of a bench, with its journal, taken up where it stopped.

Every finished step is one line of the journal, with what it cost. Where edits stay in, each is saved too, so that a
resumed run stands on the very weights that it stopped on.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from editing.edit import commit, in_place, revert, unedited
from editing.evaluation.failures import failures
from editing.evaluation.read import Outputs, Reading, Row, Speech
from editing.evaluation.table import table
from factscope.runs.journal import Journal
from studies.bench.method_result import Cost, CurvePoint, MethodResult
from studies.bench.setting import MethodSetting, Setting
from studies.bench.step import Maker, general, naming
from studies.edit import load_edits, moments_for

CASES = 32  # read at once: their distributions are held for the KL


class CaseRunner:
    """One method on its way through the cases, with its journal open."""

    def __init__(self, setting: Setting, wanted: MethodSetting) -> None:
        self.setting, self.wanted, self.name = setting, wanted, wanted.name
        self.stats: Any = None
        self.ahead: dict[int, Outputs] = {}  # the unedited model, by the number of a step's first case

    def __enter__(self) -> "CaseRunner":
        setting, numbers = self.setting, self.numbers
        self.journal = Journal(setting.folder / f"{self.name}.jsonl", self.wanted.work)
        self.journal.__enter__()
        self.looks = Journal(setting.folder / f"{self.name}-curve.jsonl", self.wanted.work) if setting.at else None
        if self.looks is not None:
            self.looks.__enter__()
        setting.advance(sum(len(setting.steps[number]) for number in numbers[: self.done]))
        wanted = self.wanted
        try:
            if self.done < len(numbers):  # of the unedited model, so before any edit is put back
                run = wanted.run
                self.stats = moments_for(
                    setting.model, run.spec, run.config, wanted.moments, wanted.tokens, run.seed, run.start
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
        if self.looks is not None:
            self.looks.__exit__(*trouble)

    @property
    def done(self) -> int:
        """How many steps are in the journal."""
        return min(len(self.journal.done), len(self.numbers))

    @property
    def numbers(self) -> list[int]:
        """The steps that are done here."""
        return [number for begin in self.setting.units for number in self.setting.unit(begin)]

    def advance_to(self, number: int) -> None:
        """Do the next step, whose edit stays, and note it. Raises EditError with the method's name."""
        self.look(number)
        step = self.setting.steps[number]
        with naming(self.name):
            for piece, edit in self.maker.made([step], self.clean(number)):
                edit.save(self._place(number))
                self.journal.add(piece)
                self.setting.advance(len(step))

    @property
    def maker(self) -> Maker:
        """Who makes its edits."""
        return Maker(self.setting, self.wanted, self.stats)

    def _place(self, number: int) -> Path:
        return self.setting.folder / "edits" / self.name / f"{number:05d}"

    def clean(self, number: int) -> list[Outputs]:
        """What the unedited model says to one step's questions; read ahead, as taking many edits out takes time."""
        if number not in self.ahead:
            self.ahead.clear()
            size = self.setting.protocol.size or len(self.setting.cases)
            some = self.setting.steps[number : number + max(1, CASES // size)]
            with unedited(self.setting.model):
                self.ahead.update(enumerate(self.setting.heard_each(some), start=number))
        return [self.ahead[number]]

    def _end(self) -> dict[str, Any]:
        """What is read when all edits are in: every question again where edits stay, and the yardstick."""
        setting = self.setting
        end: dict[str, Any] = {"final": None, "speech": [], "general": {}}
        if not setting.protocol.stays:
            return end
        end["final"], end["speech"] = self._again(len(setting.cases))
        end["general"] = general(setting.model, setting.yardstick)
        return end

    def _again(self, count: int) -> tuple[list[dict[str, Any]], list[str]]:
        """What the first `count` cases are answered with now, and the texts of theirs."""
        setting = self.setting
        final: list[dict[str, Any]] = []
        speech: list[str] = []
        for begin in range(0, count, CASES):
            some = setting.cases[begin : min(begin + CASES, count)]
            now = setting.heard(some)
            with unedited(setting.model):
                before = setting.heard(some)
            read = self.maker.read(some, before, now)
            final += read["now"]
            speech += read["speech"][1]
        return final, speech

    def look(self, number: int) -> None:
        """Before the step of this number, read all so far again if it was asked for and is not in the journal."""
        count = sum(len(step) for step in self.setting.steps[:number])
        if self.looks is None or count not in self.setting.at or any(one["cases"] == count for one in self.looks.done):
            return
        setting = self.setting
        elsewhere = general(setting.model, setting.yardstick)
        if setting.tasks is not None:
            elsewhere |= setting.tasks(setting.model)
        self.looks.add({"cases": count, "final": self._again(count)[0], "general": elsewhere})

    def curve(self, rows: Sequence[Row]) -> tuple[CurvePoint, ...]:
        """The points that were read, from the rows of all cases."""
        out = []
        for piece in sorted(self.looks.done if self.looks is not None else (), key=lambda one: one["cases"]):
            final = [Reading(**one) for one in piece["final"]]
            some = [replace(row, final=now) for row, now in zip(rows, final, strict=False)]
            scores = table(self.name, some, self.setting.protocol)
            out.append(CurvePoint(piece["cases"], scores, piece["general"]))
        return tuple(out)

    def result(self) -> MethodResult:
        """The method on all cases, once every step is done."""
        if len(self.journal.done) == len(self.setting.steps):
            self.look(len(self.setting.steps))
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
        config, notes = asdict(self.wanted.run.config), self.wanted.notes
        return MethodResult(self.name, config, rows, speech, costs, failures(rows), elsewhere, notes, self.curve(rows))


def through(setting: Setting, wanted: MethodSetting) -> MethodResult:
    """A method whose edits stay, on all cases."""
    with CaseRunner(setting, wanted) as runner:
        for number in range(runner.done, len(setting.steps)):
            runner.advance_to(number)
        return runner.result()
