"""Products of a few rows with a large frozen weight: nearly all the work of running a few positions through a model.

For 5 to 200 rows in float32 on a CPU, oneDNN's routine is faster than the one that torch calls by itself (up to three
times at an unembedding; the more rows, the less). Inside `with thin_products():` every linear layer whose weight is
frozen goes through it, forward and backward, in whatever module it sits. Nothing is copied or rounded: the sums are
taken in another order, and that is all that changes. Elsewhere (a GPU, half precision, a weight that is being trained,
a build of torch without oneDNN) the products are torch's own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LINEAR = torch.nn.functional.linear
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@contextmanager
def thin_products() -> Iterator[None]:
    """In the block, or in the function it decorates, linear layers with frozen float32 weights on a CPU use oneDNN."""
    with _Products():
        yield


class _Products(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch in the place of each of its functions."""
        if not kwargs:
            if function is _LINEAR and _fits(*args):
                return _Product.apply(*args, *([None] * (3 - len(args))))
            if function is torch.addmm and len(args) == 3 and _fits(args[1], args[2], args[0]):
                return _Product.apply(args[1], args[2].t(), args[0])  # GPT-2's layers: the weight is [d_in, d_out]
        return function(*args, **(kwargs or {}))


def _fits(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    return (
        _HAS_ONEDNN
        and not weight.requires_grad
        and (bias is None or (bias.ndim == 1 and not bias.requires_grad))
        and rows.dtype == weight.dtype == torch.float32
        and rows.device.type == weight.device.type == "cpu"
        and rows.ndim > 1
        and rows.numel() > 0
    )


class _Product(torch.autograd.Function):
    """rows @ weight' + bias, with the slope for `rows` alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _onednn(rows, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return _onednn(slope, ctx.weight.t(), None), None, None


def _onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found
