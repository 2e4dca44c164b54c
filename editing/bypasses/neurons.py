"""Neurons: further neurons of an MLP, beside its own; a neuron writes where its input is above zero.

    y' := y + relu(x K + b) V

x is what the MLP reads after its norm, y what its down-projection writes. The activation is ReLU whatever the model's
own is: only so is a neuron that does not fire exactly absent, and a position at which none fires bitwise as it was.
Neurons decide at each position by what stands there and before it, so what follows changes nothing (Huang et al. 2023;
Dong et al. 2022 train such neurons for many facts at once).
"""

from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from editing.bypass import Bypass, BypassKind, Load, Write, concatenated, scrambled_rows
from factscope.model.bridge import Bridge
from factscope.model.forward.ends import Ends


def fired(
    x: Float[Tensor, "*pos d_model"], keys: Float[Tensor, "neuron d_model"], bias: Float[Tensor, " neuron"]
) -> Float[Tensor, "*pos neuron"]:
    """What each neuron's input comes to; it fires above 0."""
    return x.float() @ keys.T + bias


def join(parts: Sequence[Bypass]) -> Bypass:
    """All neurons, side by side."""
    return concatenated(parts, SHAPES)


def writer(part: Bypass, _: Bridge) -> Write:
    """Add what the neurons write, at the positions at which one fires."""
    on = cache(lambda device: [part.tensors[name].to(device) for name in SHAPES])

    def write(x: Tensor, y: Tensor, _: Ends) -> Tensor | None:
        keys, bias, values = on(x.device)
        active = fired(x, keys, bias).relu()
        row, pos = (active > 0).any(-1).nonzero(as_tuple=True)
        if not len(row):
            return None
        return y.index_put((row, pos), y[row, pos] + (active[row, pos] @ values).to(y))

    return write


def load(part: Bypass, _: Bridge) -> Load:
    """For each neuron, the share of a prompt's tokens at which it fires."""

    def shares(x: Tensor, now: Ends) -> Tensor:
        keys, bias = (part.tensors[name].to(x.device) for name in ("keys", "bias"))
        own = (torch.arange(x.shape[1]) <= now.last[:, None]).to(x.device)[..., None]
        return (((fired(x, keys, bias) > 0) & own).sum(1) / own.sum(1)).cpu()

    return shares


SHAPES = {"keys": ("neuron", "d_out"), "bias": ("neuron",), "values": ("neuron", "d_out")}
KIND = BypassKind(
    "neurons",
    "neurons: they fire where what the MLP reads is like what was read at a mistake, and write the correction",
    SHAPES,
    join,
    writer,
    scrambled_rows,
    load,
    reads="mlp_read",
)
