"""One backward pass by rules: the coefficients of layer-wise relevance propagation at every reader's input.

Layer after layer, from the logits down. What comes back to a writer is the sum over its listeners, for a stream is a
sum; through a head, an MLP or the final norm it goes by a gradient of that part alone, written so that the rule is its
slope (`scorers/relp.py` has the rules and their sources). Every part is first held against the model's own values, so
that a rule is applied to what the model computes, and nothing else.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.reference import Reference
from circuits.engine.state import State
from factscope.errors import ModelError
from factscope.model.bridge import architecture
from factscope.model.hooks import record
from factscope.model.sites import Site, hook_name


def coefficients(reference: Reference, attention_held: bool) -> Float[Tensor, "reader *kind row pos d_model"]:
    """What each reader's input is multiplied by in place of the loss's gradient; rows add up to the prompts' mean.

    Kinds are those of the tokens that attend, as in `gradients.mean_gradient`.
    """
    if reference.graph.coupled or reference.graph.experts or reference.graph.beside:
        raise ModelError(
            "relevance propagation has no rule for heads that share a norm, for mixtures of experts, nor for what an "
            f"edit lets stand beside an MLP, as this model ({architecture(reference.model)}) has: choose eap or eap-ig"
        )
    state = State(reference)
    rules = _Rules.of(state, attention_held)
    graph, last = state.graph, state.graph.reader_index["logits"]
    kinds = reference.copies if reference.attending is not None else 1
    found = state.inputs.new_zeros(len(graph.readers), kinds, *state.inputs.shape[1:])
    found[last, 0, :, -1] = rules.logits(state.inputs[last][:, -1])
    above = found[last].sum(0)  # what all listeners above hand down
    for layer in reversed(range(graph.n_layers)):
        mlp = graph.reader_index[f"m{layer}"]
        heads = [i for i, reader in enumerate(graph.readers) if reader.layer == layer and reader.head >= 0]
        found[mlp, 0] = rules.mlp(layer, state.inputs[mlp], above)
        if not graph.parallel:
            above = above + found[mlp, 0]
        for kind, own in enumerate(_of_kinds(above, reference.attending)):
            found[heads, kind] = rules.heads(layer, state.inputs[heads], own)
        above = above + found[heads].sum((0, 1))
        if graph.parallel:
            above = above + found[mlp, 0]
    return found if reference.attending is not None else found[:, 0]


def _of_kinds(above: Float[Tensor, "row pos d_model"], attending: Tensor | None) -> list[Tensor]:
    """What comes back to heads from above, from the tokens of each kind alone."""
    if attending is None:
        return [above]
    return [above * (attending == kind)[..., None] for kind in range(int(attending.max()) + 1)]


@dataclass(frozen=True, eq=False)
class _Rules:
    """The rules, each as the backward pass through one part."""

    state: State
    attention_held: bool
    hidden: dict[Site, Tensor]  # what MLPs compute inside, in the clean run

    @classmethod
    def of(cls, state: State, attention_held: bool) -> "_Rules":
        """ModelError for a model with a part that the rules do not know."""
        model, layers = state.model, range(state.graph.n_layers)
        sites = [Site(kind, layer) for layer in layers for kind in ("mlp_up", "mlp_gate", "mlp_hidden")]
        sites = [site for site in sites if site.kind != "mlp_gate" or hook_name(site) in model.hook_dict]
        with record(model, sites) as seen, torch.no_grad():
            model(state.tokens, use_cache=False)
        return cls(state, attention_held, seen)

    def logits(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """Through the loss, the unembedding, and the final norm at its own scale."""
        model = self.state.model
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            normed = self._held(model.ln_final, leaf, "the final norm")
            logits = model.adapter.apply_output_logits_transform(model.unembed.original_component(normed))
            (slope,) = torch.autograd.grad(self.state.objective.losses(logits[None])[0], leaf)
        return slope

    def mlp(self, layer: int, x: Float[Tensor, "row pos d_model"], above: Tensor) -> Tensor:
        """Through the down-projection, the activation as a gain, half of each factor of a gate, and the norm."""
        state, block = self.state, self.state.model.blocks[layer]
        h, up = self.hidden[Site("mlp_hidden", layer)], self.hidden[Site("mlp_up", layer)]
        gate = self.hidden.get(Site("mlp_gate", layer))
        share = 1.0 if gate is None else 0.5
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            normed = self._held(getattr(block, "ln2", block.ln1), leaf, f"the norm before the MLP of layer {layer}")
            inside = getattr(block.mlp, "in").original_component(normed) * share * _gain(h, up)
            if gate is not None:
                inside = inside + block.mlp.gate.original_component(normed) * share * _gain(h, gate)
            out = block.mlp.out.original_component(inside)
            self._check(out, state.outputs[state.graph.mlp_writers(layer)[0]], f"the MLP of layer {layer}")
            (slope,) = torch.autograd.grad(out, leaf, above)
        return slope

    def heads(self, layer: int, x: Float[Tensor, "reader row pos d_model"], above: Tensor) -> Tensor:
        """Through output, values and, unless they are held, attention probabilities, and the norm."""
        graph, kernel = self.state.graph, self.state.kernel
        heads, pairs = list(range(graph.n_heads)), list(range(graph.n_kv_heads))
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            normed = self._held(self.state.model.blocks[layer].ln1, leaf, f"the norm before attention {layer}")
            if graph.split:
                parts = normed.split([len(heads), len(pairs), len(pairs)])
                shared = pairs
            else:
                parts, shared = (normed, normed, normed), [head // graph.group for head in heads]
            q, k = kernel.queries(layer, heads, parts[0]), kernel.keys(layer, shared, parts[1])
            if self.attention_held:
                q, k = q.detach(), k.detach()
            own = [self.state.pair(head) for head in heads]
            out = kernel.attend(layer, heads, q, k[own], kernel.values(layer, shared, parts[2])[own])
            first = graph.head_writer(layer)
            self._check(out, self.state.outputs[first : first + graph.n_heads], f"attention {layer}")
            (slope,) = torch.autograd.grad(out, leaf, above[None].expand_as(out))
        return slope

    def _held(self, norm: Any, x: Tensor, what: str) -> Tensor:
        """A norm whose scale is a constant."""
        inner = norm.original_component
        weight, bias = getattr(inner, "weight", None), getattr(inner, "bias", None)
        centred = x if norm.uses_rms_norm else x - x.mean(-1, keepdim=True)
        eps = float(getattr(inner, "eps", getattr(inner, "variance_epsilon", self.state.model.cfg.eps)))
        gain = 1.0 if weight is None else (1 + weight if norm.uses_weight_offset else weight).detach()
        out = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt().detach() * gain
        out = out if bias is None else out + bias.detach()
        self._check(out, inner(x.detach()), what)
        return out

    def _check(self, ours: Tensor, own: Tensor, what: str) -> None:
        """ModelError unless a part, as the rules have it, gives what the model's own gives."""
        off = float((ours - own).detach().float().norm() / (own.float().norm() + 1e-12))
        if not off <= self.state.rounding:
            raise ModelError(
                f"{what} of this architecture ({architecture(self.state.model)}) is not what relevance propagation has "
                f"rules for (off by {off:.2g} of its size): choose eap, eap-ig or atp-star"
            )


def _gain(out: Tensor, into: Tensor) -> Tensor:
    """What a factor was multiplied by, a constant; zero where there was nothing to multiply."""
    return torch.where(into == 0, 0.0, out / torch.where(into == 0, 1.0, into))
