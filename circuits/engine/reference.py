"""Run a model with only some edges: the plain, obvious way, which everything faster is held against.

One full forward pass with hooks. A reader that hears everything reads the residual stream as it runs, bit for bit. The
input of any other is summed anew: what the writers that it hears wrote in this very pass, what the others are ablated
to, and the biases. So a cut anywhere changes all that is computed above it, norms included. (Adding "ablated minus
written" to the stream is the same in exact arithmetic, but in float32 the few writers of some 10^3 that a stream has
leave their rounding behind, and losses are off by 10^-3.) What is not computed again is which experts a token goes to:
that choice is the full model's (`factscope.model.parts.experts` says why); their weights are.

A graph that is not split gives each query head its own keys and values, while the model shares them within a group. The
same weights can still do it: the batch is run once for each member of the groups, all with the same residual stream,
and each head's result is taken from the run in which the shared keys and values read that head's input. Likewise where
a key or value hears something else as one token reads it than as another does (`circuits/by_role`): one run for each
kind of attending token, from which what heads write at such tokens is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.ablations import ablated
from circuits.engine import beside
from circuits.engine.room import check_state
from circuits.engine.writes import Mask, Parts, attention_biases, check_sum, copies, reading, recorders
from circuits.graph import Graph
from circuits.task import Objective, Task
from factscope.model.agreement import finite
from factscope.model.bridge import Bridge, last_logits
from factscope.model.hooks import Hook, hooked
from factscope.model.parts.experts import choices_of
from factscope.model.sites import Site
from factscope.runs.workers import Workers


@dataclass(frozen=True, eq=False)
class Sent:
    """An engine as it is sent to whoever shares its work: made there once, from the same ablated writes."""

    graph: Graph
    task: Task
    replacement: Tensor
    made: "list[Reference]" = field(default_factory=list)

    def on(self, model: Bridge) -> "Reference":
        """The engine on a model; in the process that sends it, the one that it had."""
        if not self.made:
            self.made.append(Reference(model, self.graph, self.task, self.replacement))
        return self.made[0]


class Reference:
    """Evaluates any set of edges, one full forward pass each."""

    def __init__(
        self,
        model: Bridge,
        graph: Graph,
        task: Task,
        replacement: Tensor | None = None,
        attending: Int[Tensor, "row pos"] | None = None,
    ) -> None:
        """Of a task.

        Args:
            replacement: what cut edges carry, [writer, row, pos, d_model]; else what the task's ablation gives.
            attending: a kind, from 0 on, of each token; gradients at keys and values are then apart by the kind of the
                token that attends. Needs a graph that is split.

        Raises ModelError for a model whose parts do not sum to its stream, and where a run finds no room.
        """
        graph.check_is_of(model)
        self.model, self.graph, self.task, self.attending = model, graph, task, attending
        check_state(model, graph, len(task.prompts), task.n_positions)
        self.objective = Objective.of(model, task)
        check_sum(model, graph, task.tokens(model))
        self.replacement = ablated(model, graph, task) if replacement is None else replacement
        self.n_forwards = 0
        whole = float(self.objective.losses(self.objective.clean[None])[0])
        self._losses = {_edges(graph.full()): whole}  # of circuits that were asked for, by their edges
        self._tokens = task.tokens(model)
        self.parts = Parts.of(model)
        self.choices = choices_of(model, self._tokens)  # of experts, in the full model; made again in every circuit
        self._biases = attention_biases(model)

    def sent(self, workers: Workers) -> Sent:
        """This engine for those who share its work."""
        return Sent(self.graph, self.task, self.replacement, [self] if workers.alone else [])

    @torch.no_grad()
    def logits(self, kept: Mask, taken: Int[np.ndarray, "row pos"] | None = None) -> Float[Tensor, "row vocab"]:
        """Logits at the last position with only the kept edges.

        Args:
            kept: [writer, reader], or [writer, reader, row, pos] for edges that are kept at some positions alone.
            taken: the copy of all rows that each token attends in, where keys and values depend on it; `kept` then has
                the rows of the first copy, of the second and so on. Needs a graph that is split.
        """
        graph = self.graph
        n = copies(graph) if taken is None else kept.shape[2] // len(taken)
        tokens = self._tokens.repeat(n, 1)
        alike = n if kept.ndim == 2 else 1  # copies of one residual stream, which is summed once
        weight = self.replacement
        shape = (len(graph.writers), len(tokens) // alike, tokens.shape[1], weight.shape[-1])
        written = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        ablated = weight.repeat(1, n // alike, 1, 1) if weight.shape[1] > 1 else weight
        allowed = graph.allowed.reshape(*graph.allowed.shape, *(1 for _ in kept.shape[2:]))
        cut, heard = (torch.from_numpy(allowed & mask) for mask in (~kept, kept))
        if kept.ndim == 4 and taken is None:
            cut, heard = (mask.repeat(1, 1, n, 1) for mask in (cut, heard))
        biases = torch.stack([torch.zeros_like(self._biases[0]), *self._biases]).cumsum(0)

        def keep(number: int, out: Tensor) -> None:
            written[number] = out[: shape[1]]

        def readers(numbers: list[int]) -> Tensor | None:
            """These readers' inputs, [reader, row, pos, d_model], or None where nothing is cut."""
            reader = graph.readers[numbers[0]]
            below = graph.below(reader)
            if not cut[:below, numbers].any():
                return None
            live = _summed(heard[:below, numbers].to(weight), written[:below])
            dead = _summed(cut[:below, numbers].to(weight), ablated[:below])
            return (live + dead + biases[reader.layer + graph.after_attention(reader)]).repeat(1, alike, 1, 1)

        def hear(layer: int, x: Tensor) -> Tensor:
            made = readers([graph.reader_index[f"b{layer}"]])
            return x if made is None else made[0]

        routing = self.parts.routing(self.choices, n)
        attending = None if taken is None else torch.from_numpy(taken).to(weight.device)
        hooks = recorders(self.parts, graph, routing, keep, attending)
        hooks += beside.hooks(self.model, graph, self._tokens, keep, hear)
        for layer in range(graph.n_layers):
            hooks += self._attention(layer, readers)
            hooks.append((Site("mlp_in", layer), _single(graph.reader_index[f"m{layer}"], readers)))
        last = Site("resid", graph.n_layers - 1)
        hooks.append((last, _single(graph.reader_index["logits"], readers)))
        with reading(self.model, routing), hooked(self.model, hooks):
            out = last_logits(self.model, tokens)
        self.n_forwards += 1
        return finite(out[: len(self._tokens)])

    @property
    def copies(self) -> int:
        """How often a pass for gradients runs the batch."""
        return copies(self.graph) if self.attending is None else int(self.attending.max()) + 1

    def loss(self, kept: Mask) -> float:
        """The task's loss with only the kept edges; each circuit is run once, and all edges are the model's own run."""
        edges = _edges(kept)
        if edges not in self._losses:
            self._losses[edges] = float(self.objective.losses(self.logits(kept)[None])[0])
        return self._losses[edges]

    def ranks(self, kept: Mask) -> tuple[int, ...]:
        """Rank of each prompt's answer, 1 for the most probable, with only the kept edges."""
        return self.objective.ranks(self.logits(kept))

    def clean_ranks(self) -> tuple[int, ...]:
        """Rank of each prompt's answer in the full model."""
        return self.objective.ranks(self.objective.clean)

    def _attention(self, layer: int, readers: Callable[[list[int]], Tensor | None]) -> list[Hook]:
        """What queries, keys and values hear, each [row, pos, head, d_model]; of whole heads one thing is all three."""
        graph = self.graph
        whole: list[Tensor | None] = []

        def split(kind: str) -> Callable[[Tensor], Tensor | None]:
            heads = graph.n_heads if kind == "q" else graph.n_kv_heads
            numbers = [graph.reader_index[f"a{layer}.h{head}.{kind}"] for head in range(heads)]

            def cut(_: Tensor) -> Tensor | None:
                made = readers(numbers)
                return None if made is None else made.permute(1, 2, 0, 3)

            return cut

        def queries(_: Tensor) -> Tensor | None:
            made = readers([graph.reader_index[f"a{layer}.h{head}"] for head in range(graph.n_heads)])
            whole[:] = [None if made is None else made.permute(1, 2, 0, 3)]
            return whole[0]

        def keys_or_values(_: Tensor) -> Tensor | None:
            if whole[0] is None or graph.group == 1:
                return whole[0]
            by_copy = whole[0].unflatten(0, (graph.group, -1)).unflatten(3, (graph.n_kv_heads, graph.group))
            return torch.cat([by_copy[copy, :, :, :, copy] for copy in range(graph.group)])  # copy c: each group's c-th

        cuts = (
            {kind: split(kind) for kind in "qkv"}
            if graph.split
            else {"q": queries, "k": keys_or_values, "v": keys_or_values}
        )
        return [(Site(f"{kind}_input", layer), cut) for kind, cut in cuts.items()]


def _edges(kept: Mask) -> bytes:
    """A circuit's name among others of its graph."""
    return np.packbits(kept).tobytes()


def _summed(mask: Tensor, outputs: Float[Tensor, "writer row pos d_model"]) -> Tensor:
    """The sum of the outputs that each reader's mask has, [reader, row, pos, d_model]; 1 row where all are alike."""
    made: Tensor
    if mask.dim() == 2:
        made = mask.T @ outputs.flatten(1)
        made = made.unflatten(1, outputs.shape[1:])
    else:
        made = torch.einsum("wrnp,wnpd->rnpd", mask, outputs.expand(-1, *mask.shape[2:], -1))
    return made


def _single(number: int, readers: Callable[[list[int]], Tensor | None]) -> Callable[[Tensor], Tensor | None]:
    def cut(_: Tensor) -> Tensor | None:
        made = readers([number])
        return None if made is None else made[0]

    return cut
