"""One head, one MLP, one norm at a time: the model's arithmetic, so that only what changed need be computed again.

Blocks of the library compute all heads at once. A cut edge changes the input of one of them, so here the weights are
taken apart by head, and any choice of heads runs on inputs of its own. Norms and MLPs are the model's own modules, the
MLPs' and the unembedding's matrices laid out for speed (`onednn.packed`). A kernel is made for the weights as they are.

Where heads share a norm they cannot be taken apart to the end: `turned` normalises the queries or keys of all heads
together where the model does (OLMo-2), and `written` gives each head its share of the layer's normalised output.

Layout: `part row pos d_model` with the heads (or readers) first, which is what batched matrix products want; a row is
one variant of one prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.beside import Beside
from circuits.engine.writes import all_heads_out, copies
from circuits.graph import Graph
from factscope.model.bridge import Bridge
from factscope.model.forward.onednn import packed
from factscope.model.forward.partial import Frame
from factscope.model.hooks import apart
from factscope.model.parts.experts import Choices, Routing, last_alone, repeated
from factscope.model.parts.writes import HeadsOut, expert_writes, over_all_heads
from factscope.model.weights import WeightName, live_weights


@dataclass(frozen=True, eq=False)
class Layer:
    """One block's weights by head; keys and values [kv_head, ...], the rest as it is in the block."""

    query: Float[Tensor, "head d_model d_head"]
    key: Float[Tensor, "kv_head d_model d_head"]
    value: Float[Tensor, "kv_head d_model d_head"]
    outs: HeadsOut
    out: Float[Tensor, "head d_head d_model"]  # with the factor of what attention adds
    query_bias: Float[Tensor, "head d_head"] | None
    key_bias: Float[Tensor, "kv_head d_head"] | None
    value_bias: Float[Tensor, "kv_head d_head"] | None
    out_bias: Float[Tensor, " d_model"]  # zero where there is none; belongs to no head
    norm_query: Any
    norm_key: Any
    rotary: tuple[Tensor, Tensor] | None  # cosines and sines, each [pos, rotated]; None in a layer that does not turn
    hidden: Bool[Tensor, "query key"]  # the future, and what is beyond a window
    scale: float
    cap: float | None  # of the scores, softly (Gemma-2)
    clip: float | None  # of queries, keys and values (OLMo)
    sinks: Float[Tensor, " head"] | None  # logits that join each head's softmax (GPT-OSS)


