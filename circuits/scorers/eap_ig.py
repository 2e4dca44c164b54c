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

from torch import Tensor

from circuits.engine.gradients import Point, clean_writes, edge_scores, mean_gradient
from circuits.engine.reference import Reference
from circuits.scorers.eap import CONVENTION as CONVENTION
from factscope.errors import UserError

RULES = {"left": 0.0, "midpoint": 0.5, "right": 1.0}
VARIANTS = ("inputs", "activations", "clean_corrupted")


@dataclass(frozen=True)
class Config:
    """Which way, and in how many steps."""

    variant: str = "inputs"
    steps: int = 5  # the authors' default
    rule: str = "midpoint"  # ours: at five steps nearer to the integral than the authors' left rule

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise UserError(f"there is no variant {self.variant!r} of EAP-IG; choose one of {', '.join(VARIANTS)}")
        if self.rule not in RULES:
            raise UserError(f"there is no rule {self.rule!r}; choose one of {', '.join(RULES)}")
        if self.steps < 1:
            raise UserError(f"EAP-IG in {self.steps} steps is none; give at least 1")


def points(config: Config, n_layers: int) -> list[Point]:
    """Where gradients are taken."""
    if config.variant == "clean_corrupted":
        return [Point(0.0), Point(1.0)]
    shares = [(step + RULES[config.rule]) / config.steps for step in range(config.steps)]
    if config.variant == "inputs":
        return [Point(share) for share in shares]
    sites = [("inputs", 0), *((site, layer) for layer in range(n_layers) for site in ("heads", "mlp"))]
    return [Point(share, site, layer) for site, layer in sites for share in shares]


def score(reference: Reference, config: Config | None = None) -> Tensor:
    """Scores [writer, reader] in the loss's unit, zero where there is no edge."""
    clean = clean_writes(reference)
    places = points(config or Config(), reference.graph.n_layers)
    return edge_scores(reference, mean_gradient(reference, places, clean), clean)
