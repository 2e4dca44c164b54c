"""Whether logits are numbers, how far they are from the model's own, and how far is mere rounding.

A self-check compares with what the model itself says, or plain transformers, and never with our own code.
"""

import torch
from torch import Tensor

from factscope.errors import ModelError


def finite(logits: Tensor) -> Tensor:
    """The logits, if they are numbers; else a ModelError, for nothing can be read of them."""
    if bool(logits.isnan().any()) or bool((logits == torch.inf).any()):
        raise ModelError(
            "the model's logits are not numbers (NaN or infinite), so nothing can be read of them: its weights are "
            "broken, by an edit perhaps, or they overflow this dtype; --dtype float32 tells which"
        )
    return logits


@torch.no_grad()
def off_by(found: Tensor, own: Tensor) -> float:
    """Largest distance of logits from the model's own, in standard deviations of these; NaN where ours are.

    Raises ModelError where the model's own are not numbers.
    """
    own = finite(own.float())
    return float((found.float().to(own.device) - own).abs().max()) / (float(own.std()) + 1e-12)


def tolerance(dtype: torch.dtype) -> float:
    """How far `off_by` may be by rounding alone, when sums are taken in another order."""
    return 1e-3 if dtype.itemsize >= 4 else 0.1


def agree(found: Tensor, own: Tensor) -> bool:
    """Whether logits are the model's own up to rounding."""
    return off_by(found, own) <= tolerance(own.dtype)
