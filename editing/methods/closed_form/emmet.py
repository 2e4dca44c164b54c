"""EMMET: ROME's equality constraint for many facts at once, in one layer (Gupta et al. 2024, "A Unified Framework").

    dW = A^-1 K' (K A^-1 K' + eps I)^-1 R          A = w C

With eps = 0 every averaged key meets its value exactly and w cancels. With eps > 0, which the code needs as soon as two
keys are nearly parallel, it is MEMIT with lambda = w eps, to the last digit: a test says so. Here w is the mean
leverage of the keys, so that K A^-1 K' is of order one and eps means the same for every model.

When not to use it: several layers share the work better (MEMIT); one fact is R-ROME with another place for the value.
"""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.methods.closed_form.memit import leverage
from editing.solve.closed_form import Solution, solve
from editing.solve.layers import spread
from editing.solve.values import Descent, Keys
from factscope.model.bridge import Bridge, info


@dataclass(frozen=True)
class Config:
    """Defaults of the authors' code, but for the layer and w."""

    layers: tuple[int, ...] = (8,)  # set by for_model; one
    epsilon: float = 0.1  # for more than one fact, as the authors; a single fact is met exactly
    contexts: int = 5
    context_length: int = 10
    descent: Descent = field(default_factory=Descent)

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """With the last of the layers that the registry recommends for this model."""
        return cls(layers=info(model).edit_layers[-1:])


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Values for all facts, then one solve."""

    def rule(layer: int, keys: Keys, lacking: Float[Tensor, "fact d_model"]) -> Solution:
        mean = keys.halves().double()
        metric = inputs.metric(layer)
        weighted = metric.times(leverage(mean, metric))
        return solve(mean, lacking, weighted, ridge=config.epsilon if len(mean) > 1 else 0.0)

    return spread(inputs, config, rule)


METHOD = MethodSpec(
    "emmet",
    "many facts at once in one layer, as constraints",
    Config,
    compute,
    place="hidden",
    needs_moments=True,
    good_for="many facts in one edit that should stand in one matrix",
    not_for="a change that several layers could share",
)
