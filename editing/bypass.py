"""Beside a projection: what an edit writes there where a gate opens, with no weight changed.

A `Bypass` is numbers without behaviour: of which kind it is, at which layer, and its tensors. What a kind does stands
in `editing/bypasses/KIND.py`: how the bypasses of several edits are joined into one, and how the joined one writes. It
reads what the down-projection reads, x, and rewrites what the down-projection writes, y. A gate decides once for each
row, at the prompt's last token and from what stands there and before it (`factscope.model.forward.ends`), so that what
is scored and what is generated are answers of one and the same model. Where no gate opens, y is handed on untouched:
the model is bitwise the one without the edit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from editing import bypasses
from factscope.catalogue import Catalogue
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.ends import Ends, ends_of
from factscope.model.sites import Site
from factscope.model.weights import key_width

Write = Callable[[Tensor, Tensor, Ends], Tensor | None]  # x, y, where prompts end -> y, or None where nothing opens


@dataclass(frozen=True, eq=False)
class Bypass:
    """What stands beside the down-projection of one layer."""

    kind: str  # a file of editing/bypasses
    layer: int
    tensors: dict[str, Float[Tensor, "..."]]  # float32, on the CPU
    numbers: dict[str, float]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class BypassKind:
    """What one kind of bypass does."""

    name: str  # as its file
    about: str  # what it is, in a sentence for cards and pages
    shapes: dict[str, tuple[str, ...]]  # of its tensors; "d_in" and "d_out" are the projection's
    join: Callable[[Sequence[Bypass]], Bypass]  # several edits' at one layer, in order; EditError where they disagree
    writer: Callable[[Bypass], Write]
    scrambled: Callable[[Bypass, torch.Generator, bool], Bypass]  # a random memory as large; with True, gate too


KINDS = Catalogue("kind of bypass", bypasses, "KIND", BypassKind, EditError)


def check(part: Bypass, model: Bridge, name: str) -> None:
    """EditError unless the model has the layer, and the tensors the shapes that its projection asks for, all finite."""
    shapes = KINDS.get(part.kind).shapes
    if not 0 <= part.layer < len(model.blocks):
        raise EditError(f"edit {name} stands beside layer {part.layer}, which this model does not have")
    widths = {"d_in": key_width(model, part.layer), "d_out": int(model.cfg.d_model)}
    for key, dims in shapes.items():
        tensor = part.tensors.get(key)
        wanted = tuple(widths.get(dim, -1) for dim in dims)
        if tensor is None or len(tensor.shape) != len(wanted):
            raise EditError(f"edit {name} has no {key} of {len(wanted)} dimensions beside layer {part.layer}")
        if any(want not in (-1, size) for want, size in zip(wanted, tensor.shape, strict=True)):
            raise EditError(
                f"the {key} of edit {name} are {tuple(tensor.shape)}, and layer {part.layer} asks for {wanted}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise EditError(f"edit {name} has numbers that are not finite beside layer {part.layer}; compute it again")


def join(parts: Sequence[Bypass]) -> list[Bypass]:
    """One bypass for each layer and kind: later edits of one kind go on from earlier ones."""
    ordered = sorted(parts, key=lambda part: (part.layer, part.kind))  # stable: edits stay in order
    return [
        KINDS.get(kind).join(list(some)) for (_, kind), some in groupby(ordered, lambda part: (part.layer, part.kind))
    ]


def functions(parts: Sequence[Bypass]) -> list[tuple[Site, Callable[[Tensor], Tensor | None]]]:
    """The hooks of joined bypasses, to stand in the model."""
    return [hook for part in parts for hook in _pair(part, KINDS.get(part.kind).writer(part))]


def _pair(part: Bypass, write: Write) -> list[tuple[Site, Callable[[Tensor], Tensor | None]]]:
    read: list[Tensor] = []

    def reading(x: Tensor) -> None:
        read[:] = [x]

    def writing(y: Tensor) -> Tensor | None:
        (x,) = read
        read.clear()
        return write(x, y, ends_of(y.shape[0], y.shape[1]))

    return [(Site("mlp_hidden", part.layer), reading), (Site("mlp_write", part.layer), writing)]
