"""PRUNE: hold the singular values of an accumulated update to the size of the weight's own (Ma et al. 2024).

With s_max the largest singular value of the weight before any edit, each singular value s > s_max of the update becomes

    log       log_alpha(s) - log_alpha(s_max) + s_max
    linear    (s + s_max) / 2

and smaller ones stay. Applied once, after the last edit. The logarithm restrains only where its slope at s_max,
1 / (s_max ln alpha), is at most 1; below that it makes singular values just above s_max larger, so it is refused there.

When not to use it: a few edits of a small model hardly ever exceed s_max; then it changes nothing, and says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from editing.delta import Delta
from editing.edit import Edit
from editing.restraint import RestraintSpec
from editing.spectrum import factored
from editing.weights.extremes import largest
from factscope.errors import EditError


@dataclass(frozen=True)
class Config:
    """The authors' code offers alpha = e, 2, 1.5 and 1.2; which one made their tables is not said."""

    mode: str = "log"  # or "linear"
    alpha: float = math.e  # base of the logarithm


def check(weights: Mapping[str, Tensor], config: Config) -> None:
    """Raise EditError where these weights, before any edit, and this configuration do not fit."""
    for weight in weights.values():
        hold(torch.zeros(1), largest(weight), config)


def restrain(edit: Edit, weights: Mapping[str, Tensor], config: Config) -> Edit:
    """The edit with every delta's spectrum held; EditError where the logarithm would amplify."""
    deltas, said = [], []
    for delta in edit.deltas:
        top = largest(weights[delta.weight])
        left, values, right = factored(delta)
        above = int((values > top).sum())
        if not above:
            deltas.append(delta)
            said.append(f"{delta.weight}: unchanged, largest {float(values[0]):.3g} is below {top:.3g}")
            continue
        held = hold(values, top, config)
        deltas.append(Delta(delta.weight, right.float(), (left * held).float()))
        said.append(
            f"{delta.weight}: {above} singular values above {top:.3g} held, {values[0]:.3g} -> {held.max():.3g}"
        )
    name = f"prune {config.mode}" + (f" base {config.alpha:.4g}" if config.mode == "log" else "")
    return replace(
        edit, deltas=tuple(deltas), restraints=(*edit.restraints, name), notes=(*edit.notes, *said), digest=""
    )


def hold(values: Float[Tensor, " rank"], top: float, config: Config) -> Float[Tensor, " rank"]:
    """Singular values after PRUNE with s_max = `top`: monotone, continuous at s_max, the identity below it."""
    if config.mode not in ("log", "linear"):
        raise EditError(f"prune has no mode {config.mode!r}; choose log or linear")
    if config.mode == "linear":
        return torch.where(values > top, (values + top) / 2, values)
    if config.alpha <= 1 or top * math.log(config.alpha) < 1:
        need = math.exp(1 / top)
        raise EditError(
            f"a logarithm of base {config.alpha:.4g} would make singular values above s_max = {top:.3g} larger, not "
            f"smaller; give --set restrain.alpha={need:.3g} or more, or --set restrain.mode=linear"
        )
    logs = (values.clamp_min(1e-300).log() - math.log(top)) / math.log(config.alpha) + top
    return torch.where(values > top, logs, values)


RESTRAINT = RestraintSpec(
    "prune", "no singular value of the sum above those of the weight itself", Config, check, restrain
)
