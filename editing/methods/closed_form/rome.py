"""ROME: write one value at one key of one layer, by a rank-one change (Meng et al. 2022).

The down-projection of an MLP is seen as a store of key-value pairs. With u = C^-1 k, k the key averaged over contexts,

    dW = u r' / (k_bare . u)          r = v* - W k_bare

so the bare prompt's key meets its value exactly. The numerator and the division use the bare prompt's key and u uses
the averaged one, as in the authors' code; where the two keys disagree the division is by a small number and the edit
breaks the model ("disabling edits", Gupta et al. 2024). R-ROME repairs that; this file keeps the original.

When not to use it: for many facts at once. They are written one after another here, each on top of those before, and
what was written first fades; MEMIT solves for all of them together.
"""

from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from editing.delta import summed
from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.solve.closed_form import KeyMetric, Solution, solve
from editing.solve.values import Descent, Keys, Values, find_keys, side_by_side
from editing.weights.lent import borrowed
from factscope.model.bridge import Bridge, info
from factscope.model.weights import down_projection


@dataclass(frozen=True)
class Config:
    """Defaults of the authors' gpt2-xl.json, except the layer and the number of contexts."""

    layer: int = 5  # set by for_model
    contexts: int = 5  # sampled ones beside the bare prompt; the authors' 20 cost three times as much
    context_length: int = 10  # tokens
    descent: Descent = field(default_factory=Descent)

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """With the layer that the registry recommends for this model."""
        return cls(layer=info(model).edit_layer)


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Facts one after another, each on the weights that those before it left."""
    return in_turn(inputs, config, averaged=False)


def in_turn(inputs: MethodInputs, config: Config, averaged: bool) -> MethodOutput:
    """ROME, or with `averaged` R-ROME, which uses the averaged key everywhere."""
    name, metric = down_projection(config.layer), inputs.metric(config.layer)
    deltas, reports, curves, notes = [], [], [], list[str]()
    with borrowed(inputs.model, [name]) as weights:
        weight = weights[name]
        for request in inputs.requests:
            alone = replace(inputs, requests=(request,))
            values = alone.values(config)
            keys = find_keys(inputs.model, alone.prompts, config.layer)
            before = weight.detach().double().cpu()
            solution = rank_one(keys, values, before, metric, averaged)
            delta = solution.delta(name)
            weight.copy_((before + delta.dense()).to(weight))
            deltas.append(delta)
            reports.append(solution.report(name, before, metric.matrix))
            curves.append(values.losses)
            notes += values.said([request])
    return MethodOutput(summed(deltas), tuple(reports), side_by_side(curves), tuple(notes))


def rank_one(
    keys: Keys, values: Values, matrix: Float[Tensor, "d_in d_out"], metric: KeyMetric, averaged: bool
) -> Solution:
    """The update; `matrix` is W in float64.

    The MLP's bias is the same before and after, so r = v* - (W k + b) is delta at the bare key, and at the averaged
    key delta + W (k_bare - k).
    """
    bare, mean, delta = keys.bare().double(), keys.mean().double(), values.delta.double()
    if averaged:
        return solve(mean, delta + (bare - mean) @ matrix, metric)
    return solve(mean, delta, metric, at=bare)


METHOD = MethodSpec(
    "rome",
    "one value at one key of one layer; met exactly",
    Config,
    compute,
    place="mlp",
    needs_moments=True,
    good_for="one fact that must be met exactly, and a change that is simple enough to look into",
    not_for="many facts at once: what was written first fades",
)
