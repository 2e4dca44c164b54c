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

ROUNDING = {False: 1e-3, True: 0.05}  # a share of the whole's norm, in full and in half precision


def component_sites(model: Bridge) -> list[Site]:
    """What must be recorded for `component_writes`."""
    layers = range(model.cfg.n_layers)
    return [Site("resid_pre"), *(Site(kind, layer) for layer in layers for kind in ("mlp", "attn", "head"))]


def component_writes(model: Bridge, seen: dict[Site, Tensor]) -> dict[str, Float[Tensor, " d_model"]]:
    """What each writer adds to the residual stream at the last position, by name; sums to the final state.

    Heads where they have a write of their own in every layer, else the attention outputs whole (`a3`): the heads of a
    model that normalises after attention (Gemma-2 and -3) share that norm. With the heads, `a3.bias` where the
    attention has an output bias. `seen` holds `component_sites`, recorded.
    """
    weights, layers = live_weights(model), range(model.cfg.n_layers)
    last = {site: activation[0, -1] for site, activation in seen.items()}
    heads = [_heads(weights, layer, last[Site("head", layer)], last[Site("attn", layer)]) for layer in layers]
    found = {"embed": last[Site("resid_pre")]}
    for layer, own in enumerate(heads):
        found |= own if own and all(heads) else {f"a{layer}": last[Site("attn", layer)]}
        found[f"m{layer}"] = last[Site("mlp", layer)]
    return found


def _heads(
    weights: dict[str, Tensor], layer: int, z: Float[Tensor, "head d_head"], whole: Float[Tensor, " d_model"]
) -> dict[str, Float[Tensor, " d_model"]]:
    """What each head and the bias write, by name; nothing where they do not add up to what the attention wrote."""
    out, bias = (weights.get(str(WeightName(layer, part))) for part in ("attn.W_O", "attn.b_O"))
    if out is None or out.shape[:2] != z.shape:
        return {}
    each = torch.einsum("hd,hdm->hm", z.float(), out.to(z).float()).to(whole)
    found = {f"a{layer}.h{head}": write for head, write in enumerate(each)}
    found |= {f"a{layer}.bias": bias.to(whole)} if bias is not None else {}
    off = float((torch.stack(list(found.values())).float().sum(0) - whole.float()).norm())
    return found if off <= ROUNDING[whole.dtype.itemsize < 4] * float(whole.float().norm()) + 1e-12 else {}


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
