"""A circuit method is a frozen value: which edges are kept, and all that this depends on.

`ACDC(threshold=0.05)` searches and decides edge by edge. `EAP()`, `EAPIG(edges=300, steps=3)` and
`Exact(threshold=0.02)` score every edge and keep the best. A method has the settings that it reads and no others, so a
number of edges for ACDC cannot be written. Each method is one file in `search/` or `scorers/`, whose `METHOD` names its
class; the file is found by listing, and imported when it is chosen.
"""

import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits import scorers, search, select
from circuits.certificate import Certificate
from circuits.circuit import faithfulness
from circuits.engine.reference import Reference
from circuits.engine.writes import Mask
from circuits.graph import Edges
from circuits.stability import Examples, Stability, lower_bound, stability
from factscope.errors import ModelError, UserError
from factscope.runs.workers import ALONE, Workers
from factscope.settings import configured

Order = Literal["greedy", "top"]
INTEGRAL = ("the embedding's edges sum to", "and should sum to")  # outcomes of a scorer that integrates
FAITHFUL = 0.6  # of the way from no edge to the full model, where nothing else says how many edges are kept
LEAST, MOST, STEP = 24, 1000, 1.6  # edges of the smallest and largest circuit that is tried; and their growth
SHARE = 0.05  # of all edges, for circuits that are to be of one size


@dataclass(frozen=True, eq=False)
class EdgeChoice:
    """What a method gives: the kept edges, what was measured, and how."""

    kept: Mask
    scores: Float[Tensor, "writer reader *place"]  # in the loss's unit; 0 where nothing was measured
    tested: Bool[Tensor, "writer reader *place"]
    settings: dict[str, Any]  # the method's own, with counts of what it did
    certificate: Certificate | None = None
    notes: tuple[str, ...] = ()  # what a reader of the result must know
    examples: Examples | None = None  # each example's own scores, where the method has them
    stability: Stability | None = None  # of the choice, where there are several examples


@runtime_checkable
class Measured(Protocol):
    """What a choice asks of whatever runs a circuit."""

    @property
    def graph(self) -> Any:
        """Its edges."""

    def loss(self, kept: Mask) -> float:
        """The task's loss with only the kept edges."""


@runtime_checkable
class Method(Protocol):
    """What `find` asks of a method."""

    name: ClassVar[str]
    convention: ClassVar[str]  # what a score means, and its sign
    prefers: ClassVar[str]  # the ablation that suits it, where the task leaves the choice to it

    shared: ClassVar[bool]  # whether it takes so long that it has pieces, which are journalled and workers share

    def choose(
        self,
        reference: Reference,
        *,
        journal: Path | None = None,
        seed: int = 0,
        shown: bool | None = False,
        workers: Workers = ALONE,
    ) -> EdgeChoice:
        """Choose the edges; pieces of long work are recorded in `journal`, from which the same call goes on."""


