"""Products of a few rows with a large frozen weight: nearly all the work of running a few positions through a model.

For 2 to 200 rows in float32 on a CPU, oneDNN's routine is faster than the one that torch calls by itself (up to three
times at an unembedding; the more rows, the less; on AMD processors twice at any number, and six times for an
unembedding of three rows). There are two ways to it:

*thin_products*: inside the `with`, every linear layer whose weight is frozen goes through oneDNN, forward and backward,
in whatever module it sits. Nothing is copied.

*packed*: a copy of one module whose matrices are laid out once, as the processor's product wants them. A search
multiplies small batches by the same weights tens of thousands of times, and any other product sorts the weights anew
each time: on 16 to 128 rows the copy is a third faster for an MLP and twice as fast for an unembedding. It takes as
much memory as the weights, gives gradients to nothing, and does not follow the weights if they change.

The sums are taken in another order, and that is all that changes. Elsewhere (a GPU, half precision, a weight that is
being trained, a build of torch without oneDNN) the products are torch's own.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from factscope.model.source.room import kind_of

_LINEAR = torch.nn.functional.linear
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)


def suits(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by this matrix: float32, on a CPU, in a build of torch that has it."""
    return _HAS_ONEDNN and kind_of(weight.device) == "cpu" and weight.dtype == torch.float32


# ---- in the place of torch's own products, for the length of a `with` ----


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
        suits(weight)
        and suits(rows)
        and (weight.is_contiguous() or weight.mT.is_contiguous())  # of a slice, oneDNN's product is the slowest of all
        and not weight.requires_grad
        and (bias is None or (bias.ndim == 1 and not bias.requires_grad))
        and rows.ndim > 1
        and rows.numel() > 0
    )


class _Product(torch.autograd.Function):
    """rows @ weight' + bias, with the slope for `rows` alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)  # who keeps what a graph holds of weights may say how (`widened`)
        return _few_sizes(rows, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return _few_sizes(slope, ctx.saved_tensors[0].t(), None), None, None


def _few_sizes(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product, with rows of zeros up to a number of which there are few: oneDNN keeps what it compiled for each."""
    flat = rows.reshape(-1, rows.shape[-1])
    step = 1 << max(0, len(flat).bit_length() - 4)  # an eighth of the rows at most
    more = -len(flat) % step
    if more == 0:
        return _onednn(rows, weight, bias)
    found: Tensor = _onednn(functional.pad(flat, (0, 0, 0, more)), weight, bias)[:-more].unflatten(0, rows.shape[:-1])
    return found


def _onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found


# ---- a copy of a module, laid out once ----


def packed(module: nn.Module) -> nn.Module:
    """A copy of `module` without hooks, its linear maps packed; it shares all that is not a matrix."""
    inner = getattr(module, "original_component", module)
    if isinstance(inner, nn.Linear):
        return Packed(inner.weight, inner.bias) if suits(inner.weight) else inner
    if isinstance(inner, Conv1D):
        return Packed(inner.weight.T.contiguous(), inner.bias) if suits(inner.weight) else inner
    children = dict(inner.named_children())
    if not children:
        return inner
    twin = copy.copy(inner)
    twin._modules = {name: packed(child) for name, child in children.items()}
    return twin


class Packed(nn.Module):
    """x W^T + b with a packed W; gives gradients to nothing."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.bias = None if bias is None else bias.detach()
        self._weight: Any = torch.ops.mkldnn._reorder_linear_weight(weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_in] to [..., d_out]."""
        return _onednn(x, self._weight, self.bias)
