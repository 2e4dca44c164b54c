"""AlphaEdit: MEMIT's values and layers, written only where ordinary keys have little to say (Fang et al. 2025).

P projects on the eigenvectors of C with the smallest eigenvalues, and the update is ridge regression on the projected
keys, so dW = P dW (rows of dW span what P keeps):

    dW = P K' (K P K' + lambda I)^-1 R

"Null space" is a name: the kept directions carry little of an ordinary key, not nothing, and the disturbance in the
report says how little. The authors keep eigenvalues below 0.02, a number in the units of one model's activations; here
P keeps the directions that together carry `null_share` of an ordinary key's squared length. Keys of AlphaEdit edits
that are in place already are protected too: A = I + P K_p' K_p P / lambda, their keys read again from their facts.

When not to use it: with moments from too little text, where small eigenvalues are noise.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from editing.edit import in_place
from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.requests import RequestPrompts
from editing.solve.closed_form import KeyMetric, Solution, solve
from editing.solve.layers import SpreadConfig, spread
from editing.solve.values import Keys, find_keys
from factscope.errors import EditError
from factscope.model.weights import down_projection


@dataclass(frozen=True)
class Config(SpreadConfig):
    """`ridge` is lambda over the mean squared length of the projected keys; as `null_share` it is free of units."""

    ridge: float = 0.1  # as MEMIT's
    null_share: float = 0.2  # of an ordinary key's squared length, which the directions that are kept carry together


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Values for all facts on the model as it is, then layer by layer inside the null space."""
    if inputs.moments is None:
        raise EditError("alphaedit writes where ordinary text is silent, so it needs moments, not the identity")
    kept, moments = list[str](), inputs.moments

    def rule(layer: int, keys: Keys, lacking: Float[Tensor, "fact d_model"]) -> Solution:
        share = config.null_share
        null = inputs.once(("null space", layer, share), lambda: null_space(moments.of(layer), share))
        kept.append(f"layer {layer}: {null.shape[1]} of {null.shape[0]} directions kept")
        inside = keys.halves().double() @ null @ null.T
        ridge = config.ridge * float((inside**2).sum(1).mean())
        earlier = _earlier_keys(inputs, layer)
        if earlier is None:
            return solve(inside, lacking, KeyMetric(None), ridge=ridge)
        held = earlier @ null @ null.T / ridge**0.5
        return solve(inside, lacking, KeyMetric(None).holding(held), ridge=ridge)

    written = spread(inputs, config, rule)
    return replace(written, notes=(*kept, *written.notes))


def null_space(moment: Float[Tensor, "d_in d_in"], share: float) -> Float[Tensor, "d_in kept"]:
    """Eigenvectors of the smallest eigenvalues that together carry at most `share` of the trace.

    Raises EditError if not one direction is that quiet, or all of them are.
    """
    values, vectors = torch.linalg.eigh(moment)
    quiet = int((values.clamp_min(0).cumsum(0) <= share * values.clamp_min(0).sum()).sum())
    if not 0 < quiet < len(values):
        raise EditError(f"a null_share of {share:g} keeps {quiet} of {len(values)} directions: choose another")
    kept: Tensor = vectors[:, :quiet]
    return kept


def _earlier_keys(inputs: MethodInputs, layer: int) -> Float[Tensor, "fact d_in"] | None:
    """Keys of the AlphaEdit edits in place, on the weights as they are; None if there are none."""
    found = [
        find_keys(inputs.model, RequestPrompts(edit.requests, edit.contexts, edit.start_token), layer).halves().double()
        for edit in in_place(inputs.model)
        if edit.method == "alphaedit" and any(delta.weight == down_projection(layer) for delta in edit.deltas)
    ]
    return torch.cat(found) if found else None


METHOD = MethodSpec(
    "alphaedit",
    "MEMIT where ordinary keys hardly reach",
    Config,
    compute,
    place="hidden",
    needs_moments=True,
    good_for="facts whose neighbours must stay as they are",
    not_for="second moments of too little text: small eigenvalues are noise",
)
