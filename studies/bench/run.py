"""All methods of a bench on all its cases: they take turns, or one goes after another where edits stay.

Several workers (factscope/runs/workers.py) share the units of all methods, or the methods themselves where edits stay
in; those write their journals and edits themselves, so their machines must have the run folder in common. Shards
(factscope/runs/shards.py) deal out the units.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from editing.evaluation.read import Outputs
from factscope.model.bridge import Bridge
from factscope.runs.workers import each
from studies.bench.method_result import MethodResult
from studies.bench.runner import CaseRunner, through
from studies.bench.setting import MethodSetting, Setting
from studies.bench.step import Maker, naming


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
        return [through(setting, one) for one in wanted]
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


@dataclass(frozen=True, eq=False)
class _Whole:
    """What a worker does where edits stay: a whole method, whose journal and edits it writes; gives the cases done."""

    setting: Setting
    wanted: tuple[MethodSetting, ...]

    def __call__(self, model: Bridge, place: int) -> int:
        through(self.setting.lent(model), self.wanted[place])
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
        with naming(maker.wanted.name):
            for piece, _ in maker.made(steps, self.read[begin]):
                yield piece
