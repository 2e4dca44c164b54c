"""How a change of a weight is spread over the matrix: over rows, columns and entries. Read from the factors alone.

Rows and columns are those of W [d_in, d_out]: row i of a down-projection is what its hidden neuron i writes, which the
survey of editing calls a column of the value layer (Zhang et al. 2024, arXiv 2401.01286, section 5.1). For ROME, dW is
u r' with u = C^-1 k: which rows change is decided by u alone, and all of them move along the one direction r.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editing.delta import Delta


@dataclass(frozen=True)
class Spread:
    """Shares of ||dW||^2 that lie in the largest row, in the five largest, and in the largest 1 % (at least one)."""

    one: float
    five: float
    percent: float

    @classmethod
    def of(cls, energy: Float[Tensor, " line"]) -> "Spread":
        """From the squared norm of each row (or column); zeros where nothing changes."""
        shares = concentration(energy)
        at = lambda count: float(shares[min(count, len(shares)) - 1])  # noqa: E731
        return cls(at(1), at(5), at(max(1, round(len(shares) / 100))))


def row_energy(delta: Delta) -> Float[Tensor, " d_in"]:
    """Squared norm of each row of the change, float64; a thin change is never formed."""
    if not delta.low_rank or delta.left is None:
        return delta.dense().square().sum(1)
    left, right = delta.left.double(), delta.right.double()
    return ((left @ (right @ right.T)) * left).sum(1).clamp_min(0.0)


def column_energy(delta: Delta) -> Float[Tensor, " d_out"]:
    """Squared norm of each column of the change, float64."""
    if not delta.low_rank or delta.left is None:
        return delta.dense().square().sum(0)
    left, right = delta.left.double(), delta.right.double()
    return (((left.T @ left) @ right) * right).sum(0).clamp_min(0.0)


def concentration(energy: Float[Tensor, " line"]) -> Float[Tensor, " line"]:
    """Share of the whole in the 1, 2, ... largest; zeros where nothing changes."""
    falling = energy.sort(descending=True).values
    total = float(falling.sum())
    return falling.cumsum(0) / total if total > 0 else torch.zeros_like(falling)


def half(change: Float[Tensor, "d_in d_out"]) -> float:
    """The fewest entries with half of ||dW||^2, as a share of all: about .1 for normal numbers; NaN where none."""
    shares = concentration(change.double().flatten().square())
    if not float(shares[-1]) > 0:
        return float("nan")
    return (int((shares < 0.5).sum()) + 1) / len(shares)
