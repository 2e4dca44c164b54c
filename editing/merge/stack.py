"""A stack of edits as one edit: the factors of each weight side by side, and what stands beside them joined."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from editing.delta import summed
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
    kept = dict.fromkeys(name for edit in edits for name in edit.memory)
    return replace(
        edits[0],
        method="+".join(dict.fromkeys(edit.method for edit in edits)),
        config={edit.name: edit.config for edit in edits},
        requests=tuple(one for edit in edits for one in edit.requests),
        former=(),
        deltas=summed([delta for edit in edits for delta in edit.deltas]),
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
