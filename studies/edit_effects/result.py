"""What a study of an edit holds: two states of the model, what changed between them, and the same for its nulls."""

from dataclasses import dataclass
from typing import Any

from circuits.analysis.cross_faithfulness import CrossFaithfulness, Entry
from circuits.analysis.diff import CircuitDiff, same_settings
from circuits.analysis.head_changes import HeadChange, HeadTable
from circuits.circuit import Circuit
from editing.evaluation.evaluate import EditReport
from editing.spectrum import Spectrum
from factscope.data.request import EditRequest, saved_request
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs.provenance import Run
from factscope.statistics import null_p
from studies.edit_effects.model_state import ModelState


@dataclass(frozen=True)
class Measure:
    """One kind of change: by the edit, by each null, by finding it again, and in the neighbours; nan: not measured."""

    name: str
    unit: str
    edit: float
    scrambled: tuple[float, ...]
    values: tuple[float, ...]
    again: tuple[float, ...] = ()
    neighbours: tuple[float, ...] = ()

    @property
    def beyond(self) -> bool | None:
        """Whether the edit exceeds every null; None without one."""
        nulls = [value for value in (*self.scrambled, *self.values) if value == value]
        return self.edit > max(nulls) if nulls and self.edit == self.edit else None

    @property
    def p(self) -> float | None:
        """Of so large a change, if the edit were one of its values nulls: those alone read the edit's own inputs."""
        return null_p(self.edit, self.values)


@dataclass(frozen=True, eq=False)
class Rerun:
    """A circuit of the unedited model for another wording, cut a little elsewhere."""

    prompt: str
    circuit: Circuit


@dataclass(frozen=True, eq=False)
class NeighbourStudy:
    """A prompt that the edit ought to leave alone: its answer against the edit's new one, before and after."""

    prompt: str
    answer: str
    before: Circuit
    after: Circuit
    heads_before: HeadTable
    heads_after: HeadTable


@shown("studies.edit_effects.page")
@dataclass(frozen=True, eq=False)
class EditStudy(Result):
    """One edit, seen from inside."""

    request: EditRequest  # what was asked on all sides; usually the edited one
    answers: tuple[str, str]  # old, new: the first token of each, which is what is followed
    edit: str  # its digest
    method: str
    edited: tuple[str, ...]  # the edited facts, as "prompt answer -> new answer"
    layers: tuple[int, ...]
    config: dict[str, Any]
    before: ModelState
    after: ModelState
    nulls: tuple[ModelState, ...]
    again: tuple[Rerun, ...]
    neighbours: tuple[NeighbourStudy, ...]
    diff: CircuitDiff
    heads: tuple[HeadChange, ...]
    cross: CrossFaithfulness
    entries: tuple[Entry, ...]
    report: EditReport
    null_reports: tuple[EditReport, ...]
    spectra: tuple[Spectrum, ...]
    null_spectra: tuple[Spectrum, ...]
    measures: tuple[Measure, ...]
    notes: tuple[str, ...]
    seconds: dict[str, float]  # "side: part"
    run: Run | None

    def __post_init__(self) -> None:
        for side in (self.after, *self.nulls):
            same_settings(self.before.circuit, side.circuit)

    @classmethod
    def upgraded(cls, body: dict[str, Any]) -> dict[str, Any]:
        """What schema 1 saved of a study, with a request where there was a fact whose foil was the target."""
        if "fact" not in body:
            return body
        return {name: value for name, value in body.items() if name != "fact"} | {
            "request": saved_request(body["fact"])
        }

    @property
    def drawn_null(self) -> ModelState | None:
        """The null that pictures show: a values null where there is one, and one that was traced."""
        order = sorted(self.nulls, key=lambda side: (side.trace.result is None, side.kind != "values"))
        return order[0] if order else None

    @property
    def took(self) -> bool:
        """Whether the new answer is ahead of the old one at the end."""
        return self.after.gap > 0
