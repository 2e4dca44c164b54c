"""Maps of edited weights: where and how sparsely each method changes them, and the change read through the vocabulary.

After the survey of editing (Zhang et al. 2024, arXiv 2401.01286, section 5.1, Fig. 6 and 7), for each edit alone on the
unedited model and each matrix W [d_in, d_out] that it changes:

    where       ||dW|| / ||W||; |dW| as a picture, the root mean square of blocks of entries
    how much    rank, effective rank, the share of entries that are other numbers once the edit is in place
    how sparse  the share of ||dW||^2 in the largest rows and columns; the fewest entries with half of it
    in words    of matrices that write to the residual stream (W_out, W_O): the five rows that change most, before and
                after, and the five strongest directions of the change, each unembedded as a state would be; the rank of
                the target's token and of the old answer's in the best of the five (1 is the top; Hit@10 is rank <= 10)

A direction has no sign of its own, so a token's rank in it is the better of both ends. Tokens are the first at which
the two answers differ.

Convention: rows are what the survey calls columns of the value layer (`sparsity`). Scope: what is written before a norm
that follows a sub-layer (Gemma-2) is unembedded as it is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from jaxtyping import Float
from torch import Tensor

from editing.delta import Delta
from editing.edit import Edit, in_place
from editing.merge.stack import check_weights
from editing.spectrum import effective_rank, factored
from editing.weights.sparsity import Spread, column_energy, half, row_energy
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.bridge import Bridge, info
from factscope.model.prompts import tokenized
from factscope.model.readout import rank, readout
from factscope.model.weights import MLP_OUT, WeightName, as_matrix, live_weights
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs.provenance import Run, stopwatch

LINES = 5  # rows, and directions, that are read as words
BLOCKS = 48  # of a picture, along each side at most
WRITERS = (MLP_OUT, "attn.W_O")  # what they write is added to the residual stream
READ_AS = ("rows before", "rows after", "directions")
NEGLIGIBLE = 1e-6  # times the largest singular value: below, float32 factors say nothing


@dataclass(frozen=True, eq=False)
class MatrixMap:
    """One matrix under one edit."""

    edit: str  # its name
    method: str
    weight: str
    shape: tuple[int, int]
    norm: float  # ||dW|| / ||W||, Frobenius
    rank: int
    effective_rank: float  # exp of the entropy of the singular values as shares
    changed: float  # share of entries that are another number in the model's own precision
    half: float  # fewest entries with half of ||dW||^2, as a share of all
    rows: Spread
    columns: Spread
    top_rows: tuple[int, ...]  # those that change most
    blocks: Float[Tensor, "row column"]  # root mean square of dW in blocks of rows and columns


@dataclass(frozen=True)
class TokenRank:
    """How high an answer's token stands in what a matrix under an edit says."""

    edit: str
    method: str
    weight: str
    fact: str
    answer: str  # "target" or "old"
    token: str
    read_as: str  # one of READ_AS
    rank: int  # in the best of five, from 1


@shown("editing.pages.weights")
@dataclass(frozen=True, eq=False)
class WeightMaps(Result):
    """Every matrix of every edit, and the answers' ranks in it."""

    model: str
    n_layers: int
    matrices: tuple[MatrixMap, ...]
    ranks: tuple[TokenRank, ...]  # none where no matrix writes to the residual stream
    run: Run | None = None
    requests: tuple[EditRequest, ...] = ()  # of all edits: what the maps are about; none in maps that did not keep them

    def hit(self, method: str, answer: str, read_as: str, within: int) -> float:
        """Share of facts and matrices of a method in which the answer is within so many ranks; NaN if none was read."""
        own = [r for r in self.ranks if (r.method, r.answer, r.read_as) == (method, answer, read_as)]
        return sum(r.rank <= within for r in own) / len(own) if own else float("nan")