class Kernel:
    """The parts of one model for prompts of one length."""

    def __init__(self, model: Bridge, graph: Graph, tokens: Int[Tensor, "row pos"], choices: Choices) -> None:
        with apart(model):
            frame = Frame.of(model, tokens, check=False)  # the state compares with the model's own pass
        self.model, self.graph, self.frame = model, graph, frame
        self._beside = {layer: Beside(model, layer, tokens) for layer in graph.beside}
        weights = live_weights(model)
        outs = all_heads_out(model)
        self.layers = [_layer(model, layer, weights, outs[layer], frame) for layer in range(graph.n_layers)]
        self.d_head = self.layers[0].query.shape[-1]
        self.over_all = over_all_heads(model, 0)  # queries and keys of all heads are normalised together
        self.shares = any(layer.outs.after is not None for layer in self.layers)  # heads share what they write
        self._turning = _turning(model)
        self._norms = [_block_norms(block) for block in model.blocks]
        self._factors = [float(getattr(block, "residual_contribution_scale", 1.0)) for block in model.blocks]
        self._mlps = [packed(block.mlp) for block in model.blocks]
        self.choices = choices, last_alone(choices, frame.n_positions)  # of experts, at all positions and the last
        self._unembed = packed(model.unembed)

    def attention_norm(self, layer: int, x: Tensor) -> Tensor:
        """The norm before attention."""
        norm = self._norms[layer][0]
        normed: Tensor = x if norm is None else norm(x)
        return normed

    def projected(
        self, layer: int, kind: str, heads: Sequence[int], x: Float[Tensor, "head row pos d_model"]
    ) -> Float[Tensor, "head row pos d_head"]:
        """Queries ("q"), keys ("k") or values ("v") of normed inputs, as they leave their projection.

        For keys and values, `heads` are key/value heads, and may repeat.
        """
        part = self.layers[layer]
        weight, bias = {
            "q": (part.query, part.query_bias),
            "k": (part.key, part.key_bias),
            "v": (part.value, part.value_bias),
        }[kind]
        made = _project(x, weight, bias, heads)
        early = kind == "v" or not self.over_all  # a norm over all heads comes before the clip
        return made if part.clip is None or not early else made.clamp(-part.clip, part.clip)

    def turned(
        self, layer: int, kind: str, projected: Float[Tensor, "head row pos d_head"]
    ) -> Float[Tensor, "head row pos d_head"]:
        """Queries or keys, normalised and rotated; fewer positions are the last ones.

        Where the norm is over all heads, all of them are given.
        """
        part = self.layers[layer]
        norm = part.norm_query if kind == "q" else part.norm_key
        if self.over_all:
            projected, norm = self._normed_together(kind, projected, norm), None
            projected = projected if part.clip is None else projected.clamp(-part.clip, part.clip)
        turn = _TURNS[self._turning.pairs]
        start = self.frame.n_positions - projected.shape[2]
        if self._turning.before_norm:
            return _normed(norm, turn(projected, part.rotary, start))
        return turn(_normed(norm, projected), part.rotary, start)

    def _normed_together(self, kind: str, x: Float[Tensor, "head row pos d_head"], norm: Any) -> Tensor:
        """All heads through one norm; keys of a graph that is not split in the sets that the model would hold."""
        sets = 1 if kind == "q" else copies(self.graph)  # keys: head h is in the set of its place in its group
        by_set = x.unflatten(0, (-1, sets)).movedim(1, 0)  # [set, head, row, pos, d_head]
        flat = by_set.movedim(1, 3)  # [set, row, pos, head, d_head]
        normed = norm(flat.flatten(3)).unflatten(3, flat.shape[3:])
        back: Tensor = normed.movedim(3, 1).movedim(0, 1).flatten(0, 1)
        return back

    def queries(self, layer: int, heads: Sequence[int], x: Float[Tensor, "head row pos d_model"]) -> Tensor:
        """Rotated queries [head, row, pos, d_head] of normed inputs; fewer positions are the last ones."""
        return self.turned(layer, "q", self.projected(layer, "q", heads, x))

    def keys(self, layer: int, heads: Sequence[int], x: Float[Tensor, "head row pos d_model"]) -> Tensor:
        """Rotated keys of normed inputs; `heads` are key/value heads, and may repeat."""
        return self.turned(layer, "k", self.projected(layer, "k", heads, x))

    def values(self, layer: int, heads: Sequence[int], x: Float[Tensor, "head row pos d_model"]) -> Tensor:
        """Values of normed inputs; `heads` are key/value heads, and may repeat."""
        return self.projected(layer, "v", heads, x)

    def pattern(
        self, layer: int, q: Tensor, k: Tensor, heads: Sequence[int] | None = None
    ) -> Float[Tensor, "head row query key"]:
        """Attention probabilities of all heads, or of these; the softmax runs in float32, as the models' own does.

        Where a head has a sink of its own (GPT-OSS), it takes a part, and a row sums to less than 1.
        """
        scores, cap = (q @ k.transpose(-1, -2)) * self.layers[layer].scale, self.layers[layer].cap
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        scores = scores.masked_fill(self.layers[layer].hidden[-q.shape[2] :], float("-inf"))
        if (sinks := self.layers[layer].sinks) is not None:
            column = (
                (sinks if heads is None else sinks[list(heads)])
                .to(scores)[:, None, None, None]
                .expand(*scores.shape[:-1], 1)
            )
            every = torch.cat([scores, column], -1).softmax(-1, dtype=torch.float32)
            return every[..., :-1].to(q.dtype)
        return scores.softmax(-1, dtype=torch.float32).to(q.dtype)

    def attend(
        self, layer: int, heads: Sequence[int], q: Tensor, k: Tensor, v: Tensor
    ) -> Float[Tensor, "head row pos d_model"]:
        """What the heads give, without the output bias, and before a norm after attention."""
        mixed = self.pattern(layer, q, k, heads) @ v
        return _project(mixed, self.layers[layer].out, None, heads)

    def written(self, layer: int, results: Float[Tensor, "head row pos d_model"]) -> Tensor:
        """What all heads of a layer write to the residual stream, where this is what they give."""
        return self.layers[layer].outs.written(results, results.sum(0))

    def mlp(
        self, layer: int, x: Float[Tensor, "variant_row pos d_model"], variants: int = 1
    ) -> Float[Tensor, "writer variant_row pos d_model"]:
        """What the MLP writes, or each of its experts, for its raw input; one position is the last."""
        before, after = self._norms[layer][1:]
        routing = self._routing(layer, x.shape[1], variants)
        with routing.installed():
            out = self._mlps[layer](x if before is None else before(x))
        whole: Tensor = out[0] if isinstance(out, tuple) else out
        added = whole if after is None else after(whole)
        added = added if self._factors[layer] == 1.0 else added * self._factors[layer]
        if not routing.mixtures:
            return added[None]
        return expert_writes(self.model, layer, routing.given(layer), whole, added, self.graph.shared_expert)

    def _routing(self, layer: int, positions: int, variants: int) -> Routing:
        """The full model's choices of experts, in a layer that has some."""
        choices = self.choices[positions < self.frame.n_positions]
        if layer not in choices:
            return Routing({})
        return Routing({layer: self._mlps[layer]}, repeated({layer: choices[layer]}, variants))

    def beside(self, layer: int, x: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """What stands beside the MLP writes, for its raw input at all positions."""
        return self._beside[layer](x)

    def logits(self, last: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """Final norm and unembedding."""
        return self.frame.logits(last, self._unembed)


def _project(x: Tensor, weight: Tensor, bias: Tensor | None, heads: Sequence[int]) -> Tensor:
    chosen = weight if list(heads) == list(range(len(weight))) else weight[list(heads)]
    out: Tensor = torch.bmm(x.flatten(1, 2), chosen).unflatten(1, x.shape[1:3])
    return out if bias is None else out + bias[list(heads)][:, None, None]


def _normed(norm: Any, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


@dataclass(frozen=True)
class _Turning:
    """How an architecture rotates queries and keys."""

    pairs: str  # which dimensions are turned together: the "halves", or "neighbours", with angles given for either
    before_norm: bool  # HunYuan


def _turning(model: Bridge) -> _Turning:
    config = model.cfg
    pairs = "halves"
    if getattr(config, "rotary_adjacent_pairs", False):  # GLM, Ernie: angles as for halves
        pairs = "neighbours"
    if getattr(config, "rotary_interleaved_cos_sin", False):  # Cohere: angles as they are used
        pairs = "neighbours with their angles"
    return _Turning(pairs, bool(getattr(config, "qk_norm_after_rope", False)))


def _block_norms(block: Any) -> tuple[Any, Any, Any]:
    """The norms before attention, before the MLP and after it; None where a block has none."""
    named = {name: _bare(getattr(block, name)) for name in ("ln1", "ln2", "ln2_post") if hasattr(block, name)}
    after = named.get("ln2_post")
    return named.get("ln1"), named.get("ln2", named.get("ln1") if after is None else None), after


def _rotated(x: Tensor, rotary: tuple[Tensor, Tensor] | None, start: int) -> Tensor:
    """Rotate the first dimensions of each head by its position, halves against halves (Su et al. 2021, as in Llama)."""
    if rotary is None:
        return x
    cos, sin = rotary[0][start:], rotary[1][start:]
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    a, b = turned.chunk(2, -1)
    turned = turned * cos + torch.cat([-b, a], -1) * sin
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned


def _rotated_neighbours(x: Tensor, rotary: tuple[Tensor, Tensor] | None, start: int) -> Tensor:
    """Rotate pairs of neighbouring dimensions, where angles are given as for halves (GLM)."""
    if rotary is None:
        return x
    spread = [part[..., : part.shape[-1] // 2].repeat_interleave(2, -1) for part in rotary]
    return _rotated_pairs(x, (spread[0], spread[1]), start)


def _rotated_pairs(x: Tensor, rotary: tuple[Tensor, Tensor] | None, start: int) -> Tensor:
    """Rotate pairs of neighbouring dimensions, each with its own angle (Cohere)."""
    if rotary is None:
        return x
    cos, sin = rotary[0][start:], rotary[1][start:]
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    crossed = torch.stack((-turned[..., 1::2], turned[..., 0::2]), -1).flatten(-2)
    turned = turned * cos + crossed * sin
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned


_QK_NORMS = ("q_norm", "k_norm")
_TURNS = {"halves": _rotated, "neighbours": _rotated_neighbours, "neighbours with their angles": _rotated_pairs}


def _turns(attention: Any) -> bool:
    """Whether a layer rotates at all: some see the whole prompt and do not (SmolLM3, Cohere-2, Exaone-4)."""
    inner = attention.original_component
    if hasattr(inner, "use_rope"):
        return bool(inner.use_rope)
    if not getattr(attention, "rope_optional", False):
        return True
    return bool(inner.sliding_window is not None and getattr(inner, "is_sliding", True))


def _layer(model: Bridge, layer: int, weights: dict[str, Tensor], outs: HeadsOut, frame: Frame) -> Layer:
    def named(name: str) -> Tensor:
        return weights[str(WeightName(layer, f"attn.{name}"))].detach()

    def maybe(name: str) -> Tensor | None:
        found = weights.get(str(WeightName(layer, f"attn.{name}")))
        return None if found is None else found.detach()

    attention = model.blocks[layer].attn.original_component
    query = named("W_Q")
    rotary = frame.arguments[layer].get("position_embeddings") if _turns(model.blocks[layer].attn) else None
    norms = [getattr(getattr(model.blocks[layer].attn, name, None), "original_component", None) for name in _QK_NORMS]
    sinks = getattr(attention, "sinks", None)
    if sinks is not None and rotary is not None:  # GPT-OSS gives each angle once, for both halves
        rotary = (torch.cat([rotary[0], rotary[0]], -1), torch.cat([rotary[1], rotary[1]], -1))
    bias = query.new_zeros(query.shape[1]) if outs.bias is None else outs.bias.to(query)
    return Layer(
        outs=outs,
        query=query,
        key=named("W_K"),
        value=named("W_V"),
        out=outs.out * outs.factor if outs.factor != 1.0 else outs.out,
        query_bias=maybe("b_Q"),
        key_bias=maybe("b_K"),
        value_bias=maybe("b_V"),
        out_bias=bias,
        norm_query=norms[0],
        norm_key=norms[1],
        rotary=None if rotary is None else (rotary[0][0].to(query.dtype), rotary[1][0].to(query.dtype)),
        hidden=_hidden(frame, layer, query.device),
        scale=float(getattr(attention, "scaling", None) or query.shape[-1] ** -0.5),
        cap=getattr(attention, "attn_logit_softcapping", None),
        clip=getattr(getattr(attention, "config", None), "clip_qkv", None),
        sinks=sinks,
    )


def _hidden(frame: Frame, layer: int, device: torch.device) -> Bool[Tensor, "query key"]:
    """What a query does not see: the block's own mask where it is given one."""
    length = frame.n_positions
    future = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    mask = frame.arguments[layer].get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        return future
    own = ~mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] <= torch.finfo(mask.dtype).min / 2
    return future | own.to(device)


def _bare(part: Any) -> Any:
    """The model's own module without the hooks around it: there is nothing to hook here, and hooks cost time."""
    return part.original_component
