"""A device that is not there: tensors of it compute on the CPU, and refuse to meet the CPU's as a GPU's would.

`pretended(model)` moves a model there for a block. What is made there (`torch.zeros(..., device=device(model))`), moved
there (`.to(device(model))`) or computed from what is there is a `Pretend`; `.cpu()` and `.to("cpu")` bring it back. A
function that is given tensors of both raises, but where PyTorch allows it: copies, indices on the CPU, and numbers
(tensors without axes) beside larger ones. `.numpy()` is refused.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

PRETENDED = torch.device("mps", 0)  # a name that this PyTorch knows and starts nothing for
CPU = torch.device("cpu")
COPIES = {Tensor.copy_, Tensor.to, Tensor.cpu, Tensor.type_as, Tensor.__getitem__, torch.index_select}
COPIES |= {torch.autograd.grad}  # a gradient goes where it must
GRADIENT = torch._C.TensorBase.__dict__["grad"].__get__
PROPERTIES = {"__get__", "__set__"}
PACKING = {"_pack_padded_sequence", "_pad_packed_sequence", "lstm"}  # rows of any device with lengths on the CPU
# PyTorch mixes a number of the CPU with larger tensors of another device in arithmetic, not where tensors are joined.
JOINS = {torch.cat, torch.stack, torch.index_add, Tensor.index_add, Tensor.index_add_, Tensor.scatter_add_}


class Pretend(Tensor):
    """A tensor of the device that is not there."""

    device = PRETENDED

    def __format__(self, how: str) -> str:
        """As PyTorch formats a number on any device."""
        return format(self.item(), how) if self.dim() == 0 else object.__format__(self, how)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Refuse tensors of two devices; give the result where the function leaves it."""
        kwargs = kwargs or {}
        if func is Tensor.numpy or func is Tensor.__array__:
            raise TypeError("can't convert a tensor of a device to numpy; use .cpu() first")
        if func not in COPIES and getattr(func, "__name__", "") not in PROPERTIES | PACKING:
            refuse_mixed(func, args, kwargs)
        args, kwargs, place = _on_cpu(func, args, kwargs)
        found = super().__torch_function__(func, types, args, kwargs)
        if func == GRADIENT and isinstance(found, Tensor):
            return moved(found, PRETENDED)
        if getattr(func, "__name__", "") == "_pack_padded_sequence":
            return moved(found[0], PRETENDED), moved(found[1], CPU)
        return moved(found, place) if place is not None else found


def refuse_mixed(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """RuntimeError where tensors of two devices meet."""
    if func is Tensor.__setitem__:
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        if not any(isinstance(one, Tensor) for one in index):
            return  # a copy
        args = (args[0], args[2])  # indices may be on the CPU
    given = list(_tensors((args, kwargs)))
    here = [one for one in given if isinstance(one, Pretend)]
    least = 0 if func in JOINS else 1
    there = [one for one in given if not isinstance(one, Pretend) and one.dim() >= least]
    if here and there:
        shapes = ", ".join(f"{tuple(one.shape)} on {one.device}" for one in (*here, *there))
        raise RuntimeError(f"{getattr(func, '__name__', func)} is given tensors of two devices: {shapes}")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _on_cpu(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], torch.device | None]:
    """The arguments with the CPU in the place of a device, and that device; None where none is named."""
    place: torch.device | None = None
    if func is Tensor.cpu:
        place = CPU
    if func is Tensor.type_as or (func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor)):
        place = PRETENDED if isinstance(args[1], Pretend) else CPU
        args = (args[0], args[1].as_subclass(Tensor), *args[2:])

    def replaced(value: Any, named: bool) -> Any:
        nonlocal place
        is_device = isinstance(value, torch.device) or (isinstance(value, str) and (named or func is Tensor.to))
        if not is_device:
            return value
        place = PRETENDED if torch.device(value).type == PRETENDED.type else torch.device(value)
        return CPU

    args = tuple(replaced(one, False) for one in args)
    return args, {name: replaced(one, name == "device") for name, one in kwargs.items()}, place


def moved(value: Any, place: torch.device) -> Any:
    """A tensor, or several, as tensors of this device."""
    if isinstance(value, Tensor):
        return value.as_subclass(Pretend if place == PRETENDED else Tensor)
    if isinstance(value, tuple | list):
        return type(value)(moved(one, place) for one in value)
    return value


class _Made(TorchFunctionMode):
    """Functions that are given no tensor of the device, but are told to make or move one."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(isinstance(one, Pretend) for one in _tensors((args, kwargs or {}))):
            return func(*args, **(kwargs or {}))
        if func in (torch.device, Tensor.__torch_function__):
            return func(*args, **(kwargs or {}))
        args, kwargs, place = _on_cpu(func, args, kwargs or {})
        found = func(*args, **kwargs)
        return moved(found, place) if place == PRETENDED else found


@contextlib.contextmanager
def pretended(model: Any) -> Iterator[Any]:
    """The model on the device that is not there, with the same numbers; on the CPU again after the block."""
    modules = [*model.modules()] if isinstance(model, nn.Module) else []
    modules += [one for one in model.original_model.modules() if one not in set(modules)]
    with _there(modules):
        yield model


@contextlib.contextmanager
def spread(model: Any) -> Iterator[Any]:
    """The model with the upper half of its blocks on the device that is not there, as accelerate spreads one.

    Each block, and what follows the last, brings what it is given to its own device.
    """
    blocks, first = list(model.blocks), len(model.blocks) // 2
    places = [PRETENDED if number >= first else CPU for number in range(len(blocks))]
    parts = [*zip(blocks, places, strict=True), (model.ln_final, CPU), (model.unembed, CPU)]
    wrapped = [(part.original_component, place) for part, place in parts]
    try:
        for inner, place in wrapped:
            inner.forward = _bringing(inner.forward, place)
        with _there([one for block in blocks[first:] for one in block.modules()]):
            yield model
    finally:
        for inner, _ in wrapped:
            inner.__dict__.pop("forward", None)


def _bringing(forward: Callable[..., Any], place: torch.device) -> Callable[..., Any]:
    def brought(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(place)
        if isinstance(value, tuple | list):
            return type(value)(map(brought, value))
        return value

    def call(*given: Any, **named: Any) -> Any:
        return forward(*map(brought, given), **{name: brought(value) for name, value in named.items()})

    return call


@contextlib.contextmanager
def _there(modules: list[Any]) -> Iterator[None]:
    """These modules on the device that is not there, for the block."""
    places: list[dict[str, Any]] = [place for one in modules for place in (one._parameters, one._buffers)]
    kept = [(place, dict(place)) for place in places]
    made: dict[int, Any] = {}

    def there(tensor: Tensor | None) -> Any:
        if tensor is None:
            return None
        if id(tensor) not in made:
            found = tensor.data.as_subclass(Pretend)
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(found, requires_grad=tensor.requires_grad) if is_parameter else found
        return made[id(tensor)]

    try:
        for place, values in kept:
            place.update({name: there(tensor) for name, tensor in values.items()})
        with _Made(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="at::frobenius_norm")  # PyTorch's own way on devices like this
            yield
    finally:
        for place, values in kept:
            place.update(values)
