"""What all methods of a bench have in common, its cases in steps and units, and what each method is run with.

A step edits the protocol's number of cases at once; where edits are taken out again, several steps are computed side by
side, a unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from editing.evaluation.protocol import Protocol
from editing.evaluation.read import Outputs, TokenizedQuestion, listen
from editing.evaluation.tasks import Tasks
from editing.sequence.yardstick import Yardstick
from factscope.data.case import Case
from factscope.model.bridge import Bridge
from factscope.progress import Advance
from factscope.runs.shards import Shard
from factscope.runs.workers import ALONE, Workers
from studies.edit import MethodRun

SIDE_BY_SIDE = 10  # edits of one case each, computed in one batch


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


def _silent(_: int) -> None:
    """What a worker tells of its progress."""


@dataclass(frozen=True)
class MethodSetting:
    """A method to be judged: its run, whose second moments are still to be had, and what makes a journal this one's."""

    run: MethodRun
    moments: str
    tokens: int | None
    work: dict[str, Any]
    notes: tuple[str, ...] = ()  # what its result must say

    @property
    def name(self) -> str:
        """The method's."""
        return self.run.spec.name
