"""A model without numbers: the modules of an architecture on PyTorch's fake tensors, which have shapes and no contents.

Whatever runs on a model runs on this one, in a few megabytes whatever the size: the code of a verb itself says which
tensors it makes and which products it takes, and `factscope.runs.counting` counts them. What a program asks of numbers
is answered as of work that goes on to its end: numbers are finite, two computations of one thing agree, a quantity is
above the bound that it is held against (the gap that a corruption leaves, the loss at which a descent would stop), and
where a number itself is asked for it is 0. So the answers mean nothing, and only their sizes do.

*Scope*: no verb whose way depends on what the model says (which edges a search cuts, which facts a model knows).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from factscope.model.bridge import Bridge
from factscope.model.load import load
from factscope.model.weights import WEIGHTLESS

aten = torch.ops.aten


@contextmanager
def weightless(config: Any, tokenizer: Any, dtype: torch.dtype = torch.float32) -> Iterator[Bridge]:
    """A model of this Hugging Face configuration, without numbers; it runs in the block alone.

    Raises ModelError as `load` does of a model in memory.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with StandIns(fake):
        with fake:
            network = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype)
        WEIGHTLESS.add(network)
        model = load(network, tokenizer=tokenizer)
        WEIGHTLESS.add(model)
        yield model


# What is taken to hold of numbers that are not there.
_TAKEN = {
    aten.gt: True, aten.ge: True, aten.ne: True, aten.isfinite: True,
    aten.lt: False, aten.le: False, aten.eq: False, aten.isnan: False, aten.isinf: False,
}  # fmt: skip
_ALL = {aten.logical_and, aten.bitwise_and, aten.mul}
_ANY = {aten.logical_or, aten.bitwise_or}
_NOT = {aten.logical_not, aten.bitwise_not}


_MADE = {aten.empty, aten.zeros, aten.ones, aten.full, aten.eye, aten.randn}
LARGE = 2**10  # numbers of a tensor that is made of nothing; a smaller one is real


class StandIns(TorchDispatchMode):
    """Answers what is asked of fake tensors' numbers; see the module's text. Large tensors are made fake, too."""

    def __init__(self, fake: Any) -> None:
        super().__init__()
        self.fake = fake

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, or answer for it."""
        kwargs = kwargs or {}
        if not any(_is_fake(one) for one in tree_leaves((args, kwargs))):
            if func.overloadpacket in _MADE and _size(func, args) > LARGE:
                with self.fake:
                    return func(*args, **kwargs)
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return _number(args[0])
        if func in (aten.equal.default, aten.allclose.default):
            return True
        if func is aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in _places(index)])
        found = func(*args, **kwargs)
        if isinstance(found, Tensor) and found.dtype == torch.bool and _is_fake(found):
            given = [one for one in tree_leaves(args) if isinstance(one, Tensor)]
            object.__setattr__(found, "_taken", _taken(func.overloadpacket, given))
        return found


def _size(operation: Any, args: Any) -> int:
    """How many numbers a tensor has that is made of nothing."""
    if operation.overloadpacket is aten.eye:
        return int(args[0] * args[-1])
    return math.prod(args[0])


def _is_fake(value: Any) -> bool:
    return isinstance(value, Tensor) and type(value).__name__ == "FakeTensor"


def _number(tensor: Any) -> bool | int | float:
    if tensor.constant is not None:  # made from a number in the program
        return tensor.constant.item()  # type: ignore[no-any-return]
    if tensor.dtype == torch.bool:
        return _holds(tensor)
    return 0.0 if tensor.dtype.is_floating_point else 0


def _holds(tensor: Any) -> bool:
    """Whether a condition is taken to hold, everywhere alike; of a real tensor, whether it holds anywhere."""
    if not _is_fake(tensor):
        return bool(tensor.any())
    if tensor.constant is not None:
        return bool(tensor.constant.any())
    return bool(getattr(tensor, "_taken", False))


def _taken(operation: Any, given: list[Tensor]) -> bool:
    """What is taken to hold of a condition that was made of these."""
    if operation in (aten.eq, aten.ne) and len(given) == 2 and given[0] is given[1]:
        return operation is aten.eq  # how PyTorch asks whether a number is one
    if operation in _TAKEN:
        return _TAKEN[operation]
    conditions = [_holds(one) for one in given if one.dtype == torch.bool]
    if operation in _NOT:
        return not conditions[0]
    if operation in _ANY:
        return any(conditions)
    return all(conditions) if operation in _ALL else any(conditions[:1])


def _places(index: Tensor | None) -> list[Tensor | None]:
    """An index without conditions: where a condition holds, or everywhere if that cannot be known."""
    if index is None or index.dtype not in (torch.bool, torch.uint8):
        return [index]
    known = torch.ones(index.shape, dtype=torch.bool) if _is_fake(index) else index
    return [*known.nonzero().unbind(1)]
