"""Where circuits lie, averaged: the share of each layer's heads and MLPs that are in them, and the answer's way up.

One circuit's layers say little; over the relations of a domain a shape appears (Knowledge Circuits, Fig. 2: early MLPs
and some late heads; Fig. 3 and 6: the answer's rank and probability after each layer). Ranks are averaged as
logarithms, all else as it is; the error is the standard error over circuits, NaN for a single one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.analysis.head_roles import Roles
from factscope.errors import UserError
from factscope.plots.show import shown
from factscope.results.result import Result


@dataclass(frozen=True, eq=False)
class Mean:
    """An average over circuits, with its standard error."""

    value: Float[Tensor, " layer"]
    error: Float[Tensor, " layer"]

    @classmethod
    def of(cls, rows: Sequence[Tensor], log: bool = False) -> "Mean":
        """Mean of rows of one length; with `log` the geometric one, whose error is of the logarithm."""
        stacked = torch.stack([row.double() for row in rows])
        stacked = stacked.log() if log else stacked
        error = stacked.std(0) / len(rows) ** 0.5 if len(rows) > 1 else torch.full_like(stacked[0], torch.nan)
        return cls((stacked.mean(0).exp() if log else stacked.mean(0)).float(), error.float())


@shown("circuits.pages.layers")
@dataclass(frozen=True, eq=False)
class Profile(Result):
    """Several circuits' layers."""

    names: tuple[str, ...]
    prompts: tuple[str, ...]
    active_heads: Mean  # [layer], share of the layer's heads
    active_mlps: Mean  # [layer], share of the circuits that hold this MLP
    curves: dict[str, Mean]  # [state], 0 is the embedding; the names of `Roles.curves`


def profile(names: Sequence[str], found: Sequence[Roles]) -> Profile:
    """Average what the roles of several circuits say about layers.

    Raises UserError if there is none, or they are of models of different weights.
    """
    if not found:
        raise UserError("there is no circuit with roles to average; find some without --no-evaluate")
    models = {roles.run.fingerprint if roles.run else "" for roles in found}
    if len(models) > 1:
        raise UserError(f"these circuits are of {len(models)} models with other weights, whose layers do not compare")
    shared = [name for name in found[0].curves if all(name in roles.curves for roles in found)]
    return Profile(
        tuple(names),
        tuple(roles.prompt for roles in found),
        Mean.of([roles.active_heads for roles in found]),
        Mean.of([roles.active_mlps for roles in found]),
        {name: Mean.of([roles.curves[name] for roles in found], log=name.startswith("rank")) for name in shared},
    )
