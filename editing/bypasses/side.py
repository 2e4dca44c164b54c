"""A side memory: changed copies of one projection, shards, that answer where they would write far from the original.

    D_j  = mean over the prompt's tokens of ||x (W_j - W)||                 how far shard j is from the projection
    y'  := y + x (W_j* - W)     at every position of a row;  j* = the largest D_j of those above their thresholds

x is what the down-projection reads, y what it writes, so y' is what W_j* writes (Wang et al. 2024, WISE). A shard is
kept as its difference from W. Where no shard is above its threshold, W answers. The first position is left out of the
mean where there are others, as it is the same for all prompts.

With `merge`, the shards in place are first made one by TIES: of each the `density` largest entries by size are kept,
each entry's sign is elected by the sum, and the entries that agree with it are averaged. Its threshold is the lowest.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from editing.bypass import Bypass, BypassKind, Load, Write, check_whole, concatenated, whole_prompt
from editing.bypasses.residual import told
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.ends import Ends


def distances(
    x: Float[Tensor, "row pos d_in"], last: Int[Tensor, " row"], changes: Float[Tensor, "shard d_in d_out"]
) -> Float[Tensor, "row shard"]:
    """D of each row's prompt and each shard, in the unit of what the projection writes."""
    here = told(x.shape[1], last).to(x.device)
    each = torch.stack([(x.float() @ change).norm(dim=-1) for change in changes], -1)
    return (each * here[..., None]).sum(1) / here.sum(1, keepdim=True)


def ties(changes: Float[Tensor, "shard d_in d_out"], density: float) -> Float[Tensor, "d_in d_out"]:
    """One change of many: trimmed, a sign elected for each entry, and the entries that agree averaged."""
    kept = torch.zeros_like(changes)
    for one, change in zip(kept, changes, strict=True):
        count = max(1, round(density * int((change != 0).sum())))  # of the entries that the shard may have
        best = change.abs().flatten().topk(count).indices
        one.view(-1)[best] = change.flatten()[best]
    agree = (kept != 0) & (kept.sign() == kept.sum(0).sign())
    return (kept * agree).sum(0) / agree.sum(0).clamp_min(1)


def shards(part: Bypass) -> tuple[Float[Tensor, "shard d_in d_out"], Float[Tensor, " shard"]]:
    """The changes that speak, and their thresholds."""
    changes, threshold = part.tensors["changes"], part.tensors["threshold"]
    if part.numbers["merge"] and len(changes):
        return ties(changes, part.numbers["density"])[None], threshold.min()[None]
    return changes, threshold


class Writer:
    """Let the shard that is furthest from the projection answer, where it is above its threshold."""

    def __init__(self, part: Bypass) -> None:
        changes, threshold = shards(part)
        self.on = cache(lambda device: (changes.to(device), threshold.to(device)))

    def __call__(self, x: Tensor, y: Tensor, now: Ends) -> Tensor | None:
        """The rows whose gate opens rewritten, all others as they are; None where none opens."""
        chosen: Tensor = now.once(self, lambda: self.decide(x, now))
        out: Tensor | None = None
        for shard in sorted(set(chosen.tolist()) - {-1}):
            rows = (chosen == shard).nonzero()[:, 0]
            out = y.clone() if out is None else out
            out[rows] = y[rows] + (x[rows].float() @ self.on(x.device)[0][shard]).to(y)
        return out

    def decide(self, x: Tensor, now: Ends) -> Int[Tensor, " row"]:
        """The shard that speaks in each row, -1 for none."""
        check_whole(now, x.shape[1])
        changes, threshold = self.on(x.device)
        far = distances(x, now.last, changes)
        best, place = far.masked_fill(far <= threshold, -1.0).max(-1)
        return torch.where(best > 0, place, -1)


def join(parts: Sequence[Bypass]) -> Bypass:
    """The shards of all edits, in order; EditError where some are to be merged and some not."""
    if len({tuple(sorted(part.numbers.items())) for part in parts}) > 1:
        raise EditError("some of these edits are merged and some not, or to another density: compute them alike")
    return concatenated(parts, SHAPES)


def writer(part: Bypass, _: Bridge) -> Write:
    """The shards of all edits in place."""
    return Writer(part)


def load(part: Bypass, _: Bridge) -> Load:
    """All of a prompt, for the shard that answers it."""
    return whole_prompt(Writer(part).decide, len(shards(part)[0]))


def scrambled(part: Bypass, generator: torch.Generator, gate: bool) -> Bypass:
    """Shards whose writes are turned by a random rotation, which leaves D as it is; with `gate`, that read others."""
    changes = part.tensors["changes"]
    turn, _ = torch.linalg.qr(torch.randn(changes.shape[-1], changes.shape[-1], generator=generator))
    made = changes @ turn
    if gate:
        made = made[:, torch.randperm(changes.shape[1], generator=generator)]
    return replace(part, tensors=part.tensors | {"changes": made})


SHAPES = {"changes": ("shard", "d_in", "d_out"), "threshold": ("shard",)}
KIND = BypassKind(
    "side",
    "a side memory: changed copies of the projection, which answer prompts for which they write something else",
    SHAPES,
    join,
    writer,
    scrambled,
    load,
    prompts=True,
)
