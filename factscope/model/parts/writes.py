"""What each head, MLP and embedding adds to the residual stream: the stream, taken apart.

Where a model normalises after attention (Gemma-2 and -3, OLMo-2), its heads go through that norm together:

    write of head h = centre(r_h) / scale(r_1 + ... + r_H) * gain      r_h: the head's own output, z_h W_O

The scale is that of what all the layer's heads give in this very run, so that the writes add up to what the layer adds.
It is also why no head of such a layer is alone: what one of them gives changes the scale of all.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factscope.errors import ModelError
from factscope.model.agreement import agree, require
from factscope.model.bridge import Bridge, architecture, device
from factscope.model.hooks import record
from factscope.model.parts.norms import NormParts
from factscope.model.readout import readout
from factscope.model.sites import Site
from factscope.model.source.checkpoint import probe
from factscope.model.weights import WeightName, live_weights

ROUNDING = {False: 1e-3, True: 0.05}  # a share of the whole's norm, in full and in half precision


@dataclass(frozen=True, eq=False)
class HeadsOut:
    """How one layer's heads reach the residual stream."""

    out: Float[Tensor, "head d_head d_model"]  # W_O
    bias: Float[Tensor, " d_model"] | None  # what the layer adds whatever its heads do
    after: NormParts | None = None  # the norm after attention
    factor: float = 1.0  # of what the attention adds (Granite)

    def results(self, z: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows head d_model"]:
        """What each head gives, before the norm after attention."""
        return torch.einsum("...hd,hdm->...hm", z, self.out.to(z)) * self.factor

    def written(
        self, parts: Float[Tensor, "*parts d_model"], whole: Float[Tensor, "*whole d_model"]
    ) -> Float[Tensor, "*parts d_model"]:
        """What parts of the heads' results add to the stream, where `whole` is the sum of all heads' results."""
        return parts if self.after is None else self.after.held(parts, whole)

    def writes(self, z: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows head d_model"]:
        """What each head adds to the residual stream."""
        results = self.results(z)
        return self.written(results, results.sum(-2, keepdim=True))


def heads_out(model: Bridge, layer: int, weights: dict[str, Tensor] | None = None) -> HeadsOut | None:
    """How the heads of `layer` reach the stream, if each has a matrix of its own to it; `weights`: the `live_weights`.

    None too for an output bias that goes through a norm: it would share the heads' scale, and belong to no head.
    """
    weights = live_weights(model) if weights is None else weights
    out, bias = (weights.get(str(WeightName(layer, part))) for part in ("attn.W_O", "attn.b_O"))
    block = model.blocks[layer]
    norm = getattr(block, "ln1_post", None)
    if out is None or out.dim() != 3 or (norm is not None and bias is not None):
        return None
    factor = float(getattr(block, "residual_contribution_scale", 1.0))
    if norm is None:
        return HeadsOut(out.detach(), None if bias is None else bias.detach() * factor, factor=factor)
    after = NormParts.of(model, norm)
    return HeadsOut(out.detach(), after.bias if bool(after.bias.any()) else None, after, factor)


def coupled(model: Bridge) -> bool:
    """Whether the heads of a layer go through one norm: after attention, or over all queries or keys (OLMo-2)."""
    block = model.blocks[0]
    return hasattr(block, "ln1_post") or over_all_heads(model, 0)


def over_all_heads(model: Bridge, layer: int) -> bool:
    """Whether the queries of a layer's heads are normalised together, and not each head by itself."""
    attention = getattr(model.blocks[layer], "attn", None)
    weight = getattr(getattr(attention, "q_norm", None), "weight", None)
    heads = int(model.cfg.n_heads)
    return isinstance(weight, Tensor) and heads > 1 and tuple(weight.shape) == (heads * int(model.cfg.d_head),)


def expert_writes(
    model: Bridge,
    layer: int,
    given: Float[Tensor, "expert *rows d_model"],
    whole: Float[Tensor, "*rows d_model"],
    added: Float[Tensor, "*rows d_model"],
    shared: bool,
) -> Float[Tensor, "writer *rows d_model"]:
    """What the experts of a layer add to the stream, and with `shared`, last, what the layer adds beside them.

    `given` are the experts' outputs, `whole` the sub-layer's output and `added` what it adds; they share its norm.
    """
    block = model.blocks[layer]
    norm = getattr(block, "ln2_post", None)
    parts = given if norm is None else NormParts.of(model, norm).held(given, whole)
    factor = float(getattr(block, "residual_contribution_scale", 1.0))
    parts = parts if factor == 1.0 else parts * factor
    return torch.cat([parts, (added - parts.sum(0))[None]]) if shared else parts


def component_sites(model: Bridge) -> list[Site]:
    """What must be recorded for `component_writes`."""
    layers = range(model.cfg.n_layers)
    return [Site("resid_pre"), *(Site(kind, layer) for layer in layers for kind in ("mlp", "attn", "head"))]


def component_writes(model: Bridge, seen: dict[Site, Tensor]) -> dict[str, Float[Tensor, " d_model"]]:
    """What each writer adds to the residual stream at the last position, by name; sums to the final state.

    Heads where they add up to their attention's output in every layer, else the attention outputs whole (`a3`). With
    the heads, `a3.bias` where the attention has an output bias. `seen` holds `component_sites`, recorded.
    """
    weights, layers = live_weights(model), range(model.cfg.n_layers)
    last = {site: activation[0, -1] for site, activation in seen.items()}
    made = [heads_out(model, layer, weights) for layer in layers]
    heads = [_heads(made[layer], layer, last[Site("head", layer)], last[Site("attn", layer)]) for layer in layers]
    found = {"embed": last[Site("resid_pre")]}
    for layer, own in enumerate(heads):
        found |= own if own and all(heads) else {f"a{layer}": last[Site("attn", layer)]}
        found[f"m{layer}"] = last[Site("mlp", layer)]
    return found


def _heads(
    made: HeadsOut | None, layer: int, z: Float[Tensor, "head d_head"], whole: Float[Tensor, " d_model"]
) -> dict[str, Float[Tensor, " d_model"]]:
    """What each head and the bias write, by name; nothing where they do not add up to what the attention wrote."""
    if made is None or made.out.shape[:2] != z.shape:
        return {}
    each = made.writes(z.float()).to(whole)
    found = {f"a{layer}.h{head}": write for head, write in enumerate(each)}
    found |= {f"a{layer}.bias": made.bias.to(whole)} if made.bias is not None else {}
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
