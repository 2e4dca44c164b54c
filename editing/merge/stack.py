"""A stack of edits as one edit: the factors of each weight side by side, and what stands beside them joined."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from editing.delta import Delta
from editing.edit import Edit, together
from editing.scope import joined
from factscope.errors import EditError


def check_weights(edits: Sequence[Edit], why: str) -> None:
    """EditError where an edit is not of the weights; `why` says what needs weights, as in "an export holds weights"."""
    for edit in edits:
        if edit.preface:
            raise EditError(f"an in-context edit ({edit.name}) changes no weight, and {why}: leave it out")
        if edit.bypasses:
            raise EditError(f"edit {edit.name} by {edit.method} stands beside the weights, and {why}: leave it out")


def merged(edits: Sequence[Edit]) -> Edit:
    """One edit that does what a stack of them does: the factors of each weight side by side."""
    if not edits:
        raise EditError("there is no edit to merge")
    if len({edit.base for edit in edits}) > 1:
        raise EditError("these edits were made for different models, so they do not stack")
    if len(edits) == 1:
        return edits[0]
    names = list(dict.fromkeys(delta.weight for edit in edits for delta in edit.deltas))
    deltas = tuple(_sum([d for edit in edits for d in edit.deltas if d.weight == name]) for name in names)
    kept = dict.fromkeys(name for edit in edits for name in edit.memory)
    return replace(
        edits[0],
        method="+".join(dict.fromkeys(edit.method for edit in edits)),
        config={edit.name: edit.config for edit in edits},
        requests=tuple(one for edit in edits for one in edit.requests),
        former=(),
        deltas=deltas,
        below=(),
        reports=(),
        rows=(),
        curve=None,
        restraints=tuple(name for edit in edits for name in edit.restraints),
        preface="".join(edit.preface for edit in edits),
        scope=joined([edit.scope for edit in edits if edit.preface]),
        memory={name: torch.cat([edit.memory[name] for edit in edits if name in edit.memory]) for name in kept},
        bypasses=tuple(together(edits)),
        met=(),
        notes=(f"a stack of {len(edits)} edits: {', '.join(edit.name for edit in edits)}",),
        digest="",
    )


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