def weight_maps(model: Bridge, edits: Sequence[Edit], seed: int = 0) -> WeightMaps:
    """Look at each edit alone on the unedited model, which is left bitwise as it was.

    Raises EditError: no edit, one that changes no weight, one of another model, edits in place.
    """
    if not edits:
        raise EditError("there is no edit to look at")
    check_weights(edits, "a map shows how weights change")
    if in_place(model):
        raise EditError("take the edits that are in place out first: a map compares with the weights before them")
    run, matrices, ranks = Run.of(model, seed), list[MatrixMap](), list[TokenRank]()
    with stopwatch() as seconds:
        for edit in edits:
            names = [delta.weight for delta in edit.deltas]
            before = {name: _matrix(model, name) for name in names}
            with edit.applied(model):
                after = {name: _matrix(model, name) for name in names}
            for delta in edit.deltas:
                own = _map(edit, delta, before[delta.weight], after[delta.weight])
                matrices.append(own)
                if own.rank and WeightName.of(delta.weight).part in WRITERS:
                    ranks += _ranks(model, edit, delta, own, before[delta.weight])
    asked = tuple(dict.fromkeys(request for edit in edits for request in edit.requests))
    size, ended = int(model.cfg.n_layers), run.ended(seconds[0])
    return WeightMaps(info(model).name, size, tuple(matrices), tuple(ranks), ended, asked)


def _matrix(model: Bridge, name: str) -> Tensor:
    return as_matrix(name, live_weights(model)[name].detach()).cpu().clone()


def _map(edit: Edit, delta: Delta, before: Tensor, after: Tensor) -> MatrixMap:
    change, values = delta.dense(), factored(delta)[1]
    rows = row_energy(delta)
    size, usual = float(rows.sum()) ** 0.5, float(before.double().norm())
    return MatrixMap(
        edit=edit.name,
        method=edit.method,
        weight=delta.weight,
        shape=(before.shape[0], before.shape[1]),
        norm=size / usual if usual else float("nan"),
        rank=int((values > NEGLIGIBLE * values[0]).sum()),
        effective_rank=effective_rank(values),
        changed=float((before != after).float().mean()),
        half=half(change),
        rows=Spread.of(rows),
        columns=Spread.of(column_energy(delta)),
        top_rows=tuple(rows.topk(min(LINES, len(rows))).indices.tolist()),
        blocks=_blocks(change).float(),
    )


def _blocks(change: Float[Tensor, "d_in d_out"]) -> Float[Tensor, "row column"]:
    """Root mean square of blocks as alike in size as can be."""
    rows = torch.stack([part.square().mean(0) for part in change.tensor_split(min(BLOCKS, len(change)))])
    parts = rows.tensor_split(min(BLOCKS, rows.shape[1]), dim=1)
    return torch.stack([part.mean(1) for part in parts], 1).sqrt()


# ---- in words ----


@torch.no_grad()
def _ranks(model: Bridge, edit: Edit, delta: Delta, own: MatrixMap, before: Tensor) -> list[TokenRank]:
    top = list(own.top_rows)
    written = before[top].double()
    directions = factored(delta)[2][: min(LINES, own.rank)]
    lines = {"rows before": written, "rows after": written + delta.dense()[top], "directions": directions}
    logits = {read_as: _unembedded(model, states) for read_as, states in lines.items()}
    logits["directions"] = torch.cat([logits["directions"], _unembedded(model, -directions)])
    return [
        TokenRank(
            edit.name, edit.method, delta.weight, request.id, answer, token, read_as, int(rank(said, number).min())
        )
        for request in edit.requests
        for answer, token, number in _tokens(model, request, edit.start_token)
        for read_as, said in logits.items()
    ]


def _unembedded(model: Bridge, states: Tensor) -> Float[Tensor, "line vocab"]:
    weight = model.unembed.original_component.weight
    lines = states.to(weight)
    return readout(model).linear(lines, lines)


def _tokens(model: Bridge, request: EditRequest, start: str) -> list[tuple[str, str, int]]:
    """The answers' first tokens that tell them apart: which answer, the token as text, its number."""
    _, target = tokenized(model, request.prompt, request.target, start)
    _, old = tokenized(model, request.prompt, request.old, start) if request.old else ((), ())
    place = next((i for i, (one, other) in enumerate(zip_longest(target, old)) if one != other), 0)
    found = [("target", target), ("old", old)]
    picked = [(answer, ids[min(place, len(ids) - 1)]) for answer, ids in found if ids]
    return [(answer, model.tokenizer.decode([number]), int(number)) for answer, number in picked]
