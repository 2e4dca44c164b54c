"""What every part of one circuit holds: the inputs, outputs, queries, keys and values of all nodes, of all prompts.

Built from the weights by `rebuild`, for the whole model first. Its arithmetic (`engine/heads.py`) is our own, so it is
proven on the model at hand each time: what every writer writes in the clean run, and the logits, must be what the
model's own forward pass gives, up to the rounding of the weights' type.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.heads import Kernel
from circuits.engine.reference import Reference
from circuits.engine.room import check_copies
from circuits.engine.writes import UNKNOWN, Mask, writes
from factscope.errors import ModelError
from factscope.model.bridge import architecture

# Share of a writer's size, or of the logits' spread, that rounding can make up over thirty layers; measured on SmolLM2
# and random models it is 1e-7, 2e-5, 1e-2 and 0.1. A head computed in another way is off by about its own size.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25}


T = TypeVar("T")


class State:
    """The current circuit's state."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.model, self.graph, self.objective = reference.model, reference.graph, reference.objective
        self.tokens = reference.task.tokens(self.model)
        check_copies(self.model)
        self.rounding = ROUNDING[reference.replacement.dtype]
        self.kernel = self._known(lambda: Kernel(self.model, self.graph, self.tokens, reference.choices))
        self.ablated = reference.replacement
        graph, (n, t) = self.graph, self.tokens.shape
        like = self.ablated
        width, d_head = self.ablated.shape[-1], self.kernel.d_head
        pairs = graph.n_kv_heads if graph.split else graph.n_heads
        self.inputs = like.new_zeros(len(graph.readers), n, t, width)
        self.outputs = like.new_zeros(len(graph.writers), n, t, width)
        self.queries = like.new_zeros(graph.n_layers, graph.n_heads, n, t, d_head)
        self.keys = like.new_zeros(graph.n_layers, pairs, n, t, d_head)
        self.values = like.new_zeros(graph.n_layers, pairs, n, t, d_head)
        # What shared norms need of the heads that do not change: what they give, and queries and keys before the norm.
        whole = (graph.n_layers, graph.n_heads, n, t, width)
        self.results = like.new_zeros(whole) if self.kernel.shares else None
        self.projected = (
            {"q": torch.zeros_like(self.queries), "k": torch.zeros_like(self.keys)} if self.kernel.over_all else {}
        )
        written = writes(self.model, graph, self.tokens)
        self.embedded = written[: graph.n_inputs].clone()
        self.kept = graph.full()
        self._known(lambda: self.rebuild(graph.full()))
        self.check(written)

    @torch.no_grad()
    def rebuild(self, kept: Mask, layer: int = 0) -> float:
        """Compute the circuit `kept` from `layer` up, all that is below being as it was; gives its loss."""
        graph, kernel = self.graph, self.kernel
        self.kept = kept.copy()
        if layer == 0:
            self.outputs[: graph.n_inputs] = self.embedded
        biases = self.ablated.new_zeros(self.ablated.shape[-1])
        for below in range(layer):
            biases = biases + kernel.layers[below].out_bias
        for current in range(layer, graph.n_layers):
            numbers = [i for i, reader in enumerate(graph.readers) if reader.layer == current]
            heads = [i for i in numbers if graph.readers[i].kind not in ("mlp", "beside")]
            mlps = [i for i in numbers if graph.readers[i].kind in ("mlp", "beside")]
            self._build_inputs(heads, biases)
            if graph.parallel:
                self._build_inputs(mlps, biases)
            first = graph.head_writer(current)
            self.outputs[first : first + graph.n_heads] = self._build_heads(current, heads)
            biases = biases + kernel.layers[current].out_bias
            if not graph.parallel:
                self._build_inputs(mlps, biases)
            self.outputs[list(graph.mlp_writers(current))] = kernel.mlp(current, self.inputs[mlps[0]])
            if current in graph.beside:
                self.outputs[graph.beside_writer(current)] = kernel.beside(current, self.inputs[mlps[1]])
        last = graph.reader_index["logits"]
        self._build_inputs([last], biases)
        return float(self.objective.losses(kernel.logits(self.inputs[last][:, -1])[None])[0])

    def _build_inputs(self, numbers: list[int], biases: Tensor) -> None:
        below = self.graph.below(self.graph.readers[numbers[0]])
        kept = torch.from_numpy(self.kept[:below, numbers].T.copy()).to(self.outputs)
        made = (kept @ self.outputs[:below].flatten(1)).unflatten(1, self.outputs.shape[1:])
        cut = torch.from_numpy((self.graph.allowed & ~self.kept)[:below, numbers].T.copy()).to(self.outputs)
        if bool(cut.any()):
            made = made + (cut @ self.ablated[:below].flatten(1)).unflatten(1, self.ablated.shape[1:])
        self.inputs[numbers] = made + biases

    def _build_heads(self, layer: int, numbers: list[int]) -> Tensor:
        graph, kernel = self.graph, self.kernel
        x = kernel.attention_norm(layer, self.inputs[numbers])
        heads, pairs = range(graph.n_heads), range(graph.n_kv_heads)
        if graph.split:
            parts = x[: len(heads)], x[len(heads) : len(heads) + len(pairs)], x[len(heads) + len(pairs) :]
            shared = [int(pair) for pair in pairs]
        else:
            parts = (x, x, x)
            shared = [head // graph.group for head in heads]
        for kind, which, part, state in (
            ("q", list(heads), parts[0], self.queries),
            ("k", shared, parts[1], self.keys),
        ):
            projected = kernel.projected(layer, kind, which, part)
            if self.projected:
                self.projected[kind][layer] = projected
            state[layer] = kernel.turned(layer, kind, projected)
        self.values[layer] = kernel.projected(layer, "v", shared, parts[2])
        own = [self.pair(head) for head in heads]
        given = kernel.attend(layer, list(heads), self.queries[layer], self.keys[layer][own], self.values[layer][own])
        if self.results is None:
            return given
        self.results[layer] = given
        return kernel.written(layer, given)

    def share(self, layer: int, parts: Float[Tensor, "*parts d_model"], row: int, pos: int) -> Tensor:
        """What parts of what the layer's heads give at one position add to the residual stream there."""
        if self.results is None:
            return parts
        return self.kernel.layers[layer].outs.written(parts, self.results[layer][:, row, pos].sum(0))

    def pair(self, head: int) -> int:
        """Where a head's keys and values are in the state."""
        return head // self.graph.group if self.graph.split else head

    def _known(self, compute: Callable[[], T]) -> T:
        """What is computed; ModelError where a part of the model does not work as ours do."""
        try:
            return compute()
        except torch.OutOfMemoryError:
            raise
        except UNKNOWN as trouble:
            self.refuse(float("inf"), str(trouble)[:100])
            raise

    def check(self, written: Float[Tensor, "writer row pos d_model"]) -> None:
        """ModelError unless every writer and the logits are what the model's own forward pass gave."""
        size = written.flatten(1).float().norm(dim=1)
        least = 1e-3 * size.median() + 1e-7 * size.max()  # a silent writer is off by rounding of what is not silent
        off = (self.outputs - written).flatten(1).float().norm(dim=1) / (size + least)
        worst = int(off.nan_to_num(torch.inf).argmax())
        self.refuse(float(off[worst]), f"{self.graph.writers[worst]} is off by {float(off[worst]):.2g} of its size")
        clean = self.objective.clean.float()
        logits = self.kernel.logits(self.inputs[-1][:, -1]).float()
        gap = float((logits - clean).abs().max() / (clean.std() + 1e-6))  # where all are alike, rounding is no spread
        self.refuse(gap, f"the logits are off by {gap:.2g} of their spread")

    def refuse(self, off: float, said: str) -> None:
        """ModelError if what is off is more than rounding."""
        if not off <= self.rounding:
            raise ModelError(
                f"this architecture ({architecture(self.model)}) computes its heads or MLPs in a way that circuits do "
                f"not know ({said}): circuit find works on it with --no-evaluate, and for acdc with --engine reference"
            )
