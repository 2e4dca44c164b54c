"""Which module of plain transformers holds a changed weight, and where in it.

TransformerLens runs the model's own modules, but for queries, keys and values that an architecture keeps in one matrix:
these it splits into three copies, and runs the copies. Where in the one matrix a copy's columns belong differs from
architecture to architecture, so it is not looked up but found: by their values, on the unedited model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from factscope.errors import EditError
from factscope.model.bridge import Bridge, architecture
from factscope.model.weights import WeightName, as_matrix, live_weights

WRAPPED = "._original_component"  # TransformerLens's name for the module inside its own


@dataclass(frozen=True, eq=False)
class Place:
    """A module of plain transformers, and which of its output's coordinates a weight's columns are; None: all."""

    module: str
    columns: Tensor | None = None


def place_of(model: Bridge, plain: Any, weight: str) -> Place:
    """Where `plain`, the same architecture in plain transformers, keeps a weight of `model`, which is unedited.

    EditError where it is not to be found.
    """
    name = WeightName.of(weight)
    room, _, letter = name.part.partition(".W_")
    part = getattr(model.blocks[name.layer], room, None)
    held = getattr(getattr(part, letter.lower(), None), "original_component", None)
    if held is None:
        raise EditError(f"layer {name.layer} has experts in the place of one {name.part}, so it cannot be exported")
    module = _name(model, plain, held)
    if module is not None:
        return Place(module)
    fused = getattr(getattr(part, "qkv", None), "original_component", None)
    module = None if fused is None else _name(model, plain, fused)
    if module is None:
        raise EditError(f"this architecture ({architecture(model)}) has no module for {weight} alone to be exported to")
    whole = _by_output(fused)
    at: dict[bytes, int] = {_bytes(row): index for index, row in enumerate(whole)}
    found = [at.get(_bytes(row), -1) for row in as_matrix(weight, live_weights(model)[weight]).T]
    if -1 in found or len(set(found)) < len(found):
        raise EditError(f"the columns of {weight} are not to be told apart in {module}, so it cannot be exported")
    return Place(module, torch.tensor(found))


def _name(model: Bridge, plain: Any, held: Any) -> str | None:
    """What `plain` calls a module of `model`; TransformerLens knows it under several names."""
    known = {name for name, _ in plain.named_modules()}
    every = model.original_model.named_modules(remove_duplicate=False)
    return next((n for name, each in every if each is held and (n := name.replace(WRAPPED, "")) in known), None)


def _by_output(module: Any) -> Float[Tensor, "d_out d_in"]:
    """A module's weight, a row for each coordinate of its output."""
    weight: Tensor = module.weight.data
    return weight.T if isinstance(module, Conv1D) else weight


def _bytes(row: Tensor) -> bytes:
    return row.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes()


@torch.no_grad()
def write_fused(model: Bridge, plain: Any, places: Mapping[str, Place]) -> None:
    """Write what `model` now runs into the matrices of `plain` in which queries, keys and values are one."""
    weights = live_weights(model)
    for weight, place in places.items():
        if place.columns is not None:
            whole = _by_output(plain.get_submodule(place.module))
            whole[place.columns.to(whole.device)] = as_matrix(weight, weights[weight]).T.to(whole)
