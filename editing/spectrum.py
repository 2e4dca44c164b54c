"""What an edit does to the singular values of a weight: does the matrix still work as it did?

Many sequential edits make the largest singular value grow and the matrix ill-conditioned, and general abilities go
with it (Ma et al. 2024, PRUNE). An update of n facts has rank n, so its singular values come from two thin QR
factorisations and an n-by-n SVD, never from the whole matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editing.delta import Delta
from editing.edit import Edit, in_place
from editing.merge.stack import merged
from editing.weights.extremes import extremes
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.weights import as_matrix, live_weights


@dataclass(frozen=True)
class Spectrum:
    """One weight after the first `edits` edits of a stack; 0 is before any."""

    weight: str
    edits: int
    largest: float
    smallest: float
    condition: float  # largest / smallest
    update_largest: float  # of the sum of the edits so far; 0 before any
    update_rank: float  # effective: exp of the entropy of s / sum(s); 1 for a rank-one change
    share: float  # ||dW|| / ||W before||, Frobenius


def spectra(model: Bridge, edits: Sequence[Edit], each: bool = True) -> tuple[Spectrum, ...]:
    """Every edited weight before, and after each edit of the stack (or with `each` False, after all of them).

    The model is only read. Raises EditError while edits are in place: the weights would be counted twice.
    """
    if in_place(model):
        raise EditError("take the edits that are in place out before looking at spectra")
    weights = live_weights(model)
    steps = range(1, len(edits) + 1) if each else [len(edits)]
    out = []
    for name in dict.fromkeys(delta.weight for edit in edits for delta in edit.deltas):
        matrix = as_matrix(name, weights[name].detach()).double().cpu()
        out.append(_spectrum(name, 0, matrix, None, *extremes(matrix)))
        before = None
        for count in steps:
            found = [d for d in merged(edits[:count]).deltas if d.weight == name]
            if found and any(d.weight == name for e in edits[before or 0 : count] for d in e.deltas):
                out.append(_spectrum(name, count, matrix, found[0], *extremes(matrix + found[0].dense())))
            before = count
    return tuple(out)


def spectrum(
    name: str, count: int, matrix: Float[Tensor, "d_in d_out"], delta: Delta | None
) -> tuple[Spectrum, Float[Tensor, " rank"]]:
    """One weight under the sum of `count` edits, and all its singular values; `matrix` is before any, in float64."""
    after = matrix if delta is None else matrix + delta.dense()
    values = torch.linalg.svdvals(after)
    return _spectrum(name, count, matrix, delta, float(values[0]), float(values[-1])), values


def _spectrum(name: str, count: int, matrix: Tensor, delta: Delta | None, largest: float, smallest: float) -> Spectrum:
    update = torch.zeros(1, dtype=torch.float64) if delta is None else factored(delta)[1]
    condition = largest / smallest if smallest > 0 else float("inf")
    rank, share = effective_rank(update), float(update.norm() / matrix.norm())
    return Spectrum(name, count, largest, smallest, condition, float(update[0]), rank, share)


def factored(delta: Delta) -> tuple[Float[Tensor, "d_in rank"], Float[Tensor, " rank"], Float[Tensor, "rank d_out"]]:
    """Singular value decomposition of an update, float64; from the factors where they say everything about it."""
    if not delta.low_rank or delta.left is None:
        left, values, right = torch.linalg.svd(delta.dense(), full_matrices=False)
        return left, values, right
    outer, inner = torch.linalg.qr(delta.left.double())
    last, core = torch.linalg.qr(delta.right.double().T)
    left, values, right = torch.linalg.svd(inner @ core.T)
    return outer @ left, values, right @ last.T


def effective_rank(values: Float[Tensor, " rank"]) -> float:
    """exp(entropy) of the singular values as shares (Roy and Vetterli 2007); 0.0 for a zero matrix."""
    total = float(values.sum())
    if total <= 0:
        return 0.0
    shares = values / total
    return float(torch.special.entr(shares).sum().exp())
