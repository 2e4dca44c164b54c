"""The same numbers as the plain engine, without computing again what did not change.

Four savings, each exact in exact arithmetic:
1. Only the tail. Readers are searched from the last to the first, so below the one at hand everything is still clean.
2. Only what is reachable, and
3. only the positions that count: see `engine/plan.py`. An input changes by exactly the sum of its writers' changes.
4. Many cuts at once. Cutting e1, then e1 and e2, and so on are rows of one batch: see `search/acdc.py`.

The state is kept for all nodes, and built anew from the weights by `rebuild`, so that rounding does not pile up.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine import plan as planning
from circuits.engine.plan import Plan, Step
from circuits.engine.reference import Reference
from circuits.engine.state import State
from circuits.engine.writes import Mask

# Bytes that the changes of one batch may take. A batch's shape decides the rounding of a rise, and a search that goes
# on must find the bits that it found before: so this stays what it is however much memory is free.
BUDGET = 400e6
BUSY = 132  # positions that one product should have at least: fewer are slower each, more are not faster
MOST = 24  # variants in one batch: even at one position each, more do not pay


Inputs = Callable[[list[int], dict[int, list[int]], bool], Tensor]
Heard = dict[str, tuple[list[int], Tensor]]
Made = tuple[
    Tensor, list[int], Tensor, slice
]  # a part of the state, which of it, [which, variant row, pos, ...], where


class Fast(State):
    """The current circuit's state, and the losses of many variants of one reader's input."""

    def __init__(self, reference: Reference) -> None:
        super().__init__(reference)
        self.n_evaluated = 0  # variants whose loss was computed
        self._made: list[Made] = []  # by the last variants
        self.difference = self._check_cuts()
        self.rebuild(self.graph.full())  # the check leaves another circuit behind

    def plan(self, number: int) -> Plan:
        """What to compute when reader `number` changes in the current circuit."""
        return planning.plan(self.graph, self.kept, number, self.tokens.shape[1])

    def good_batch(self, plan: Plan) -> int:
        """How many variants keep the matrix products busy; with more of them, more are thrown away."""
        return min(max(4, BUSY // (plan.positions * len(self.tokens))), MOST, self.largest_batch(plan))

    def largest_batch(self, plan: Plan) -> int:
        """How many variants fit into the memory budget."""
        each = (plan.cost + 3 * self.graph.n_heads * plan.positions) * len(self.tokens) * self.inputs.shape[-1]
        each += 3 * len(self.tokens) * int(self.model.cfg.d_vocab)
        return max(1, int(BUDGET / (each * self.inputs.element_size())))

    @torch.no_grad()
    def losses(self, plan: Plan, x: Float[Tensor, "variant row pos d_model"]) -> Float[Tensor, " variant"]:
        """The loss of each variant of the plan's reader's input; one position (the last) where the plan says so."""
        graph, kernel = self.graph, self.kernel
        variants, n = x.shape[:2]
        t = self.tokens.shape[1]
        self.n_evaluated += variants
        end, everywhere = slice(t - 1, t), slice(None)
        self._made = [(self.inputs, [plan.reader], x.flatten(0, 1)[None], end if plan.last else everywhere)]
        changes: dict[int, Tensor] = {}  # by writer, [variant, row, pos, d_model]; one position where it is the last

        def inputs(numbers: list[int], hears: dict[int, list[int]], last: bool) -> Tensor:
            """The changed inputs of these readers, [reader, variant row, pos, d_model]."""
            if numbers == [plan.reader]:
                return (x[..., -1:, :] if last else x).flatten(0, 1)[None]
            where = end if last else everywhere
            made = self.inputs[numbers][:, None, :, where].repeat(1, variants, 1, 1, 1)
            for one, number in zip(made, numbers, strict=True):
                if number == plan.reader:
                    one.copy_(x[..., -1:, :] if last else x)
                else:
                    for writer in hears[number]:
                        one += changes[writer][..., -1:, :] if last else changes[writer]
            self._made.append((self.inputs, numbers, made.flatten(1, 2), where))
            return made.flatten(1, 2)

        for step in plan.steps:
            if step.kind == "heads":
                out = self._heads(step, inputs, variants)
            else:
                heard = inputs(step.readers[step.kind], step.hears, step.last)[0]
                beside = step.kind == "beside"
                out = kernel.beside(step.layer, heard)[None] if beside else self._mlp(step, heard, variants)
            where = end if step.last else everywhere
            self._made.append((self.outputs, step.nodes, out, where))
            change = out.unflatten(1, (variants, n)) - self.outputs[step.nodes][:, None, :, where]
            changes.update(zip(step.nodes, change, strict=True))
        logits = graph.reader_index["logits"]
        if plan.reader == logits:
            final = x[..., -1, :]
        else:
            final = self.inputs[logits][:, -1].repeat(variants, 1, 1)
            for writer in plan.logits:
                final += changes[writer][..., -1, :]
            self._made.append((self.inputs, [logits], final.flatten(0, 1)[None, :, None], end))
        return self.objective.losses(kernel.logits(final.flatten(0, 1)).unflatten(0, (variants, n)))

    def commit(self, variant: int) -> None:
        """Of the last variants this one becomes the state."""
        n = len(self.tokens)
        for state, which, made, where in self._made:
            state[which, :, where] = made[:, variant * n : (variant + 1) * n]
        self._made = []

    def _mlp(self, step: Step, x: Float[Tensor, "variant_row pos d_model"], variants: int) -> Tensor:
        """What the step's MLP writes, or those of its experts that lead on, [node, variant row, pos, d_model]."""
        out, first = self.kernel.mlp(step.layer, x, variants), self.graph.mlp_writers(step.layer).start
        return out if len(out) == len(step.nodes) else out[[node - first for node in step.nodes]]

    def _heads(self, step: Step, inputs: Inputs, variants: int) -> Tensor:
        """What the step's heads write, [head, variant row, pos, d_model]."""
        graph, kernel, layer = self.graph, self.kernel, step.layer
        nodes = [node - graph.head_writer(layer) for node in step.nodes]
        where = slice(self.tokens.shape[1] - 1, None) if step.last else slice(None)
        heard = self._heard(step, inputs, where)
        heads = self._recomputed(step, nodes, heard)
        q = self._part("q", layer, heads, heard, variants, where)
        pairs = sorted({self.pair(head) for head in heads})
        k, v = (self._part(kind, layer, pairs, heard, variants, slice(None)) for kind in "kv")
        own = [pairs.index(self.pair(head)) for head in heads]
        k, v = (part if own == list(range(len(pairs))) else part[own] for part in (k, v))
        given = kernel.attend(layer, heads, q, k, v)
        if self.results is None:
            return given
        every = self.results[layer][:, None, :, where].repeat(1, variants, 1, 1, 1).flatten(1, 2)
        every[heads] = given
        self._made.append((self.results[layer], list(range(graph.n_heads)), every, where))
        return kernel.written(layer, every)[nodes]

    def _heard(self, step: Step, inputs: Inputs, where: slice) -> Heard:
        """For queries, keys and values, which of them hear something new, and their normed inputs."""
        kernel, layer, readers = self.kernel, step.layer, self.graph.readers
        if "head" in step.readers:  # whole heads: all three are new
            numbers = step.readers["head"]
            x = kernel.attention_norm(layer, inputs(numbers, step.hears, False))
            heads = [readers[number].head for number in numbers]
            return {"q": (heads, x[:, :, where]), "k": (heads, x), "v": (heads, x)}
        found = {}
        for kind, numbers in step.readers.items():
            x = kernel.attention_norm(layer, inputs(numbers, step.hears, step.last and kind == "q"))
            found[kind] = [readers[number].head for number in numbers], x
        return found

    def _recomputed(self, step: Step, nodes: list[int], heard: Heard) -> list[int]:
        """The heads whose attention changes; where heads are coupled, those that lead nowhere themselves too."""
        graph = self.graph
        if not graph.coupled:
            return nodes
        if self.kernel.over_all and not {"q", "k"}.isdisjoint(heard):
            return list(range(graph.n_heads))
        first = graph.head_writer(step.layer)
        changed = [graph.nodes_of(graph.readers[number]) for numbers in step.readers.values() for number in numbers]
        return sorted({node - first for own in changed for node in own})

    def _part(self, kind: str, layer: int, which: list[int], heard: Heard, variants: int, where: slice) -> Tensor:
        """Queries, keys or values of these heads (of these key/value heads), some of them made anew."""
        state = {"q": self.queries, "k": self.keys, "v": self.values}[kind]
        new, x = heard.get(kind, ([], None))
        made = None
        if x is not None:
            made = self.kernel.projected(layer, kind, self._native(kind, new), x)
            if self.kernel.over_all and kind != "v":
                every = _expanded(self.projected[kind][layer], variants, where)
                every[new] = made
                made, new = self.kernel.turned(layer, kind, every), list(range(len(every)))
                self._made.append((self.projected[kind][layer], new, every, where))
            elif kind != "v":
                made = self.kernel.turned(layer, kind, made)
            self._made.append((state[layer], new, made, where))
        if made is not None and new == which:
            return made
        found = _expanded(state[layer][which], variants, where)
        if made is not None:
            found[[which.index(each) for each in new]] = made
        return found

    def _native(self, kind: str, which: list[int]) -> list[int]:
        """The numbers of the projections that these heads, or key/value heads, go through."""
        return which if kind == "q" or self.graph.split else [head // self.graph.group for head in which]

    def cuts(self, writers: list[int], last: bool) -> Float[Tensor, "writer row pos d_model"]:
        """What a reader's input changes by when it stops hearing each of these writers."""
        change = self.ablated[writers] - self.outputs[writers]
        return change[:, :, -1:] if last else change

    def _check_cuts(self) -> float:
        """Largest difference to the plain engine; ModelError if it is more than rounding.

        Measured for one edge of each kind of reader, drawn at random and cut alone; for the empty circuit; and for one
        with half the edges. In the latter two an input may be nothing but rounding, which its norm blows up: under zero
        ablation differences of 1e-3 occur in float32. The search widens its guard by what is seen here.
        """
        graph, generator = self.graph, np.random.default_rng(0)
        kinds = {
            reader.kind: [n for n, r in enumerate(graph.readers) if r.kind == reader.kind] for reader in graph.readers
        }
        found = []
        for numbers in kinds.values():
            number = int(generator.choice(numbers))
            writer = int(generator.integers(graph.below(graph.readers[number])))
            plan = self.plan(number)
            x = self.inputs[number][:, -1:] if plan.last else self.inputs[number]
            loss = float(self.losses(plan, x + self.cuts([writer], plan.last))[0])
            kept = graph.full()
            kept[writer, number] = False
            found.append(self._gap(kept, loss, graph.edge_name(writer, number)))
        for share, what in ((0.0, "every edge"), (0.5, "half the edges")):
            kept = graph.allowed & (generator.random(graph.allowed.shape) < share)
            found.append(self._gap(kept, self.rebuild(kept), what, loose=10))
        return max(found)

    def _gap(self, kept: Mask, loss: float, what: str, loose: float = 1) -> float:
        """How far a loss is from the plain engine's for the circuit `kept`; ModelError if by more than rounding."""
        slow = self.reference.loss(kept)
        gap = abs(loss - slow) / max(1.0, abs(slow))
        self.refuse(gap / loose, f"cutting {what} is off by {gap:.2g} of the loss")
        return gap


def _expanded(state: Tensor, variants: int, where: slice) -> Float[Tensor, "head variant_row pos d_head"]:
    """The same for every variant, to be changed in place."""
    return state[:, None, :, where].expand(-1, variants, -1, -1, -1).flatten(1, 2).clone()
