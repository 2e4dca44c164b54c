"""The same numbers as the plain engine, without computing again what did not change.

Four savings, each exact in exact arithmetic:
1. Only the tail. Readers are searched from the last to the first, so below the one at hand everything is still clean.
2. Only what is reachable. A cut edge carries a constant; when an input changes, only nodes that hear it over kept edges
   change, and their inputs by exactly the sum of those changes.
3. Only the positions that count. The loss reads the last position; a node whose every listener needs only that
   position (the logits, an MLP or a query that leads there) is computed there alone. Keys and values need all.
4. Many cuts at once. Cutting e1, then e1 and e2, and so on are rows of one batch: see `search/acdc.py`.

The state (inputs, outputs, queries, keys, values of the current circuit) is kept for all nodes, and built anew from the
weights by `rebuild`, so that rounding does not pile up.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.heads import Kernel
from circuits.engine.reference import Reference
from circuits.engine.writes import Mask, writes
from factscope.errors import ModelError
from factscope.model.forward.partial import Frame

BUDGET = 400e6  # bytes that the changes of one batch may take
BUSY = 132  # positions that one product should have at least: fewer are slower each, more are not faster
MOST = 24  # variants in one batch: even at one position each, more do not pay


@dataclass(frozen=True, eq=False)
class Step:
    """Nodes of one layer that change together: heads, or the MLP; with all positions or the last alone."""

    kind: Literal["heads", "mlp"]
    layer: int
    last: bool
    nodes: list[int]  # writers, in the order of their heads
    readers: dict[str, list[int]]  # changed readers, by kind ("q", "k", "v", "head", "mlp")
    hears: dict[int, list[int]] = field(default_factory=dict)  # for each changed reader, the changed writers it hears


@dataclass(frozen=True, eq=False)
class Plan:
    """What must be computed when one reader's input changes, in order."""

    reader: int
    last: bool  # the reader itself matters at the last position alone
    steps: list[Step]
    seen: list[int]  # changed writers, in order
    logits: list[int]  # changed writers that the logits hear
    positions: int  # of one variant that the widest step computes
    cost: int = 0  # vectors that one variant's changes take


