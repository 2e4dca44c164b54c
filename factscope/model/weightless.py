"""A model without numbers: the modules of an architecture on PyTorch's fake tensors, which have shapes and no contents.

Whatever runs on a model runs on this one, in a few megabytes whatever its size: the code of a verb itself says which
tensors it makes and which products it takes, and `factscope.runs.counting` counts them. Real numbers have no contents.
Whole numbers and conditions have: where they are made of what has none, a whole number is 0, and a condition is what
lets work go on to its end (`_HOLDS`): numbers are finite, a loss is above the bound at which a descent would stop, a
corruption hurts. So the answers mean nothing, and only their sizes do.

*Scope*: no verb whose way depends on what the model says (which edges a search cuts, which facts a model knows). All
tensors lie on the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from factscope.model.bridge import Bridge
from factscope.model.load import load
from factscope.model.weights import WEIGHTLESS

aten = torch.ops.aten
# What is raised where a shape depends on numbers that are not there.
UNKNOWN = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
_MADE = {
    aten.empty, aten.zeros, aten.ones, aten.full, aten.eye, aten.randn, aten.rand, aten.empty_strided, aten.new_empty,
    aten.new_zeros, aten.new_ones, aten.new_full, aten.arange, aten.linspace,
}  # fmt: skip
_HOLDS = {aten.gt, aten.ge, aten.ne, aten.isfinite, aten.equal, aten.allclose}  # other conditions do not
_PACKED = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_SMALL = 2**20  # conditions up to which they may be written into; more of them share one


@contextmanager
def weightless(config: Any, tokenizer: Any, dtype: torch.dtype = torch.float32) -> Iterator[Bridge]:
    """A model of this Hugging Face configuration, without numbers; it runs in the block alone.

    Raises ModelError as `load` does of a model in memory.
    """
    from transformers import AutoModelForCausalLM

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with _Contentless(fake):
        with fake:
            network = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype).eval()
        WEIGHTLESS.add(network)
        model = load(network, tokenizer=tokenizer)
        WEIGHTLESS.add(model)
        yield model


class _Contentless(TorchDispatchMode):
    """Makes real numbers without contents, and answers what is asked of them; see the module's text."""

    def __init__(self, fake: Any) -> None:
        super().__init__()
        self.fake = fake

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation on shapes, or for whole numbers as it is."""
        kwargs, operation = kwargs or {}, func.overloadpacket
        if any(_is_fake(one) for one in tree_leaves((args, kwargs))):
            if operation is aten._local_scalar_dense:
                return 0.0
            if operation in (aten.equal, aten.allclose):
                return True
            if operation is _PACKED:
                return args[0].clone()  # as many bytes, in another order
            if operation in (aten.index, aten.index_put, aten.index_put_):  # conditions: PyTorch asks where they hold
                args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
            holds = operation in _HOLDS
            if operation in (aten.eq, aten.ne) and args[0] is args[1]:
                holds = not holds  # how PyTorch asks whether a number is none
            return tree_map_only(Tensor, lambda found: _answered(found, holds), func(*args, **kwargs))
        if operation in _MADE:
            with self.fake:
                found = func(*args, **kwargs)
            if found.dtype.is_floating_point:
                return found
        return func(*args, **kwargs)


def _is_fake(value: Any) -> bool:
    return isinstance(value, FakeTensor)


def _answered(found: Tensor, holds: bool) -> Tensor:
    """What was found, if it is of real numbers; else what stands for it."""
    if found.dtype.is_floating_point or found.dtype.is_complex or not _is_fake(found):
        return found
    known = torch.full((), holds if found.dtype == torch.bool else 0, dtype=found.dtype).expand(found.shape)
    return known.clone() if known.numel() <= _SMALL else known


def _places(index: Tensor | None) -> tuple[Tensor | None, ...]:
    """An index without conditions."""
    return (index,) if index is None or index.dtype != torch.bool else index.nonzero().unbind(1)
