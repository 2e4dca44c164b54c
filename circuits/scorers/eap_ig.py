"""EAP-IG (Hanna et al. 2024): EAP with gradients averaged on the way from ablated to clean.

`inputs` moves the embeddings from their ablated to their clean values in m steps and lets the model compute the rest;
summed over the edges out of the embedding the scores tend to the loss's gap between the two ends, as m grows.
`activations` moves one layer's heads or one MLP at a time and averages over all layers and steps, for every edge alike
(as the authors do; it is not each edge's own path), the gradients flowing on through what is moved.
`clean_corrupted` averages the two ends.

The points of a step are a Riemann rule: `left` k/m from 0 (the authors' current code), `right` from 1 (their older
one), `midpoint` (k + 1/2)/m, whose error falls with the square of m; share 1 is clean. Gradients are of the loss, so a
positive score means that cutting the edge raises it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from circuits.engine.gradients import Moved, Point, clean_writes, edge_scores, mean_gradient
from circuits.engine.reference import Reference
from circuits.method import Scorer
from circuits.scorers.eap import CONVENTION
from factscope.errors import UserError

Variant = Literal["inputs", "activations", "clean_corrupted"]
Rule = Literal["left", "midpoint", "right"]
OFFSETS: dict[Rule, float] = {"left": 0.0, "midpoint": 0.5, "right": 1.0}  # of a step's point, in steps


@dataclass(frozen=True)
class EAPIG(Scorer):
    """Which way, and in how many steps."""

    name: ClassVar[str] = "eap_ig"
    convention: ClassVar[str] = CONVENTION
    prefers: ClassVar[str] = "counterfactual"

    variant: Variant = "inputs"
    steps: int = 5  # the authors' default
    rule: Rule = "midpoint"  # ours: at five steps nearer to the integral than the authors' left rule

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, value, names in (("variant", self.variant, get_args(Variant)), ("rule", self.rule, get_args(Rule))):
            if value not in names:
                raise UserError(f"EAP-IG has no {what} {value!r}; choose one of {', '.join(names)}")
        if self.steps < 1:
            raise UserError(f"EAP-IG cannot take {self.steps} steps; give at least 1")

    def points(self, n_layers: int) -> list[Point]:
        """Where gradients are taken."""
        if self.variant == "clean_corrupted":
            return [Point(0.0), Point(1.0)]
        shares = [(step + OFFSETS[self.rule]) / self.steps for step in range(self.steps)]
        if self.variant == "inputs":
            return [Point(share) for share in shares]
        moved: tuple[Moved, ...] = ("heads", "mlp")
        sites: list[tuple[Moved, int]] = [("inputs", 0), *((site, i) for i in range(n_layers) for site in moved)]
        return [Point(share, site, layer) for site, layer in sites for share in shares]

    def score(self, reference: Reference) -> Tensor:
        """Scores [writer, reader] in the loss's unit, zero where there is no edge."""
        clean = clean_writes(reference)
        return edge_scores(reference, mean_gradient(reference, self.points(reference.graph.n_layers), clean), clean)


METHOD = EAPIG
