"""EAP-IG (Hanna et al. 2024): EAP with gradients averaged on the way from ablated to clean.

`inputs` moves the embeddings from their ablated to their clean values in m steps and lets the model compute the rest;
summed over the edges out of the embedding the scores tend to the loss's gap between the two ends, as m grows.
`activations` moves one layer's heads or one MLP at a time and averages over all layers and steps, for every edge alike
(as the authors do; it is not each edge's own path), the gradients flowing on through what is moved.
`clean_corrupted` averages the two ends.

The points of a step are a Riemann rule: `left` k/m from 0 (the authors' current code), `right` from 1 (their older
one), `midpoint` (k + 1/2)/m, whose error falls with the square of m; share 1 is clean. Gradients are of the loss, so a
positive score means that cutting the edge raises it.

How far the sum is from that gap (completeness) is measured each time and stands on the circuit's card. Scope: no
gradient is taken at an embedding of zeros, where every norm has the slope 1/sqrt(eps) and one point would decide the
whole ranking: under zero ablation that refuses the left rule and `clean_corrupted`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from circuits.engine.gradients import Moved, Point, mean_gradient
from circuits.engine.reference import Reference
from circuits.method import INTEGRAL
from circuits.scorers.eap import Attribution
from factscope.errors import UserError

Variant = Literal["inputs", "activations", "clean_corrupted"]
Rule = Literal["left", "midpoint", "right"]
FAR = 0.5  # of the gap: a sum that is further from it is told
OFFSETS: dict[Rule, float] = {"left": 0.0, "midpoint": 0.5, "right": 1.0}  # of a step's point, in steps


@dataclass(frozen=True)
class EAPIG(Attribution):
    """Which way, and in how many steps."""

    name: ClassVar[str] = "eap_ig"

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

    def gradient(self, reference: Reference, clean: Tensor) -> Tensor:
        """The mean over the points of the way. UserError where one of them is an embedding of zeros."""
        points = self.points(reference.graph.n_layers)
        self._check_ends(reference, points)
        return mean_gradient(reference, points, clean)

    def checked(self, reference: Reference, scores: Tensor) -> tuple[dict[str, float], tuple[str, ...]]:
        """The sum over the embedding's edges and the gap that it should reach; a note where it is far from that."""
        if self.variant == "activations":
            return {}, ("EAP-IG's activations variant averages over many paths, so its scores have no sum to reach",)
        graph = reference.graph
        ablated = graph.full()
        ablated[: graph.n_inputs] = False  # the far end of the path: the embedding is ablated, all else computed
        gap = reference.loss(ablated) - reference.loss(graph.full())
        total = float(scores[: graph.n_inputs].sum())
        far = abs(total - gap) > FAR * abs(gap)
        said = (
            f"EAP-IG's scores out of the embedding sum to {total:.3g}, and the loss between the ends of the path is "
            f"{gap:.3g}: {self.steps} steps do not reach the integral, so give more, or check with --method exact"
        )
        return dict(zip(INTEGRAL, (total, gap), strict=True)), (said,) if far else ()

    def _check_ends(self, reference: Reference, points: list[Point]) -> None:
        """UserError if a gradient would be taken where the whole residual stream is zero."""
        starts = any(point.share == 0 and point.site == "inputs" for point in points)
        if starts and not reference.replacement[: reference.graph.n_inputs].any():
            raise UserError(
                f"under {reference.task.ablation} ablation EAP-IG would take a gradient at an embedding of zeros, "
                f"where norms blow it up (variant {self.variant}, rule {self.rule}): choose rule=midpoint with "
                "variant=inputs, or --ablation counterfactual"
            )


METHOD = EAPIG
