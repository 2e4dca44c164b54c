"""Methods on their way through the cases of a bench, each with its journal, taken up where it stopped.

A step edits the protocol's number of cases at once and reads them; where edits are taken out again, several steps are
computed side by side, a unit. Every finished step is one line of the method's journal, with what it cost. Where edits
stay in, each is saved too, so that a resumed run stands on the very weights that it stopped on.

Several workers (factscope/runs/workers.py) share the units of all methods, or the methods themselves where edits stay
in; those write their journals and edits themselves, so their machines must have the run folder in common. Shards
(factscope/runs/shards.py) deal out the units.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from editing import compute as computing
from editing.edit import Edit, commit, in_place, revert, unedited
from editing.evaluation.failures import Failure, failures
from editing.evaluation.protocol import ORDERS, Protocol
from editing.evaluation.read import Outputs, Reading, Row, Speech, TokenizedQuestion, listen, readings
from editing.evaluation.table import Score, table
from editing.evaluation.tasks import Tasks
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
from factscope.runs.shards import Shard
from factscope.runs.workers import ALONE, Workers, each
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
class CurvePoint:
    """One method after so many cases, where edits stay: everything so far read again, and general ability."""

    cases: int
    scores: tuple[Score, ...]
    general: dict[str, float]


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
    curve: tuple[CurvePoint, ...] = ()  # at the numbers of cases that were asked for


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
    workers: Workers = ALONE
    shard: Shard | None = None
    at: tuple[int, ...] = ()  # numbers of cases after which all so far are read again, where edits stay
    tasks: Tasks | None = None  # asked then, too

    @property
    def units(self) -> list[int]:
        """The first step of each unit that is done here."""
        every = list(range(0, len(self.steps), self.side))
        return every if self.shard is None else self.shard.part(every)

    def unit(self, begin: int) -> range:
        """The steps of a unit."""
        return range(begin, min(begin + self.side, len(self.steps)))

    def lent(self, model: Any) -> "Setting":
        """The same for a worker's own model; for none, as it is sent to one."""
        return replace(self, model=model, folder=self.folder.absolute(), advance=_silent, workers=ALONE)

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


def _silent(_: int) -> None:
    """What a worker tells of its progress."""


def run_all(setting: Setting, wanted: Sequence[MethodSetting]) -> list[MethodResult]:
    """Every method on all cases, or on those of a shard, which has no result yet.

    Where edits are taken out again, the methods take turns at a few steps each, so that the unedited model is read once
    for all of them. Where edits stay, one method after another goes through the whole.
    """
    if setting.protocol.stays:
        if not setting.workers.alone:
            whole = _Whole(setting.lent(None), tuple(wanted))
            with closing(each(setting.model, whole, range(len(wanted)), setting.workers)) as done:
                for cases in done:
                    setting.advance(cases)
        return [_through(setting, one) for one in wanted]
    with ExitStack() as stack:
        runners = [stack.enter_context(CaseRunner(setting, one)) for one in wanted]
        items = [
            (place, begin)
            for number, begin in enumerate(setting.units)
            for place, runner in enumerate(runners)
            if runner.done < number * setting.side + len(setting.unit(begin))
        ]
        units = _Units(setting.lent(None), tuple(wanted), tuple(runner.stats for runner in runners))
        if setting.workers.alone:  # piece by piece, so that none is lost where the work is stopped
            found = (units.pieces(setting.model, item) for item in items)
            _written(setting, runners, items, found)
        else:
            with closing(each(setting.model, units, items, setting.workers)) as lists:
                _written(setting, runners, items, lists)
        return [] if setting.shard is not None else [runner.result() for runner in runners]


def _written(
    setting: Setting,
    runners: Sequence["CaseRunner"],
    items: Sequence[tuple[int, int]],
    found: Iterable[Iterable[dict[str, Any]]],
) -> None:
    """Put the pieces of every unit into their method's journal, but those that it has."""
    for (place, begin), pieces in zip(items, found, strict=True):
        runner, first = runners[place], setting.units.index(begin) * setting.side
        for number, piece in enumerate(pieces, start=first):
            if number >= runner.done:  # of a unit that was stopped halfway, the edits are computed as they were
                runner.journal.add(piece)
                setting.advance(len(piece["cases"]))


