"""A norm taken apart, so that what goes into it can be split into parts: each part at the scale of the whole.

    norm(x) = centre(x) / scale(x) * gain + bias      centre: x less its mean (LayerNorm), or x itself (RMSNorm)

With the scale held at that of the whole, a norm is linear: the parts of x give parts of norm(x), and these add up.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from factscope.model.bridge import Bridge


@dataclass(frozen=True, eq=False)
class NormParts:
    """One LayerNorm or RMSNorm, with gain w or 1 + w."""

    centres: bool
    eps: float
    gain: Tensor  # [d_model], or one number
    bias: Tensor

    @classmethod
    def of(cls, model: Bridge, norm: Any) -> "NormParts":
        """The parts of `norm`, one of the model's."""
        inner, like = norm.original_component, next(model.parameters())
        weight, bias = getattr(inner, "weight", None), getattr(inner, "bias", None)
        gain = torch.ones(1).to(like) if weight is None else weight.detach()
        eps = getattr(inner, "eps", getattr(inner, "variance_epsilon", model.cfg.eps))
        return cls(
            centres=not norm.uses_rms_norm,
            eps=float(eps),
            gain=1 + gain if norm.uses_weight_offset else gain,
            bias=torch.zeros(1).to(like) if bias is None else bias.detach(),
        )

    def centre(self, states: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The states less their mean, where the norm takes it away."""
        return states - states.mean(-1, keepdim=True) if self.centres else states

    def scale(self, states: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """What the norm divides by: the root mean square, of the centred state where it centres."""
        return (self.centre(states).square().mean(-1, keepdim=True) + self.eps).sqrt()

    def held(
        self, parts: Float[Tensor, "*parts d_model"], whole: Float[Tensor, "*whole d_model"]
    ) -> Float[Tensor, "*parts d_model"]:
        """Parts of `whole`, each as it leaves the norm at the whole's scale, without the bias."""
        return self.centre(parts) / self.scale(whole) * self.gain.to(parts.device)