@dataclass(frozen=True)
class Scorer:
    """What all scorers share: of the scored edges so many are kept, or all from a threshold on, or as few as will do.

    As few as will do: circuits of growing size are run on the task's own prompts, and the first that is `faithful` is
    taken. What it does on other prompts is for the evaluation to say.

    `edges` are chosen by growing from the logits (`greedy`) or by score alone (`top`). Edges on no path go. An edge's
    size is the mean size of the examples' scores: an edge that helps one fact and hurts another counts for both. With
    `by_mean` it is the size of their mean, in which such effects cancel, as EAP-IG's authors have it; `signed` and
    `confident` are of the mean too, the latter of its lower bound. The default model's
    circuit for the Eiffel Tower has a quarter of the edges so, at equal faithfulness (docs/circuits.md).
    """

    name: ClassVar[str]
    convention: ClassVar[str]
    prefers: ClassVar[str] = "zero"
    shared: ClassVar[bool] = False

    edges: int | None = field(default=None, kw_only=True)
    faithful: float | None = field(default=None, kw_only=True)  # FAITHFUL, where nothing else is given
    threshold: float | None = field(default=None, kw_only=True)  # in the loss's unit
    select: Order = field(default="greedy", kw_only=True)
    signed: bool = field(default=False, kw_only=True)  # only edges that help; else scores are compared by size
    confident: bool = field(default=False, kw_only=True)  # edges are chosen by the lower bound of their score
    by_mean: bool = field(default=False, kw_only=True)  # examples' scores are averaged before their size is taken

    def __post_init__(self) -> None:
        if self.threshold is not None and self.edges is not None:
            raise UserError("give a threshold or a number of edges, not both")
        if self.faithful is not None and not (self.threshold is None and self.edges is None):
            raise UserError("give a faithfulness to grow to, or a threshold or a number of edges, not both")
        if self.faithful is not None and not 0 < self.faithful <= 1:
            raise UserError(f"a circuit is grown to a faithfulness above 0 and up to 1, not to {self.faithful}")
        if self.edges is not None and self.edges < 1:
            raise UserError(f"a circuit of {self.edges} edges is none; give at least 1")
        if self.threshold is not None and not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise UserError(f"the threshold must be a number of at least 0, not {self.threshold}")
        if self.select not in get_args(Order):
            raise UserError(f"there is no selection {self.select!r}; choose one of {', '.join(get_args(Order))}")
        if self.threshold is not None and self.select == "top":
            raise UserError("the selection 'top' is for a number of edges; a threshold keeps every edge from it on")

    def examples(self, reference: Reference) -> Examples | None:
        """Each prompt's own scores, of which `score` is the mean; None where a method measures the mean alone."""
        del reference
        return None

    def score(self, reference: Reference) -> Tensor:
        """Scores [writer, reader] in the loss's unit, zero where there is no edge."""
        examples = self.examples(reference)
        if examples is None:
            raise NotImplementedError
        return examples.mean(0)

    def checked(self, reference: Reference, scores: Tensor) -> tuple[dict[str, float], tuple[str, ...]]:
        """What the scores say about themselves: outcomes to stand beside the settings, and notes."""
        del reference, scores
        return {}, ()

    def choose(
        self,
        reference: Reference,
        *,
        journal: Path | None = None,
        seed: int = 0,
        shown: bool | None = False,
        workers: Workers = ALONE,
    ) -> EdgeChoice:
        """Score every edge and keep the best; there is nothing to record. `seed` draws examples for the stability.

        Raises what `decided` does.
        """
        del journal, shown, workers
        examples = self.examples(reference)
        scores = self.score(reference) if examples is None else examples.mean(0)
        return self.decided(reference, scores, examples, seed=seed, outcome=self.checked(reference, scores))

    def decided(
        self,
        reference: Measured,
        scores: Tensor,
        examples: Examples | None = None,
        *,
        seed: int = 0,
        outcome: tuple[dict[str, float], tuple[str, ...]] = ({}, ()),
    ) -> EdgeChoice:
        """The choice by these scores, each example's own where there are any.

        Raises ModelError for scores that are no numbers, and UserError for a lower bound where there are not two
        examples, or the method has only their mean.
        """
        if bad := int((~scores.isfinite()).sum()):
            raise ModelError(
                f"{self.name.replace('_', '-')} scores {bad} edges by what is not a number, so no circuit can "
                "be chosen by them: the model overflows its dtype, and --dtype float32 may not"
            )
        graph, (outcomes, notes) = reference.graph, outcome
        if self.confident:
            self._check_bound(examples)
        each = scores if examples is None else examples
        if self.threshold is None and self.edges is None:
            count, grown, told = self._grown(reference, each)
            outcomes, notes = outcomes | grown, (*notes, *told)
        else:
            count = self.edges or 0
        mask = self._selected(graph, each, count)
        pruned = graph.pruned(mask)
        shared = {each.name for each in fields(Scorer)}
        settings = {name: value for name, value in asdict(self).items() if name not in shared}
        settings |= {"edges": count} if self.threshold is None else {"threshold": self.threshold}
        settings |= {
            "compared": self._compared(examples),
            "selected": int(mask.sum()),
            "after pruning": int(pruned.sum()),
            "selection": self.select if self.threshold is None else "threshold",
        }
        steady = None
        if examples is not None:
            steady = stability(
                examples, pruned, lambda some: graph.pruned(self._selected(graph, some, count)), seed=seed
            )
            examples = examples.float()
        tested = torch.from_numpy(graph.full())
        return EdgeChoice(pruned, scores, tested, settings | outcomes, notes=notes, examples=examples, stability=steady)

    def _grown(self, reference: Measured, scores: Tensor) -> tuple[int, dict[str, float], tuple[str, ...]]:
        """How many edges it takes to be faithful on the task's prompts, the faithfulness wanted, and notes.

        Where no size is faithful enough, the most faithful is taken, and a note says so.
        """
        graph, wanted = reference.graph, FAITHFUL if self.faithful is None else self.faithful
        full, empty = reference.loss(graph.full()), reference.loss(graph.empty())
        tried: dict[int, float] = {}
        for count in sizes(graph.n_edges):
            loss = reference.loss(graph.pruned(self._selected(graph, scores, count)))
            tried[count] = np.nan_to_num(faithfulness(loss, full, empty), nan=-np.inf)
            if tried[count] >= wanted:
                return count, {"grown to a faithfulness of": wanted}, ()
        best = max(tried, key=lambda count: tried[count])
        said = (
            f"no circuit of up to {max(tried)} edges has the faithfulness of {wanted:g} that was to be reached; this "
            f"one, with {tried[best]:.2f}, comes nearest; --edges keeps more"
        )
        return best, {"grown to a faithfulness of": wanted}, (said,)

    def _selected(self, graph: Edges, scores: Tensor, count: int) -> Mask:
        """The chosen edges, by scores that the graph's masks are like, or by those of examples, with an axis more."""
        if scores.dim() > graph.allowed.ndim:
            of_each = not (self.signed or self.confident or self.by_mean)
            scores = scores.abs().mean(0) if of_each else lower_bound(scores) if self.confident else scores.mean(0)
        if self.threshold is not None:
            return select.above(graph, scores, self.threshold, self.signed)
        chooser = select.top if self.select == "top" else select.greedy
        return chooser(graph, scores, count, self.signed)

    def _compared(self, examples: Examples | None) -> str:
        """What is compared of the scores, in words."""
        if self.confident:
            return ("as they are" if self.signed else "by size") + ", lower bounds"
        if self.signed:
            return "as they are"
        several = examples is not None and len(examples) > 1
        return "by size of each fact's" if several and not self.by_mean else "by size"

    def _check_bound(self, examples: Examples | None) -> None:
        if examples is None:
            raise UserError(
                f"{self.name.replace('_', '-')} measures the mean over the examples alone, so its scores have no lower "
                "bound; eap and eap-ig have one"
            )
        if len(examples) < 2:
            raise UserError("one example has no spread, so its scores have no lower bound; give several facts")


