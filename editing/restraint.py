"""Restraints: make an edit, or a whole stack of edits, gentler after the fact.

A restraint is one file with a `Config`, its functions and one `RESTRAINT = RestraintSpec(...)`; found by listing the
folder `editing/restraints` and the entry-point group `factscope.restraints`. `restrained` takes a stack of edits and
gives one edit that replaces it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from editing import restraints
from editing.edit import Edit, base_of, in_place
from editing.merge.stack import check_weights, merged
from factscope.catalogue import Catalogue
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.weights import as_matrix, live_weights
from factscope.settings import Settings, configured

Weights = Mapping[str, Tensor]  # the model's own, before any edit, by name


@dataclass(frozen=True)
class RestraintSpec:
    """One restraint."""

    name: str  # as its file
    about: str  # one line for --help
    Config: type[Any]  # a frozen dataclass; every field has a default
    check: Callable[[Weights, Any], None]  # refuses what cannot work, before anything is computed
    restrain: Callable[[Edit, Weights, Any], Edit]

    def config_for(self, settings: Settings = ()) -> Any:
        """The configuration with these settings; SettingError for a name that does not exist or a wrong value."""
        return configured(self.Config, settings)


RESTRAINTS = Catalogue("restraint", restraints, "RESTRAINT", RestraintSpec, EditError)


def restraint(name: str | RestraintSpec) -> RestraintSpec:
    """The restraint of that name; EditError, with the names there are, if there is none."""
    return name if isinstance(name, RestraintSpec) else RESTRAINTS.get(name)


def restrained(model: Bridge, edits: Sequence[Edit], name: str | RestraintSpec, config: Any = None) -> Edit:
    """One edit that does what the stack does, restrained; the model is only read.

    Raises EditError: edits in place, an edit of another model, and whatever the restraint refuses.
    """
    spec = restraint(name)
    if in_place(model):
        raise EditError("take the edits that are in place out first: a restraint compares with the weights before them")
    check_weights(edits, "a restraint thins changes of weights")
    stack = merged(edits)
    if base_of(model) != stack.base:
        raise EditError(f"edit {stack.name} was made for another model ({stack.model}): load that one")
    weights = {name: as_matrix(name, weight) for name, weight in live_weights(model).items()}
    return spec.restrain(stack, weights, config or spec.Config())
