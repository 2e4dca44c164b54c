"""SPHERE: take out of an edit what moves along the weight's own principal directions (PlusLabNLP, in EasyEdit).

With every output's weights scaled to length 1, V = W / |W_column|, the left singular vectors U of V that hold `share`
of its squared length are the key directions that the outputs as a whole read most; of a change dW,

    dW := dW - alpha U U' dW

so what the layer says to keys along U changes less, and with alpha = 1 not at all. It acts on the keys' side, which is
the rows of dW here and the columns in PyTorch's layout: EasyEdit's code takes the size of its second axis for the
keys' in any layout, so that it projects the outputs of GPT-2's transposed weights. The rank does not grow.

When not to use it: on an exact edit (ROME) it breaks the equation that made it exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from editing.delta import Delta
from editing.edit import Edit
from editing.restraint import RestraintSpec
from factscope.errors import EditError


@dataclass(frozen=True)
class Config:
    """Both are the authors'."""

    share: float = 0.5  # of the squared length of the scaled weight that U holds
    alpha: float = 0.5  # how much of what lies along U is taken out


def check(_: Mapping[str, Tensor], config: Config) -> None:
    """Raise EditError for shares outside [0, 1]."""
    for name in ("share", "alpha"):
        if not 0 <= getattr(config, name) <= 1:
            raise EditError(f"sphere's {name} is a share between 0 and 1, not {getattr(config, name):g}")


def restrain(edit: Edit, weights: Mapping[str, Tensor], config: Config) -> Edit:
    """The edit without part of what lies along the weights' principal directions; EditError as in `check`."""
    check(weights, config)
    deltas, said = [], []
    for delta in edit.deltas:
        along = principal(weights[delta.weight].detach().double().cpu(), config.share)
        if delta.low_rank and delta.left is not None:
            held = replace(delta, left=_less(delta.left.double(), along, config.alpha).float())
        else:
            held = Delta(delta.weight, _less(delta.dense(), along, config.alpha).float())
        deltas.append(held)
        lost = 1 - float(held.dense().norm() / delta.dense().norm().clamp_min(1e-300))
        said.append(f"{delta.weight}: {along.shape[1]} directions, {lost:.1%} of the change's norm taken out")
    name = f"sphere {config.share:g} {config.alpha:g}"
    return replace(
        edit, deltas=tuple(deltas), restraints=(*edit.restraints, name), notes=(*edit.notes, *said), digest=""
    )


def _less(part: Float[Tensor, "d_in n"], along: Float[Tensor, "d_in some"], alpha: float) -> Float[Tensor, "d_in n"]:
    return part - alpha * along @ (along.T @ part)


def principal(matrix: Float[Tensor, "d_in d_out"], share: float) -> Float[Tensor, "d_in some"]:
    """Orthonormal key directions: the fewest that hold `share` of the column-scaled weight's squared length."""
    scaled = matrix / matrix.norm(dim=0, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)
    left, values, _ = torch.linalg.svd(scaled, full_matrices=False)
    held = values.square().cumsum(0) / values.square().sum()
    fewest: Tensor = left[:, : min(int((held < share).sum()) + 1, len(values))]
    return fewest


RESTRAINT = RestraintSpec(
    "sphere", "less along the key directions that the weight itself reads most", Config, check, restrain
)