def sizes(edges: int) -> list[int]:
    """The sizes that a circuit of a graph of so many edges is grown through: each larger by `STEP`."""
    most = min(MOST, edges - 1)
    found, size = [], float(min(LEAST, most))
    while size < most:
        found.append(round(size))
        size *= STEP
    return [*found, most]


def methods() -> tuple[str, ...]:
    """The names of all methods: the searches, then the scorers."""
    return tuple(
        name
        for package in (search, scorers)
        for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    )


def method_class(name: str) -> type[Any]:
    """The class of a method by its name, in which `-` may stand for `_`. UserError names the methods there are."""
    name = name.replace("-", "_")
    if name not in methods():
        raise UserError(f"there is no circuit method {name!r}; choose one of {', '.join(methods())}")
    package = search if name in {module.name for module in pkgutil.iter_modules(search.__path__)} else scorers
    found: type[Any] = importlib.import_module(f"{package.__name__}.{name}").METHOD
    return found


def method(name: str, given: Mapping[str, Any] | None = None, pairs: Sequence[str] = ()) -> Method:
    """A method from its name and settings, as a command line gives them.

    Args:
        given: settings by name; None stands for a setting that was not given.
        pairs: further settings as "key=value".

    Raises UserError for a name that there is not, and for a setting that the method does not have.
    """
    cls = method_class(name)
    asked = {key: value for key, value in (given or {}).items() if value is not None}
    if asked.get("select") == "threshold":
        if asked.get("threshold") is None:
            raise UserError("the selection 'threshold' needs one: give --threshold")
        del asked["select"]
    known = [each.name for each in fields(cls) if each.init and each.repr]
    if foreign := [key for key in asked if key not in known]:
        raise UserError(
            f"{cls.name.replace('_', '-')} has no {foreign[0]!r} to set; its settings are {', '.join(known)}"
        )
    read = configured(cls, asked, where=cls.name)  # each value as its annotation wants it
    made: Method = configured(cls, pairs, flags={key: getattr(read, key) for key in asked})
    return made
