"""MEMIT: many facts at once, spread over several layers (Meng et al. 2023).

Values are found at the block output of the last of `layers`. From the lowest layer up, each takes an equal share of
what still lacks, r = (z* - z_now) / layers remaining, and writes it by ridge regression, measured on ordinary keys,

    dW = (lambda C + K'K)^-1 K' R  =  C^-1 K' (lambda I + K C^-1 K')^-1 R

with lambda deciding how much of it: one fact alone closes leverage / (leverage + lambda) of its gap, where leverage is
k C^-1 k. The published lambda (15,000 or 20,000) belongs to the scale of the published C; here `ridge` is a fraction of
the mean leverage of the keys at hand, so it means the same for every model and every C.

When not to use it: where one fact must be met exactly; it never is (see the report's residual), by design.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.solve.closed_form import KeyMetric, Solution, solve
from editing.solve.layers import Rule, SpreadConfig, spread
from editing.solve.values import Keys


@dataclass(frozen=True)
class Config(SpreadConfig):
    """`ridge` is lambda over the mean leverage; the rest is told at `SpreadConfig`, the descent at `Descent`."""

    ridge: float = 0.1  # what a fact alone leaves of its gap in each layer is ridge / (1 + ridge)


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Values for all facts on the model as it is, then layer by layer."""
    return spread(inputs, config, ridged(inputs, config.ridge))


def ridged(inputs: MethodInputs, ridge: float) -> Rule:
    """What a layer writes: ridge regression in the measure of ordinary keys."""

    def rule(layer: int, keys: Keys, lacking: Float[Tensor, "fact d_model"]) -> Solution:
        metric = inputs.metric(layer)
        mean = keys.halves().double()
        return solve(mean, lacking, metric, ridge=ridge * leverage(mean, metric))

    return rule


def leverage(keys: Float[Tensor, "fact d_in"], metric: KeyMetric) -> float:
    """Mean of k A^-1 k: the scale that lambda is measured in."""
    return float((keys * metric.solve(keys.T).T).sum(1).mean())


METHOD = MethodSpec(
    "memit",
    "many facts at once over several layers, by a ridge instead of an exact fit",
    Config,
    compute,
    place="hidden",
    needs_moments=True,
    good_for="many facts in one edit, with their neighbours left as they are",
    not_for="one fact that must be met exactly: the ridge never does",
)
