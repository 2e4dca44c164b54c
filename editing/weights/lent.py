"""Weights lent to a computation: to be written into, or held in float32; bitwise back when it ends, however it ends."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

import torch
from torch import Tensor

from factscope.errors import EditError
from factscope.model.bridge import Bridge, device
from factscope.model.forward.widened import most_added, widened
from factscope.model.source.room import free
from factscope.model.weights import live_weights


@contextmanager
def borrowed(model: Bridge, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The live tensors of these weights, to write into; restored bitwise when the block ends, however it ends."""
    weights = live_weights(model)
    saved = {name: weights[name].detach().clone() for name in names}
    try:
        yield {name: weights[name] for name in names}
    finally:
        with torch.no_grad():
            for name, tensor in saved.items():
                weights[name].copy_(tensor)


@contextmanager
def in_float32(model: Bridge, written: Sequence[str] | None = None) -> Iterator[None]:
    """Compute in float32 on a model held in half precision, with a warning; back bitwise afterwards.

    `written` names the weights that are written into, for work that runs the model's modules and does no more: then
    no float32 copy of the model is made (factscope/model/forward/widened.py), and the numbers are the same.
    """
    dtype = next(model.parameters()).dtype
    if dtype.itemsize >= 4:
        yield
        return
    whole = sum(parameter.numel() for parameter in model.parameters()) * (4 - dtype.itemsize)
    _check_room(model, whole if written is None else most_added(model, written))
    warnings.warn(f"the model is in {str(dtype)[6:]}; the edit is computed in float32", stacklevel=3)
    if written is not None:
        with widened(model, written):
            yield
        return
    configured = model.cfg.dtype
    _to(model, torch.float32)  # exact: every half-precision number is a float32 number
    try:
        yield
    finally:
        _to(model, dtype)
        model.cfg.dtype = configured


def _check_room(model: Bridge, more: int) -> None:
    """EditError where so many bytes do not fit beside the model, which is told before any work."""
    place, room = str(device(model)), free(str(device(model)))
    if room is not None and more > room:
        raise EditError(
            f"an edit is computed in float32, for which this model needs {more / 1e9:.3g} GB more on {place}, and "
            f"{room / 1e9:.3g} are free: edit it with --device cpu on a machine with more memory; the edit's folder "
            "works wherever the model does"
        )


def _to(model: Bridge, dtype: torch.dtype) -> None:
    with redirect_stdout(io.StringIO()):  # TransformerLens says there what it does, and that is where results go
        model.to(dtype)
