"""EAP, edge attribution patching (Syed et al. 2023): every edge's effect to first order, from one backward pass.

score = (ablated - clean output of the writer) times the loss's gradient at the reader in the clean run. It estimates
the rise of the loss when the edge is cut from the full graph.

Convention: in the loss's unit; positive means that the edge helps. (TransformerLens takes the gradient in the corrupt
run and the opposite difference, with the opposite meaning of plus.)
Scope: not to be used where the gradient at the clean run says little: a saturated probability, an ablation far from
clean.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from circuits.engine.gradients import Point, clean_writes, example_scores, mean_gradient
from circuits.engine.reference import Reference
from circuits.method import Scorer

CONVENTION = "estimated rise of the loss when the edge is cut from the full graph; positive: the edge helps"


@dataclass(frozen=True)
class Attribution(Scorer):
    """What EAP and its kin share: an edge's score is what its cut changes, times one gradient at the reader."""

    convention: ClassVar[str] = CONVENTION
    prefers: ClassVar[str] = "counterfactual"

    def gradient(self, reference: Reference, clean: Tensor) -> Tensor:
        """The loss's gradient [reader, row, pos, d_model] at every reader's input; rows add up to the prompts' mean.

        Args:
            clean: what the writers write in the clean run, [writer, row, pos, d_model].
        """
        raise NotImplementedError

    def examples(self, reference: Reference) -> Tensor:
        """Each prompt's scores [example, writer, reader] in the loss's unit, zero where there is no edge."""
        clean = clean_writes(reference)
        return example_scores(reference, self.gradient(reference, clean), clean)


@dataclass(frozen=True)
class EAP(Attribution):
    """EAP has nothing to choose but the selection."""

    name: ClassVar[str] = "eap"

    def gradient(self, reference: Reference, clean: Tensor) -> Tensor:
        """That of the clean run."""
        return mean_gradient(reference, [Point()], clean)


METHOD = EAP
