"""Edits that mean nothing, as large as one that does: what would have changed anyway?

A null changes the same weights by the same singular values, so it has the edit's norm and rank, and only its directions
are drawn at random. It is an `Edit` like any other: applied, undone, saved, and refused by another model.

    directions   both sides are random: it answers to inputs at random and writes at random. The broad null: does any
                 perturbation of this size in these weights do what the edit does?
    values       it answers to the edit's own inputs, and only what it writes is random. The narrow null: at the same
                 place and of the same size, does the content matter?

A random direction in a thousand dimensions hardly meets any input, so the broad null is easily beaten; the narrow one
is not. Orthonormal directions are the Q of a Gaussian matrix with R's signs taken out, which is Haar's distribution.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from editing.bypass import KINDS
from editing.delta import Delta
from editing.edit import Edit
from editing.spectrum import factored
from factscope.errors import EditError

SCRAMBLES = {
    "directions": "same weights and singular values, random directions",
    "values": "same weights, singular values and inputs, random outputs",
}


def scrambled(edit: Edit, seed: int, kind: str = "directions") -> Edit:
    """A null of `edit`: see the module's text. EditError for an unknown kind."""
    if kind not in SCRAMBLES:
        raise EditError(f"there is no scramble {kind!r}; choose {' or '.join(SCRAMBLES)}")
    generator = torch.Generator().manual_seed(seed)
    deltas = tuple(_scrambled(delta, generator, kind) for delta in edit.deltas)
    bypasses = tuple(KINDS.get(part.kind).scrambled(part, generator, kind == "directions") for part in edit.bypasses)
    return replace(
        edit,
        method=f"scrambled {edit.method}",
        deltas=deltas,
        bypasses=bypasses,
        met=(),
        seed=seed,
        reports=(),
        curve=None,
        notes=(f"a null of edit {edit.name}: {SCRAMBLES[kind]}",),
        run=None,
        digest="",
    )


def _scrambled(delta: Delta, generator: torch.Generator, kind: str) -> Delta:
    left, values, right = factored(delta)
    if kind == "directions":
        left = random_frame(left.shape[0], left.shape[1], generator)
    right = random_frame(right.shape[1], right.shape[0], generator).T
    if delta.low_rank:
        return Delta(delta.weight, _rows(right), _rows(left * values))
    return Delta(delta.weight, _rows((left * values) @ right))


def _rows(matrix: Tensor) -> Tensor:
    """In float32, laid out row by row: of a matrix of one column torch would keep any stride."""
    return matrix.float().contiguous().flatten().view(matrix.shape)


def random_frame(size: int, count: int, generator: torch.Generator) -> Float[Tensor, "size count"]:
    """So many orthonormal columns, every direction as likely as any other; float64."""
    frame, triangle = torch.linalg.qr(torch.randn(size, count, generator=generator, dtype=torch.float64))
    signed: Tensor = frame * triangle.diagonal().sign()
    return signed
