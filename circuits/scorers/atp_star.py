"""AtP* (Kramar et al. 2024, arXiv 2403.00745): EAP without two of its blind spots.

QK fix (their eq. 7 and 10). A softmax that puts nearly all on one token has hardly a slope, so the gradient at a query
or key says "no effect" where a changed query would move all of the attention. An edge into a query or key is scored by
the attention that the head computes with the ablated writer there, less its clean attention, times the loss's gradient
at the attention probabilities. An edge into a key changes the keys of all positions at once, as its cut does (the paper
patches one position after another, which for queries is the same).

GradDrop (eq. 11). Where what a writer does directly and what it does through one layer cancel, the sum of both is
small. So the backward pass is repeated, each time with no gradient through one layer's attention and MLP, and the sizes
are averaged: 1/(L - 1) times the sum over layers of |effect|, for with its own layer left out a reader has none.

Convention: in the loss's unit. The paper's score is a size; it is given the sign of the estimate without drops, so that
positive still means that the edge helps. Sizes are of each prompt, and a score over several is the mean of the signed.
Scope: one backward pass for each layer. Queries and keys must be apart (a split graph), heads must not share a norm
(for the QK fix), and there must be two layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.gradients import Point, clean_writes, example_scores, mean_gradient
from circuits.engine.mirror import seen_from
from circuits.engine.reference import Reference
from circuits.engine.state import State
from circuits.scorers.eap import Attribution
from factscope.errors import UserError

WRITERS = 32  # of a layer's, whose attention is computed at once


@dataclass(frozen=True)
class AtPStar(Attribution):
    """Which of the two repairs are made; with neither it is EAP."""

    name: ClassVar[str] = "atp_star"

    qk_fix: bool = True
    grad_drop: bool = True

    def examples(self, reference: Reference) -> Tensor:
        """Each prompt's scores [example, writer, reader] in the loss's unit, zero where there is no edge."""
        graph = reference.graph
        if self.qk_fix and not graph.split:
            raise UserError(
                "AtP* computes attention anew for a changed query and for a changed key, so it needs them apart: leave "
                "out --no-split-qkv, or give --set qk_fix=false"
            )
        if self.qk_fix and graph.coupled:
            raise UserError(
                "AtP* computes one head's attention anew, and the heads of this model share a norm, so that none is "
                "alone: give --set qk_fix=false"
            )
        if self.grad_drop and graph.n_layers < 2:
            raise UserError("AtP* drops one layer after another, and this model has a single one: grad_drop=false")
        start, sign = seen_from(reference, self.direction)
        clean = clean_writes(start)
        dropped: list[int | None] = [None, *(range(graph.n_layers) if self.grad_drop else ())]
        gradients = (mean_gradient(start, [Point(dropped=layer)], clean) for layer in dropped)
        first, slopes = [], []  # of each backward pass: what EAP scores; the slope at the attention probabilities
        state = State(start) if self.qk_fix else None
        for layer, gradient in zip(dropped, gradients, strict=True):
            first.append(example_scores(start, gradient, clean))
            if state is not None:
                slopes.append(attention_slopes(state, gradient, layer))
        each = torch.stack(first)  # [pass, example, writer, reader]
        if state is not None:
            _fix(state, clean, slopes, each)
        if not self.grad_drop:
            return sign * each[0]
        return sign * torch.where(each[0] < 0, -1.0, 1.0) * each[1:].abs().sum(0) / (graph.n_layers - 1)


def attention_slopes(
    state: State, gradient: Float[Tensor, "reader row pos d_model"], dropped: int | None
) -> list[Float[Tensor, "head row query key"]]:
    """The loss's gradient at each layer's attention probabilities, from that at every reader above.

    What a head writes reaches the loss through its listeners alone, and each hears a plain sum: so the gradient at a
    head's output is the sum of theirs, and through values and output matrix it is that at the probabilities.
    """
    graph, found = state.graph, []
    for layer in range(graph.n_layers):
        above = torch.from_numpy(graph.allowed[graph.head_writer(layer)].copy()).to(gradient.device)
        written = gradient[above].sum(0) * (layer != dropped)
        mixed = torch.einsum("rtm,hdm->hrtd", written, state.kernel.layers[layer].out)
        values = state.values[layer][[state.pair(head) for head in range(graph.n_heads)]]
        found.append(torch.einsum("hrqd,hrkd->hrqk", mixed, values))
    return found


@torch.no_grad()
def _fix(
    state: State, clean: Float[Tensor, "writer row pos d_model"], slopes: Sequence[list[Tensor]], each: Tensor
) -> None:
    """Write the scores of all edges into queries and keys anew, [pass, example, writer, reader]."""
    graph, kernel, n = state.graph, state.kernel, clean.shape[1]
    heads, pairs = list(range(graph.n_heads)), list(range(graph.n_kv_heads))
    own = [state.pair(head) for head in heads]
    for layer in range(graph.n_layers):
        slope = torch.stack([of_pass[layer] for of_pass in slopes]).double()  # [pass, head, row, query, key]
        q, k = state.queries[layer], state.keys[layer][own]
        before = kernel.pattern(layer, q, k)
        groups = [[head for head in heads if own[head] == pair] for pair in pairs]
        at_q = [graph.reader_index[f"a{layer}.h{head}.q"] for head in heads]
        at_k = [graph.reader_index[f"a{layer}.h{pair}.k"] for pair in pairs]
        stream = state.inputs[at_q[0]]  # all readers of a layer hear the same in the full model
        below = graph.below(graph.readers[at_q[0]])
        for first in range(0, below, WRITERS):
            some = list(range(first, min(first + WRITERS, below)))
            change = (state.ablated[some] - clean[some]).expand(-1, *stream.shape)
            x = kernel.attention_norm(layer, (stream + change).flatten(0, 1)[None])
            times = len(some)
            queries = kernel.queries(layer, heads, x.expand(len(heads), -1, -1, -1))
            keys = kernel.keys(layer, pairs, x.expand(len(pairs), -1, -1, -1))[own]
            for numbers, members, q_, k_ in (
                (at_q, [[head] for head in heads], queries, k.repeat(1, times, 1, 1)),
                (at_k, groups, q.repeat(1, times, 1, 1), keys),
            ):
                moved = kernel.pattern(layer, q_, k_).unflatten(1, (times, n)) - before[:, None]
                effect = n * torch.einsum("hwrqk,phrqk->prwh", moved.double(), slope).cpu()
                for number, group in zip(numbers, members, strict=True):
                    each[:, :, some, number] = effect[..., group].sum(-1)


METHOD = AtPStar
