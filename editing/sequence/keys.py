"""How far ordinary keys must move for an edited weight to write what it wrote: what PRUNE's theory is about.

Ma et al. 2024, section 3.2: where edits leave ordinary knowledge alone its values stay, so W' = W + dW must be met by
other keys than before. Here k is what the down-projection reads at an unrelated fact's subject in the unedited
model, and k + dk the nearest key that W' maps to k W. In the convention [d_in, d_out] of a weight:

    dk = -k dW pinv(W'),        ||dk|| / ||k|| <= sigma_max(dW) / sigma_min(W') = kappa(W') ||dW|| / ||W'||

in spectral norms. The bound is ours in the form of their Theorem 3.1, whose terms are defined in an appendix; it asks
whether the condition number kappa says anything of the movement that is measured.
Scope: weights that read at most as widely as keys are known, with rows no fewer than columns; down-projections.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from editing.delta import Delta
from editing.requests import RequestPrompts
from editing.solve.values import read_subjects
from factscope.data.fact import Fact
from factscope.data.request import EditRequest
from factscope.model.bridge import Bridge
from factscope.model.sites import Site
from factscope.model.weights import MLP_OUT, WeightName


def ordinary_keys(
    model: Bridge, facts: Sequence[Fact], names: Sequence[str], start: str
) -> dict[str, Float[Tensor, "fact d_in"]]:
    """What each down-projection reads at the facts' subjects, float64, by weight; nothing for other weights."""
    layers = {name: WeightName.of(name).layer for name in names if WeightName.of(name).part == MLP_OUT}
    if not facts or not layers:
        return {}
    sites = {name: Site("mlp_hidden", layer) for name, layer in layers.items()}
    prompts = RequestPrompts([EditRequest.of_truth(fact) for fact in facts], start=start)
    read = read_subjects(model, prompts, list(sites.values()))
    return {name: read[site][:, 0].double() for name, site in sites.items()}


def key_movement(
    matrix: Float[Tensor, "d_in d_out"], delta: Delta | None, keys: Float[Tensor, "fact d_in"]
) -> tuple[float, float]:
    """The mean of ||dk|| / ||k|| over keys, and the bound that holds for each; 0 and 0 before any edit.

    `matrix` is the weight before any edit, in float64. Infinite where the edited weight cannot write what was written.
    """
    if delta is None:
        return 0.0, 0.0
    change = delta.dense().double()
    after = matrix + change
    lost = keys @ change
    moved = torch.linalg.lstsq(after.T, -lost.T, driver="gelsd").solution.T  # of all that fit, the shortest
    missed = (moved @ after + lost).norm() > 1e-6 * lost.norm().clamp_min(1e-300)
    smallest = float(torch.linalg.svdvals(after)[-1])
    bound = float(torch.linalg.matrix_norm(change, 2)) / smallest if smallest > 0 else float("inf")
    if missed and float(lost.norm()) > 0:
        return float("inf"), float("inf")
    return float((moved.norm(dim=1) / keys.norm(dim=1)).mean()), bound
