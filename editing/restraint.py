"""Restraints: make an edit, or a whole stack of edits, gentler after the fact. One file each, found by listing.

A restraint's file has a `Config`, `check(weights, config)`, which refuses before anything is computed, and
`restrain(edit, weights, config) -> Edit`; `weights` are the model's own before any edit. `restrained` takes a stack
and gives one edit that replaces it.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from editing import restraints
from editing.edit import Edit, base_of, in_place, merged
from factscope.errors import EditError
from factscope.model.weights import live_weights


def restraint_names() -> tuple[str, ...]:
    """All restraints, by listing the folder."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(restraints.__path__)))


def restraint(name: str) -> Any:
    """The module of a restraint; EditError, with the names there are, if there is none."""
    if name not in restraint_names():
        raise EditError(f"there is no restraint {name!r}; choose one of {', '.join(restraint_names())}")
    return importlib.import_module(f"editing.restraints.{name}")


def restrained(model: Any, edits: Sequence[Edit], name: str, config: Any = None) -> Edit:
    """One edit that does what the stack does, restrained; the model is only read.

    Raises EditError: edits in place, an edit of another model, and whatever the restraint refuses.
    """
    module = restraint(name)
    if in_place(model):
        raise EditError("take the edits that are in place out first: a restraint compares with the weights before them")
    stack = merged(edits)
    if base_of(model) != stack.base:
        raise EditError(f"edit {stack.name} was made for another model ({stack.model}): load that one")
    edit: Edit = module.restrain(stack, live_weights(model), config or module.Config())
    return edit
