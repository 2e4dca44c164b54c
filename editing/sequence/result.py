"""What a sequence of edits leaves behind: its settings, its checkpoints, and all that its page shows."""

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from editing.evaluation.read import Row
from editing.evaluation.schema_2 import scores_of_schema_2
from editing.evaluation.table import Score, found
from editing.spectrum import Spectrum
from factscope.errors import EditError
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs.provenance import Run

MOMENTS = ("end", "checkpoint", "beside")  # when a restraint is applied


@dataclass(frozen=True)
class Config:
    """How a sequence goes; the method has a configuration of its own."""

    batch: int = 1  # facts of one edit
    every: int = 10  # facts between two checkpoints; with batches, the first edit that reaches it
    restrain: str | None = None  # a file of editing/restraints
    restrain_at: str = "end"  # or "checkpoint"; or "beside": a restrained copy at every checkpoint, read and put aside
    stop_when: tuple[str, ...] = ()  # editing/sequence/rules.py; looked at at every checkpoint
    seed: int = 0
    start: str = "auto"

    def __post_init__(self) -> None:
        for name, value in (("batch", self.batch), ("every", self.every)):
            if value < 1:
                raise EditError(f"{name} must be at least 1, not {value}")
        if self.restrain_at not in MOMENTS:
            raise EditError(
                f"a restraint is applied at the end, at every checkpoint, or to a copy beside each, not at "
                f"{self.restrain_at!r}"
            )


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The model after so many facts; the first is before any."""

    facts: int
    edits: int
    restrained: bool  # read after the restraint
    scores: tuple[Score, ...]  # before any edit; of all facts so far, each read after its own edit; and here, "final"
    held: tuple[bool, ...]  # one a fact, in the order of editing: its prompt prefers the new answer here
    perplexity: float
    spectra: tuple[Spectrum, ...]
    singular: dict[str, Float[Tensor, " rank"]]  # all singular values, by weight
    quantities: dict[str, float]  # by the names of rules.QUANTITIES
    warnings: tuple[str, ...]  # the rules that are broken here
    weights: str  # fingerprint of the model
    seconds: float  # of these readings
    extra: dict[str, Any] = field(default_factory=dict)  # what the caller's hook gave
    restraint: str = ""  # with which settings it was restrained
    # By weight: how far ordinary keys must move, and its bound.
    keys: dict[str, tuple[float, float]] = field(default_factory=dict)

    def score(self, metric: str, when: str = "final") -> Score | None:
        """A line of the table; None if it was not measured."""
        try:
            return found(self.scores, metric, when)
        except KeyError:
            return None

    @classmethod
    def upgraded(cls, body: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint of schema 2, with a table for each time."""
        if "now" not in body:
            return body
        kept = {name: value for name, value in body.items() if name not in ("immediate", "now")}
        return kept | {"scores": scores_of_schema_2("", body["immediate"], body["now"])}


@shown("editing.pages.sequence.page")
@dataclass(frozen=True, eq=False)
class SequenceResult(Result):
    """Everything but the edits themselves, which are saved beside it."""

    method: str
    config: dict[str, Any]  # of the method
    settings: dict[str, Any]  # of the sequence
    model: str
    asked: int  # facts that were to be edited
    facts: tuple[str, ...]  # ids of those that were, in order
    rows: tuple[Row, ...]  # every prompt of theirs: before, right after its edit, at the end
    checkpoints: tuple[Checkpoint, ...]
    values: dict[str, Float[Tensor, "fact d_model"]]  # what the MLP of `layer` writes at the subject's last token:
    layer: int  # "before" any edit, when "written", at the "end", once "restrained"
    edits: tuple[str, ...]  # digests, in order
    seconds: tuple[float, ...]  # one an edit, with the reading of its own facts
    contexts: tuple[str, ...]
    moments: str
    text: str  # what perplexity was measured on
    unrelated: tuple[str, ...]  # ids
    stopped: str  # why before the last fact; empty if not
    notes: tuple[str, ...] = ()
    run: Run | None = None

    @property
    def last(self) -> Checkpoint:
        """The model as it was left; restrained copies that were read beside it do not count."""
        return self.line[-1]

    @property
    def beside(self) -> bool:
        """Whether restrained copies were read beside the sequence."""
        return self.settings.get("restrain_at") == "beside"

    @property
    def line(self) -> tuple[Checkpoint, ...]:
        """The checkpoints without restrained copies beside them."""
        return tuple(one for one in self.checkpoints if not (self.beside and one.restrained))

    @property
    def copies(self) -> dict[str, tuple[Checkpoint, ...]]:
        """The restrained copies beside the sequence, by their restraint's settings."""
        found: dict[str, list[Checkpoint]] = {}
        for one in self.checkpoints:
            if self.beside and one.restrained:
                found.setdefault(one.restraint, []).append(one)
        return {name: tuple(some) for name, some in found.items()}