def _through(setting: Setting, wanted: MethodSetting) -> MethodResult:
    """A method whose edits stay, on all cases."""
    with CaseRunner(setting, wanted) as runner:
        for number in range(runner.done, len(setting.steps)):
            runner.advance_to(number)
        return runner.result()


@dataclass(frozen=True, eq=False)
class _Whole:
    """What a worker does where edits stay: a whole method, whose journal and edits it writes; gives the cases done."""

    setting: Setting
    wanted: tuple[MethodSetting, ...]

    def __call__(self, model: Bridge, place: int) -> int:
        _through(self.setting.lent(model), self.wanted[place])
        return len(self.setting.cases)


@dataclass(frozen=True, eq=False)
class _Units:
    """What a worker does where edits are taken out again: one unit of a method, as pieces for its journal."""

    setting: Setting
    wanted: tuple[MethodSetting, ...]
    stats: tuple[Any, ...]  # second moments, of each method
    read: dict[int, list[Outputs]] = field(default_factory=dict)  # the unedited model on the unit read last

    def __call__(self, model: Bridge, item: tuple[int, int]) -> list[dict[str, Any]]:
        return list(self.pieces(model, item))

    def pieces(self, model: Bridge, item: tuple[int, int]) -> Iterator[dict[str, Any]]:
        """Each step's piece. Raises EditError with the method's name."""
        place, begin = item
        setting = self.setting.lent(model)
        steps = [setting.steps[number] for number in setting.unit(begin)]
        if begin not in self.read:
            self.read.clear()
            self.read[begin] = setting.heard_each(steps)
        maker = Maker(setting, self.wanted[place], self.stats[place])
        with _naming(maker.wanted.spec.name):
            for piece, _ in maker.made(steps, self.read[begin]):
                yield piece


@contextmanager
def _naming(method: str) -> Iterator[None]:
    """An EditError in the block says which method it is of."""
    try:
        yield
    except EditError as trouble:
        raise EditError(f"{method}: {trouble}") from trouble


@dataclass(frozen=True, eq=False)
class Maker:
    """One method's edits, and what is read of them."""

    setting: Setting
    wanted: MethodSetting
    stats: Any

    def made(self, steps: Sequence[Sequence[Case]], clean: Sequence[Outputs]) -> Iterator[tuple[dict[str, Any], Edit]]:
        """Each step: what goes into the journal, and its edit, which stays in place if edits stay.

        `clean` is what the unedited model says to each.
        """
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
            yield piece | self.read(step, before, now), edit

    def _computed(self, requests: Sequence[tuple[EditRequest, ...]], how: dict[str, Any]) -> list[Edit]:
        model, config = self.setting.model, self.wanted.config
        if len(requests) > 1 and all(len(some) == 1 for some in requests):
            alone = [one for (one,) in requests]
            if len({one.key for one in alone}) == len(alone):
                return computing.compute_each(self.wanted.spec, model, alone, config, **how)
        return [computing.compute(self.wanted.spec, model, some, config, **how) for some in requests]

    def read(self, cases: Sequence[Case], before: Outputs, now: Outputs) -> dict[str, Any]:
        """Plain data: the readings before and now of every question of these cases, and their texts."""
        asked = [one for case in cases for one in self.setting.asked[case.id]]
        first, then = readings(asked, before, before), readings(asked, now, before)
        return {
            "before": [asdict(one) for one in first],
            "now": [asdict(one) for one in then],
            "speech": [before.speech, now.speech],
        }


class CaseRunner:
    """One method on its way through the cases, with its journal open."""

    def __init__(self, setting: Setting, wanted: MethodSetting) -> None:
        self.setting, self.wanted, self.name = setting, wanted, wanted.spec.name
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
        with _naming(self.name):
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
        config, notes = asdict(self.wanted.config), self.wanted.notes
        return MethodResult(self.name, config, rows, speech, costs, failures(rows), elsewhere, notes, self.curve(rows))


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
