"""How far logits are from the model's own, and how far is mere rounding: one measure for every self-check.

A self-check compares with what the model itself says, or plain transformers, and never with our own code.
"""

import torch
from torch import Tensor


@torch.no_grad()
def off_by(found: Tensor, own: Tensor) -> float:
    """Largest distance of logits from the model's own, in standard deviations of these; NaN where either is NaN."""
    own = own.float()
    return float((found.float().to(own.device) - own).abs().max()) / (float(own.std()) + 1e-12)


def tolerance(dtype: torch.dtype) -> float:
    """How far `off_by` may be by rounding alone, when sums are taken in another order."""
    return 1e-3 if dtype.itemsize >= 4 else 0.1


def agree(found: Tensor, own: Tensor) -> bool:
    """Whether logits are the model's own up to rounding."""
    return off_by(found, own) <= tolerance(own.dtype)
