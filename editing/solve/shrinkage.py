"""How far a second moment of few keys is trusted: it is pulled towards its own diagonal, as held-out keys ask for.

An update goes along C^-1 k, and inverting makes the most of the directions that were counted worst. So the diagonal D
of C stands beside the counted keys, with the weight of `prior` keys for each of d dimensions:

    C_m = (n C + m d D) / (n + m d)

the mean of C under an inverse Wishart prior around D (Haff 1980, empirical Bayes; D is the target with unequal
variances of Schäfer and Strimmer 2005). With many keys nothing is left of the prior. `chosen` takes the m under which a
Gaussian fitted to the first half of the keys gives the second half the highest likelihood. Not for keys whose
dimensions have no meaning by themselves: in a rotated basis the diagonal is another matrix.
"""

import torch
from jaxtyping import Float
from torch import Tensor

PRIORS = tuple(2.0**power for power in range(-4, 8))  # keys for each dimension that are tried
FLOOR = 1e-6  # of the mean of D: what a neuron that never fired is given


def shrunk(matrix: Float[Tensor, "d d"], keys: int, prior: float) -> Float[Tensor, "d d"]:
    """C of `keys` keys pulled towards its diagonal, which weighs `prior` keys for each dimension; 0 leaves it alone."""
    if prior == 0:
        return matrix
    weight = prior * len(matrix) / (keys + prior * len(matrix))
    return (1 - weight) * matrix + weight * torch.diag(_diagonal(matrix))


def chosen(first: Float[Tensor, "d d"], second: Float[Tensor, "d d"], keys: int) -> float:
    """The prior of `PRIORS` under which `first`, of `keys` keys, foretells `second`, the moment of as many others.

    Minus twice the log-likelihood per key is log det C_m + tr(C_m^-1 second), up to a constant; one eigendecomposition
    of D^-1/2 C D^-1/2 serves every m.
    """
    scale = _diagonal(first).rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * first * scale)
    seen = (vectors * ((scale[:, None] * second * scale) @ vectors)).sum(0)
    losses = []
    for prior in PRIORS:
        weight = prior * len(first) / (keys + prior * len(first))
        spectrum = (1 - weight) * values.clamp_min(0) + weight
        losses.append(float((spectrum.log() + seen / spectrum).sum()))
    return PRIORS[losses.index(min(losses))]


def _diagonal(matrix: Float[Tensor, "d d"]) -> Float[Tensor, " d"]:
    diagonal = matrix.diagonal()
    return diagonal.clamp_min(FLOOR * float(diagonal.mean()))
