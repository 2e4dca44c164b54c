"""What each head, MLP and embedding adds to the residual stream in a plain run: the last state, taken apart."""

import torch
from jaxtyping import Float
from torch import Tensor

from factscope.errors import ModelError
from factscope.model.agreement import agree, require
from factscope.model.bridge import Bridge, architecture, device
from factscope.model.hooks import record
from factscope.model.readout import readout
from factscope.model.sites import Site
from factscope.model.source.checkpoint import probe
from factscope.model.weights import WeightName, live_weights


def component_sites(model: Bridge) -> list[Site]:
    """What must be recorded for `component_writes`."""
    layers = range(model.cfg.n_layers)
    return [Site("resid_pre"), *(Site(kind, layer) for layer in layers for kind in ("mlp", "attn", "head"))]


def component_writes(model: Bridge, seen: dict[Site, Tensor]) -> dict[str, Float[Tensor, " d_model"]]:
    """What each writer adds to the residual stream at the last position, by name; sums to the final state.

    Heads where they have a write of their own, else the attention outputs whole (`a3`): the heads of a model that
    normalises after attention (Gemma-2 and -3) share that norm. With the heads, `a3.bias` where the attention has an
    output bias. `seen` holds `component_sites`, recorded.
    """
    found = {"embed": seen[Site("resid_pre")][0, -1]}
    weights = live_weights(model)
    for layer in range(model.cfg.n_layers):
        z, whole = seen[Site("head", layer)][0, -1], seen[Site("attn", layer)][0, -1]
        out, bias = (weights.get(str(WeightName(layer, part))) for part in ("attn.W_O", "attn.b_O"))
        each = total = None
        if out is not None and out.shape[:2] == z.shape:
            each = torch.einsum("hd,hdm->hm", z, out.to(z))  # head, d_head, d_model
            total = each.sum(0) if bias is None else each.sum(0) + bias
        if each is not None and total is not None and torch.allclose(total, whole, rtol=1e-3, atol=1e-4):
            found |= {f"a{layer}.h{head}": write for head, write in enumerate(each)}
            if bias is not None:
                found[f"a{layer}.bias"] = bias
        else:
            found[f"a{layer}"] = whole
        found[f"m{layer}"] = seen[Site("mlp", layer)][0, -1]
    return found


def check_writes(model: Bridge) -> None:
    """ModelError unless what each layer's attention and MLP add is all that its block adds to the residual stream."""

    def prove() -> None:
        layers = range(model.cfg.n_layers)
        tokens = probe(readout(model).n_tokens, device(model))
        with record(model, [Site(kind, i) for kind in ("resid_pre", "attn", "mlp", "resid") for i in layers]) as seen:
            model(tokens, use_cache=False)
        for layer in layers:
            before, attn, mlp, after = (seen[Site(kind, layer)] for kind in ("resid_pre", "attn", "mlp", "resid"))
            if not agree(before + attn + mlp, after):
                raise ModelError(
                    f"what the attention and the MLP of layer {layer} add is not what the block of this architecture "
                    f"({architecture(model)}) adds to the residual stream, so they cannot be told apart exactly"
                )

    require(model, "taken apart", prove)