class Fast:
    """The current circuit's state, and the losses of many variants of one reader's input."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.model, self.graph, self.objective = reference.model, reference.graph, reference.objective
        self.tokens = reference.task.tokens(self.model)
        self.kernel = Kernel(self.model, self.graph, Frame.of(self.model, self.tokens))
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
        self.embedded = writes(self.model, graph, self.tokens)[: graph.n_inputs]
        self.n_evaluated = 0  # variants whose loss was computed
        self.kept = graph.full()
        self.difference = self._check()
        self.rebuild(graph.full())  # the check leaves another circuit behind

    # ---- the whole state ----

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
            heads = [i for i in numbers if graph.readers[i].kind != "mlp"]
            mlp = graph.reader_index[f"m{current}"]
            self._build_inputs(heads, biases)
            if graph.parallel:
                self._build_inputs([mlp], biases)
            first = graph.head_writer(current)
            self.outputs[first : first + graph.n_heads] = self._build_heads(current, heads)
            biases = biases + kernel.layers[current].out_bias
            if not graph.parallel:
                self._build_inputs([mlp], biases)
            self.outputs[graph.mlp_writer(current)] = kernel.mlp(current, self.inputs[mlp])
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
        self.queries[layer] = kernel.queries(layer, list(heads), parts[0])
        self.keys[layer] = kernel.keys(layer, shared, parts[1])
        self.values[layer] = kernel.values(layer, shared, parts[2])
        own = [self._pair(head) for head in heads]
        return kernel.attend(layer, list(heads), self.queries[layer], self.keys[layer][own], self.values[layer][own])

    def _pair(self, head: int) -> int:
        """Where a head's keys and values are in the state."""
        return head // self.graph.group if self.graph.split else head

    # ---- what a changed reader changes ----

    def plan(self, number: int) -> Plan:
        """What to compute when reader `number` changes in the current circuit."""
        graph, kept = self.graph, self.kept & self.graph.allowed
        alive = graph.alive(kept)
        wide_reader, wide_node = self._positions(kept, alive)
        changed = np.zeros(len(graph.writers), dtype=bool)
        start = graph.readers[number]
        steps: list[Step] = []
        seen: list[int] = []
        for layer in range(start.layer, graph.n_layers):
            of_layer = [i for i, reader in enumerate(graph.readers) if reader.layer == layer]
            mlp = graph.reader_index[f"m{layer}"]
            hears = {i: np.flatnonzero(kept[:, i] & changed).tolist() for i in of_layer}
            for last in (False, True):
                heads = [
                    node
                    for node in range(graph.head_writer(layer), graph.head_writer(layer, graph.n_heads))
                    if alive[node]
                    and wide_node[node] != last
                    and any(hears[i] or i == number for i in of_layer if graph.feeds[i, node])
                ]
                if heads:
                    steps.append(self._head_step(layer, last, heads, number, hears))
                    seen += heads
            if not graph.parallel:
                changed[seen] = True
                hears[mlp] = np.flatnonzero(kept[:, mlp] & changed).tolist()
            node = graph.mlp_writer(layer)
            if alive[node] and (mlp == number or hears[mlp]):
                steps.append(Step("mlp", layer, not wide_node[node], [node], {"mlp": [mlp]}, {mlp: hears[mlp]}))
                seen.append(node)
            changed[seen] = True
        t = self.tokens.shape[1]
        heard = [node for node in seen if kept[node, graph.reader_index["logits"]]]
        widths = [1 if step.last else t for step in steps]
        cost = sum(len(step.nodes) * width for step, width in zip(steps, widths, strict=True))
        return Plan(number, not wide_reader[number], steps, seen, heard, max(widths, default=1), cost)

    def _head_step(self, layer: int, last: bool, heads: list[int], start: int, hears: dict[int, list[int]]) -> Step:
        readers: dict[str, list[int]] = {}
        for number, writers in hears.items():
            kind = self.graph.readers[number].kind
            if kind != "mlp" and (writers or number == start) and self.graph.feeds[number, heads].any():
                readers.setdefault(kind, []).append(number)
        return Step("heads", layer, last, heads, readers, hears)

    def _positions(self, kept: Mask, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which readers and which nodes are needed at all positions, and not the last alone."""
        graph = self.graph
        reader = np.zeros(len(graph.readers), dtype=bool)
        node = np.zeros(len(graph.writers), dtype=bool)
        for number in range(len(graph.readers) - 1, -1, -1):
            nodes = list(graph.nodes_of(graph.readers[number]))
            if nodes and alive[nodes].any():
                kind = graph.readers[number].kind
                reader[number] = kind in ("k", "v", "head") or node[nodes].any()
                if reader[number]:
                    node |= kept[:, number]
        return reader, node

    def good_batch(self, plan: Plan) -> int:
        """How many variants keep the matrix products busy; with more of them, more are thrown away."""
        return min(max(4, BUSY // (plan.positions * len(self.tokens))), MOST, self.largest_batch(plan))

    def largest_batch(self, plan: Plan) -> int:
        """How many variants fit into the memory budget."""
        each = (plan.cost + 3 * self.graph.n_heads * plan.positions) * len(self.tokens) * self.inputs.shape[-1]
        each += 3 * len(self.tokens) * int(self.model.cfg.d_vocab)
        return max(1, int(BUDGET / (each * self.inputs.element_size())))

    @torch.no_grad()
    def losses(
        self, plan: Plan, x: Float[Tensor, "variant row pos d_model"], commit: bool = False
    ) -> Float[Tensor, " variant"]:
        """The loss of each variant of the plan's reader's input; one position (the last) where the plan says so.

        With `commit`, the one variant becomes the state.
        """
        graph, kernel = self.graph, self.kernel
        variants, n = x.shape[:2]
        t = self.tokens.shape[1]
        self.n_evaluated += variants
        changes: dict[int, Tensor] = {}  # by writer, [variant, row, pos, d_model]; one position where it is the last
        new_inputs = [([plan.reader], x[None], plan.last)]  # stored at the end: two steps may read the same old input

        def inputs(numbers: list[int], hears: dict[int, list[int]], last: bool) -> Tensor:
            """The changed inputs of these readers, [reader, variant row, pos, d_model]."""
            if numbers == [plan.reader]:
                return (x[..., -1:, :] if last else x).flatten(0, 1)[None]
            where = slice(t - 1, t) if last else slice(None)
            made = self.inputs[numbers][:, None, :, where].repeat(1, variants, 1, 1, 1)
            for one, number in zip(made, numbers, strict=True):
                if number == plan.reader:
                    one.copy_(x[..., -1:, :] if last else x)
                else:
                    for writer in hears[number]:
                        one += changes[writer][..., -1:, :] if last else changes[writer]
            new_inputs.append((numbers, made, last))
            return made.flatten(1, 2)

        for step in plan.steps:
            if step.kind == "mlp":
                out = kernel.mlp(step.layer, inputs(step.readers["mlp"], step.hears, step.last)[0])[None]
            else:
                out = self._heads(step, inputs, variants, commit)
            out = out.unflatten(1, (variants, n))
            where = slice(t - 1, t) if step.last else slice(None)
            change = out - self.outputs[step.nodes][:, None, :, where]
            changes.update(zip(step.nodes, change, strict=True))
            if commit:
                self._store(self.outputs, step.nodes, out, step.last)
        end = graph.reader_index["logits"]
        if plan.reader == end:
            final = x[..., -1, :]
        else:
            final = self.inputs[end][:, -1].repeat(variants, 1, 1)
            for writer in plan.logits:
                final += changes[writer][..., -1, :]
            new_inputs.append(([end], final[None, :, :, None], True))
        for numbers, made, last in new_inputs if commit else ():
            self._store(self.inputs, numbers, made, last)
        return self.objective.losses(kernel.logits(final.flatten(0, 1)).unflatten(0, (variants, n)))

    def _heads(
        self, step: Step, inputs: Callable[[list[int], dict[int, list[int]], bool], Tensor], variants: int, commit: bool
    ) -> Tensor:
        graph, kernel, layer = self.graph, self.kernel, step.layer
        heads = [node - graph.head_writer(layer) for node in step.nodes]
        pairs = sorted({self._pair(head) for head in heads})
        t = self.tokens.shape[1]
        where = slice(t - 1, t) if step.last else slice(None)

        if "head" in step.readers:  # whole heads: all three are new
            x = kernel.attention_norm(layer, inputs(step.readers["head"], step.hears, False))
            shared = [head // graph.group for head in heads]
            q = kernel.queries(layer, heads, x[:, :, where])
            k, v = kernel.keys(layer, shared, x), kernel.values(layer, shared, x)
            if commit:
                self.queries[layer][heads, :, where] = q
                self.keys[layer][heads], self.values[layer][heads] = k, v
            return kernel.attend(layer, heads, q, k, v)

        def from_state(state: Tensor, which: list[int], positions: slice) -> Tensor:
            kept = state[layer][which][:, None, :, positions]
            return kept.expand(-1, variants, -1, -1, -1).flatten(1, 2).clone()

        q = from_state(self.queries, heads, where)
        k, v = (from_state(state, pairs, slice(None)) for state in (self.keys, self.values))
        for kind, numbers in step.readers.items():
            short = step.last and kind == "q"
            x = kernel.attention_norm(layer, inputs(numbers, step.hears, short))
            which = [graph.readers[number].head for number in numbers]
            if kind == "q":
                q[[heads.index(head) for head in which]] = kernel.queries(layer, which, x)
            elif kind == "k":
                k[[pairs.index(head) for head in which]] = kernel.keys(layer, which, x)
            else:
                v[[pairs.index(head) for head in which]] = kernel.values(layer, which, x)
        if commit:
            self.queries[layer][heads, :, where] = q
            self.keys[layer][pairs], self.values[layer][pairs] = k, v
        own = [pairs.index(self._pair(head)) for head in heads]
        return kernel.attend(layer, heads, q, k[own], v[own])

    def _store(self, state: Tensor, numbers: list[int], value: Tensor, last: bool) -> None:
        """Write the one variant of a commit into the state."""
        if last:
            state[numbers, :, -1] = value[:, 0, :, -1]
        else:
            state[numbers] = value[:, 0]

    def cuts(self, writers: list[int], last: bool) -> Float[Tensor, "writer row pos d_model"]:
        """What a reader's input changes by when it stops hearing each of these writers."""
        change = self.ablated[writers] - self.outputs[writers]
        return change[:, :, -1:] if last else change

    def _check(self) -> float:
        """Largest difference to the plain engine, over the full, the empty and a half circuit; ModelError if large.

        An input of nothing but rounding is blown up by its norm, so differences of 1e-3 occur where all is ablated to
        zero; the search widens its guard by them.
        """
        generator = np.random.default_rng(0)
        worst = 0.0
        for share in (1.0, 0.0, 0.5):
            kept = self.graph.allowed & (generator.random(self.graph.allowed.shape) < share)
            slow = self.reference.loss(kept)
            worst = max(worst, abs(self.rebuild(kept) - slow) / max(1.0, abs(slow)))
        if not worst <= (1e-2 if self.ablated.dtype.itemsize >= 4 else 0.1):
            raise ModelError(
                f"this architecture ({getattr(self.model.cfg, 'architecture', 'unknown')}) computes a head in a way "
                f"that the fast engine does not know (off by {worst:.2g}); use --engine reference"
            )
        return worst
