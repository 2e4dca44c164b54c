"""One head, one MLP, one norm at a time: the model's arithmetic, so that only what changed need be computed again.

Blocks of the library compute all heads at once. A cut edge changes the input of one of them, so here the weights are
taken apart by head, and any choice of heads runs on inputs of its own. Norms and MLPs are the model's own modules, the
MLPs' and the unembedding's matrices laid out for speed (`onednn.packed`). A kernel is made for the weights as they are.

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
from circuits.engine.writes import attention_biases
from circuits.graph import Graph
from factscope.model.bridge import Bridge
from factscope.model.forward.onednn import packed
from factscope.model.forward.partial import Frame
from factscope.model.hooks import apart
from factscope.model.weights import WeightName, live_weights


@dataclass(frozen=True, eq=False)
class Layer:
    """One block's weights by head; keys and values [kv_head, ...], the rest as it is in the block."""

    query: Float[Tensor, "head d_model d_head"]
    key: Float[Tensor, "kv_head d_model d_head"]
    value: Float[Tensor, "kv_head d_model d_head"]
    out: Float[Tensor, "head d_head d_model"]
    query_bias: Float[Tensor, "head d_head"] | None
    key_bias: Float[Tensor, "kv_head d_head"] | None
    value_bias: Float[Tensor, "kv_head d_head"] | None
    out_bias: Float[Tensor, " d_model"]  # zero where there is none; belongs to no head
    norm_query: Any
    norm_key: Any
    rotary: tuple[Tensor, Tensor] | None  # cosines and sines, each [pos, rotated]; None in a layer that does not turn
    hidden: Bool[Tensor, "query key"]  # the future, and what is beyond a window
    scale: float


class Kernel:
    """The parts of one model for prompts of one length."""

    def __init__(self, model: Bridge, graph: Graph, tokens: Int[Tensor, "row pos"]) -> None:
        with apart(model):
            frame = Frame.of(model, tokens)
        self.model, self.graph, self.frame = model, graph, frame
        self._beside = {layer: Beside(model, layer, tokens) for layer in graph.beside}
        weights = live_weights(model)
        biases = attention_biases(model)
        self.layers = [_layer(model, layer, weights, biases[layer], frame) for layer in range(graph.n_layers)]
        self.d_head = self.layers[0].query.shape[-1]
        self._norms = [(_bare(block.ln1), _bare(getattr(block, "ln2", block.ln1))) for block in model.blocks]
        self._mlps = [packed(block.mlp) for block in model.blocks]
        self._unembed = packed(model.unembed)

    def attention_norm(self, layer: int, x: Tensor) -> Tensor:
        """The norm before attention."""
        normed: Tensor = self._norms[layer][0](x)
        return normed

    def queries(self, layer: int, heads: Sequence[int], x: Float[Tensor, "head row pos d_model"]) -> Tensor:
        """Rotated queries [head, row, pos, d_head] of normed inputs; fewer positions are the last ones."""
        part = self.layers[layer]
        made = _project(x, part.query, part.query_bias, heads)
        return _rotated(_normed(part.norm_query, made), part.rotary, self.frame.n_positions - x.shape[2])

    def keys(self, layer: int, heads: Sequence[int], x: Float[Tensor, "head row pos d_model"]) -> Tensor:
        """Rotated keys of normed inputs; `heads` are key/value heads, and may repeat."""
        part = self.layers[layer]
        return _rotated(_normed(part.norm_key, _project(x, part.key, part.key_bias, heads)), part.rotary, 0)

    def values(self, layer: int, heads: Sequence[int], x: Float[Tensor, "head row pos d_model"]) -> Tensor:
        """Values of normed inputs; `heads` are key/value heads, and may repeat."""
        part = self.layers[layer]
        return _project(x, part.value, part.value_bias, heads)

    def pattern(self, layer: int, q: Tensor, k: Tensor) -> Float[Tensor, "head row query key"]:
        """Attention probabilities; the softmax runs in float32, as the models' own does."""
        scores = (q @ k.transpose(-1, -2)) * self.layers[layer].scale
        scores = scores.masked_fill(self.layers[layer].hidden[-q.shape[2] :], float("-inf"))
        return scores.softmax(-1, dtype=torch.float32).to(q.dtype)

    def attend(
        self, layer: int, heads: Sequence[int], q: Tensor, k: Tensor, v: Tensor
    ) -> Float[Tensor, "head row pos d_model"]:
        """What the heads write to the residual stream, without the output bias."""
        mixed = self.pattern(layer, q, k) @ v
        return _project(mixed, self.layers[layer].out, None, heads)

    def mlp(self, layer: int, x: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """What the MLP writes, for its raw input."""
        normed = self._norms[layer][1](x)
        out = self._mlps[layer](normed)
        written: Tensor = out[0] if isinstance(out, tuple) else out
        return written

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


def _rotated(x: Tensor, rotary: tuple[Tensor, Tensor] | None, start: int) -> Tensor:
    """Rotate the first dimensions of each head by its position, halves against halves (Su et al. 2021, as in Llama)."""
    if rotary is None:
        return x
    cos, sin = rotary[0][start:], rotary[1][start:]
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    a, b = turned.chunk(2, -1)
    turned = turned * cos + torch.cat([-b, a], -1) * sin
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned


def _layer(model: Bridge, layer: int, weights: dict[str, Tensor], out_bias: Tensor, frame: Frame) -> Layer:
    def named(name: str) -> Tensor:
        return weights[str(WeightName(layer, f"attn.{name}"))].detach()

    def maybe(name: str) -> Tensor | None:
        found = weights.get(str(WeightName(layer, f"attn.{name}")))
        return None if found is None else found.detach()

    attention = model.blocks[layer].attn.original_component
    query = named("W_Q")
    rotary = frame.arguments[layer].get("position_embeddings") if getattr(attention, "use_rope", True) else None
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    return Layer(
        query=query,
        key=named("W_K"),
        value=named("W_V"),
        out=named("W_O"),
        query_bias=maybe("b_Q"),
        key_bias=maybe("b_K"),
        value_bias=maybe("b_V"),
        out_bias=out_bias,
        norm_query=norms[0],
        norm_key=norms[1],
        rotary=None if rotary is None else (rotary[0][0].to(query.dtype), rotary[1][0].to(query.dtype)),
        hidden=_hidden(frame, layer, query.device),
        scale=float(getattr(attention, "scaling", None) or query.shape[-1] ** -0.5),
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
