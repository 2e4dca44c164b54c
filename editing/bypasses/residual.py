"""A residual memory: one further matrix beside a projection, of which each fact has its own rows.

    f    = mean of x over the prompt's tokens - its mean over ordinary prompts                   the prompt's feature
    m    = the k largest |f|, moved by one fixed random permutation                              its mask, k of d_in
    o_i  = (m and m_i) / k;  i* = the largest                                                    overlap with a fact's
    y'  := y + (x * m_i*) W_m        at every position of a row whose o_i* reaches the fact's floor

x is what the down-projection reads, y what it writes (Wang et al. 2025, MEMOIR). Where the gate opens the stored mask
is used, so a paraphrase reads the very rows that were written. The first position is left out of the mean where there
are others: it holds what most models park there, which is the same for all prompts and decides nothing.

An edit keeps the rows that it changed; W_m is the sum over the edits in place. Edits whose masks share rows hear each
other there; with disjoint masks they do not.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from editing.bypass import (
    Bypass,
    BypassKind,
    Load,
    Write,
    check_whole,
    concatenated,
    random_directions,
    whole_prompt,
)
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.ends import Ends


def feature(
    x: Float[Tensor, "row pos d_in"], last: Int[Tensor, " row"], mean: Float[Tensor, " d_in"]
) -> Float[Tensor, "row d_in"]:
    """The mean over each prompt's tokens but the first, less that of ordinary prompts."""
    here = told(x.shape[1], last).to(x.device)
    return (x.float() * here[..., None]).sum(1) / here.sum(1, keepdim=True) - mean.to(x.device)


def told(width: int, last: Int[Tensor, " row"]) -> Float[Tensor, "row pos"]:
    """1 at the positions that speak for a prompt: all but the first, or the only one there is."""
    pos, last = torch.arange(width), last.cpu()[:, None]
    return ((pos <= last) & ((pos > 0) | (last == 0))).float()


def masks(features: Float[Tensor, "row d_in"], active: int, seed: int) -> Float[Tensor, "row d_in"]:
    """1 at the places to which the `active` largest entries are moved, else 0."""
    moved = torch.randperm(features.shape[1], generator=torch.Generator().manual_seed(seed))
    chosen = moved.to(features.device)[features.abs().topk(active, dim=-1).indices]
    return torch.zeros_like(features).scatter(1, chosen, 1.0)


def nearest(
    own: Float[Tensor, "row d_in"], stored: Float[Tensor, "fact d_in"], floor: Float[Tensor, " fact"], active: int
) -> Int[Tensor, " row"]:
    """The fact whose mask each row's overlaps most, where that reaches the fact's floor; -1 for none."""
    overlap, place = ((own @ stored.T) / active).max(-1)
    return torch.where(overlap >= floor[place], place, -1)


def matrix(part: Bypass) -> Float[Tensor, "d_in d_out"]:
    """W_m: the rows of all edits, added up."""
    rows, which = part.tensors["rows"], part.tensors["which"].long()
    return torch.zeros(part.tensors["masks"].shape[1], rows.shape[1]).index_add(0, which, rows)


class Writer:
    """Add what the memory holds for the fact that a prompt's mask overlaps most, at every position of its row."""

    def __init__(self, part: Bypass) -> None:
        self.active, self.seed = int(part.numbers["active"]), int(part.numbers["seed"])
        whole = {name: part.tensors[name] for name in ("masks", "floor", "mean")} | {"memory": matrix(part)}
        self.on = cache(lambda device: {name: tensor.to(device) for name, tensor in whole.items()})

    def __call__(self, x: Tensor, y: Tensor, now: Ends) -> Tensor | None:
        """The rows whose gate opens rewritten, all others as they are; None where none opens."""
        chosen: Tensor = now.once(self, lambda: self.decide(x, now))
        rows = (chosen >= 0).nonzero()[:, 0]
        if not len(rows):
            return None
        own = self.on(y.device)
        out = y.clone()
        out[rows] = y[rows] + ((x[rows].float() * own["masks"][chosen[rows], None]) @ own["memory"]).to(y)
        return out

    def decide(self, x: Tensor, now: Ends) -> Int[Tensor, " row"]:
        """The fact that speaks in each row, -1 for none."""
        check_whole(now, x.shape[1])
        own = self.on(x.device)
        mine = masks(feature(x, now.last, own["mean"][0]), self.active, self.seed)
        return nearest(mine, own["masks"], own["floor"], self.active)


def join(parts: Sequence[Bypass]) -> Bypass:
    """The masks of all facts and the rows of all edits; EditError where features are not taken alike."""
    first = parts[0]
    for other in parts[1:]:
        if first.numbers != other.numbers or not torch.equal(first.tensors["mean"], other.tensors["mean"]):
            raise EditError(
                "these edits look at prompts in different ways (another k, seed or start token), so they share no "
                "memory: compute them alike"
            )
    return concatenated(parts, ("rows", "which", "masks", "floor"))


def writer(part: Bypass, _: Bridge) -> Write:
    """The memory of all edits in place."""
    return Writer(part)


def load(part: Bypass, _: Bridge) -> Load:
    """All of a prompt, for the fact whose rows are read."""
    return whole_prompt(Writer(part).decide, len(part.tensors["masks"]))


def scrambled(part: Bypass, generator: torch.Generator, gate: bool) -> Bypass:
    """Rows of the same norms in random directions, behind the same masks or, with `gate`, behind random ones."""
    rows, old = part.tensors["rows"], part.tensors["masks"]
    made = {"rows": random_directions(rows, generator)}
    if gate:
        some = torch.rand(old.shape, generator=generator).topk(int(part.numbers["active"]), dim=-1).indices
        made["masks"] = torch.zeros_like(old).scatter(1, some, 1.0)
    return replace(part, tensors=part.tensors | made)


SHAPES = {
    "rows": ("row", "d_out"),
    "which": ("row",),
    "masks": ("fact", "d_in"),
    "floor": ("fact",),
    "mean": ("one", "d_in"),
}
KIND = BypassKind(
    "residual",
    "a residual memory: a matrix of which each fact has rows of its own, read where a prompt looks like the fact's",
    SHAPES,
    join,
    writer,
    scrambled,
    load,
    prompts=True,
)
