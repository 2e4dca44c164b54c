"""RECT: keep only the entries of an update that change their weight most in proportion (Gu et al. 2024).

An entry's importance is |dW / W|; the `keep` largest share of them stays, the rest are set to zero. The argument is
that small relative changes add noise for other facts and little for this one. What is kept is stored as one bit an
entry beside the factors, so the edit stays small.

When not to use it: on an exact edit (ROME) it breaks the equation that made it exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from editing.delta import Delta, packed
from editing.edit import Edit
from editing.restraint import RestraintSpec
from factscope.errors import EditError


@dataclass(frozen=True)
class Config:
    """The paper keeps 0.2 in its code, its users 0.4 (AlphaEdit's memit_rect)."""

    keep: float = 0.4


def check(_: Mapping[str, Tensor], config: Config) -> None:
    """Raise EditError for a share outside (0, 1]."""
    if not 0 < config.keep <= 1:
        raise EditError(f"rect keeps a share between 0 and 1 of the entries, not {config.keep:g}")


def restrain(edit: Edit, weights: Mapping[str, Tensor], config: Config) -> Edit:
    """The edit with the smaller relative changes left out; EditError for a share outside (0, 1]."""
    check(weights, config)
    deltas = []
    for delta in edit.deltas:
        change, matrix = delta.dense(), weights[delta.weight].detach().double().cpu()
        importance = change.abs() / (matrix.abs() + 1e-8)
        count = max(1, round(config.keep * change.numel()))
        threshold = importance.flatten().kthvalue(change.numel() - count + 1).values
        mask = importance >= threshold
        if delta.low_rank:
            deltas.append(replace(delta, keep=packed(mask)))
        else:
            deltas.append(Delta(delta.weight, (change * mask).float()))
    name = f"rect {config.keep:g}"
    return replace(edit, deltas=tuple(deltas), restraints=(*edit.restraints, name), digest="")


RESTRAINT = RestraintSpec("rect", "only the entries that change most in proportion", Config, check, restrain)
