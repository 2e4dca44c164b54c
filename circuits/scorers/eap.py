"""EAP, edge attribution patching (Syed et al. 2023): every edge's effect to first order, from one backward pass.

score = (ablated - clean output of the writer) times the loss's gradient at the reader in the clean run. It estimates
the rise of the loss when the edge is cut from the full graph.

Convention: in the loss's unit; positive means that the edge helps. The direction is noising: the ablated value goes
into the clean run. `direction=denoising` takes the gradient in the corrupt run and puts clean values there
(`engine/mirror.py`), as TransformerLens does, whose plus is of the metric and not of the loss.
Scope: not to be used where the gradient at the clean run says little: a saturated probability, an ablation far from
clean.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from circuits.engine.gradients import Point, clean_run, clean_writes, example_scores, mean_gradient
from circuits.engine.mirror import DENOISED, Direction, check_direction, seen_from
from circuits.engine.reference import Reference
from circuits.method import Scorer

CONVENTION = "estimated rise of the loss when the edge is cut from the full graph; positive: the edge helps"


@dataclass(frozen=True)
class Attribution(Scorer):
    """What EAP and its kin share: an edge's score is what its cut changes, times one gradient at the reader."""

    convention: ClassVar[str] = CONVENTION
    prefers: ClassVar[str] = "counterfactual"

    direction: Direction = field(default="noising", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_direction(self.direction)
        if self.direction == "denoising":
            object.__setattr__(self, "convention", f"estimated {DENOISED}")

    def gradient(self, reference: Reference, clean: Tensor) -> Tensor:
        """The loss's gradient [reader, row, pos, d_model] at every reader's input; rows add up to the prompts' mean.

        Args:
            clean: what the writers write in the clean run, [writer, row, pos, d_model].
        """
        raise NotImplementedError

    def examples(self, reference: Reference) -> Tensor:
        """Each prompt's scores [example, writer, reader] in the loss's unit, zero where there is no edge."""
        start, sign = seen_from(reference, self.direction)
        clean, gradient = self.run(start)
        return sign * example_scores(start, gradient, clean)

    def run(self, reference: Reference) -> tuple[Tensor, Tensor]:
        """What the writers write in the clean run, and `gradient`."""
        clean = clean_writes(reference)
        return clean, self.gradient(reference, clean)


@dataclass(frozen=True)
class EAP(Attribution):
    """EAP has nothing to choose but the selection."""

    name: ClassVar[str] = "eap"

    def gradient(self, reference: Reference, clean: Tensor) -> Tensor:
        """That of the clean run."""
        return mean_gradient(reference, [Point()], clean)

    def run(self, reference: Reference) -> tuple[Tensor, Tensor]:
        """Both of one run."""
        return clean_run(reference)


METHOD = EAP
