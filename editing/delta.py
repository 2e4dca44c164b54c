"""The change of one weight: two thin factors, or a whole matrix where every direction moves."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Delta:
    """The change of one weight W [d_in, d_out], in TransformerLens's orientation and added to it: left @ right.

    Attention's weights, which have an axis of heads, are changed as matrices (`factscope.model.weights.as_matrix`).
    Without `left`, `right` is the whole change (fine-tuning moves every direction). `keep`, from RECT, is one bit an
    entry: the entries whose bit is 0 stay as they were.
    """

    weight: str  # TransformerLens's name, blocks.6.mlp.W_out
    right: Float[Tensor, "rank d_out"]
    left: Float[Tensor, "d_in rank"] | None = None
    keep: UInt8[Tensor, "bytes"] | None = None

    def dense(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "d_in d_out"]:
        """The whole change; computed in float64, then cast."""
        change = self.right.double() if self.left is None else self.left.double() @ self.right.double()
        if self.keep is not None:
            change = change * unpacked(self.keep, change.numel()).view_as(change)
        return change.to(dtype)

    @property
    def low_rank(self) -> bool:
        """Whether the factors say everything about it."""
        return self.left is not None and self.keep is None


def summed(deltas: Sequence[Delta]) -> tuple[Delta, ...]:
    """One change for each weight, the sum of those that it has among these; thin while thin ones are."""
    names = dict.fromkeys(delta.weight for delta in deltas)
    return tuple(_sum([delta for delta in deltas if delta.weight == name]) for name in names)


def _sum(deltas: Sequence[Delta]) -> Delta:
    if len(deltas) == 1:
        return deltas[0]
    if all(delta.low_rank for delta in deltas):
        left = torch.cat([delta.left for delta in deltas if delta.left is not None], 1)
        right = torch.cat([delta.right for delta in deltas])
        if left.shape[1] < min(left.shape[0], right.shape[1]):
            return Delta(deltas[0].weight, right, left)
    total = deltas[0].dense()
    for delta in deltas[1:]:
        total = total + delta.dense()
    return Delta(deltas[0].weight, total.float())


def packed(mask: Tensor) -> UInt8[Tensor, "bytes"]:
    """One bit an entry, row after row, the first in the highest bit; the last byte is filled with zeros."""
    bits = mask.reshape(-1).to(torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    return (bits << torch.arange(7, -1, -1, dtype=torch.uint8)).sum(1).to(torch.uint8)


def unpacked(mask: UInt8[Tensor, "bytes"], count: int) -> Tensor:
    """The bits again, as booleans."""
    return (mask[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8) & 1).reshape(-1)[:count].bool()
