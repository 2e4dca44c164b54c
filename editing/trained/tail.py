"""What a trained editor reads and how its changes are tried: the blocks from the lowest edited layer up.

The loss of an answer has, for a matrix W [d_in d_out] that reads x and writes y, the gradient

    dL/dW = sum over tokens of x d'        x [d_in] the input, d [d_out] the loss's gradient at the output

(Mitchell et al. 2022, eq. 2): an outer product a token, which is what an editor of this kind turns into a change.
UltraEdit and CrispEdit, which learn on no other facts, read it too. While an editor learns, the change of each example
stands beside the matrix, y + (x L) R with thin L and R, for that example's own rows: no weight is written, and many
examples learn side by side. What lies below the lowest edited layer never changes, so the prompts of training pass it
once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from editing.weights.chosen import projections
from factscope.errors import EditError
from factscope.model.bridge import Bridge, architecture, device
from factscope.model.forward.batched import ROWS, padded, states_at
from factscope.model.forward.ends import ending
from factscope.model.forward.onednn import thin_products
from factscope.model.forward.partial import Frame
from factscope.model.forward.scoring import Pair
from factscope.model.hooks import HookNeverFired, hooked, record
from factscope.model.sites import Site
from factscope.model.weights import PROJECTIONS, WeightName
from factscope.progress import progress

SITES = {part: sites for part, sites in PROJECTIONS.items() if part.startswith("mlp.")}
Row = tuple[int, ...]
Thin = tuple[Float[Tensor, "example token d_in"], Float[Tensor, "example token d_out"]]


def matrices(model: Bridge, layers: Sequence[int], parts: Sequence[str]) -> tuple[WeightName, ...]:
    """The matrices of these layers; EditError for one that the model does not have as a matrix of its own."""
    return tuple(projections(model, layers, parts, SITES))


@dataclass(frozen=True, eq=False)
class Slopes:
    """The factors of the gradient of each row's loss for each matrix, [row pos] or of some tokens, and the losses."""

    read: dict[WeightName, Float[Tensor, "*token d_in"]]
    slope: dict[WeightName, Float[Tensor, "*token d_out"]]
    losses: Float[Tensor, " row"]  # nats per token
    said: tuple[int, ...] = ()  # the token that the model itself says behind each prompt

    @classmethod
    def joined(cls, parts: Sequence["Slopes"]) -> "Slopes":
        """Those of several passes, one after another; positions are filled up with zeros to the longest row."""

        def one(tensors: Sequence[Tensor]) -> Tensor:
            if tensors[0].ndim == 2:
                return torch.cat(list(tensors))
            longest = max(tensor.shape[1] for tensor in tensors)
            pad = torch.nn.functional.pad
            return torch.cat([pad(tensor, (0, 0, 0, longest - tensor.shape[1])) for tensor in tensors])

        read = {name: one([part.read[name] for part in parts]) for name in parts[0].read}
        slope = {name: one([part.slope[name] for part in parts]) for name in parts[0].slope}
        losses, said = torch.cat([part.losses for part in parts]), tuple(token for part in parts for token in part.said)
        return cls(read, slope, losses, said)

    def at(self, which: Any) -> "Slopes":
        """The factors of some tokens alone, [token d]; `which` is an index of a tensor."""
        read = {name: x[which] for name, x in self.read.items()}
        return replace(self, read=read, slope={name: d[which] for name, d in self.slope.items()})


class Tail:
    """The model from a layer up, over rows that are no longer than the longest that it is made with."""

    def __init__(self, model: Bridge, first: int, rows: Sequence[Row]) -> None:
        self.model, self.first = model, first
        longest = max(rows, key=len)
        self.frame = Frame.of(model, padded(model, [longest]))
        self._entering: dict[Row, Tensor] = {}
        self._leaving: dict[Row, Tensor] = {}

    def keep(self, rows: Sequence[Row], shown: bool | None = None) -> None:
        """Run prompts once: what enters the first layer is kept for each, and what its last token leaves at the end."""
        order = sorted(set(rows), key=lambda row: (len(row), row))
        sites = Site("resid_pre", self.first), Site("resid", self.model.cfg.n_layers - 1)
        with progress("prompts read", len(order), shown=shown) as advance:
            for begin in range(0, len(order), ROWS):
                some = order[begin : begin + ROWS]
                seen = self._run(some, sites)
                for number, row in enumerate(some):
                    self._entering[row] = seen[sites[0]][number, : len(row)].cpu()
                    self._leaving[row] = seen[sites[1]][number, len(row) - 1].cpu()
                advance(len(some))

    def _run(self, rows: Sequence[Row], sites: Sequence[Site]) -> dict[Site, Tensor]:
        return states_at(self.model, padded(self.model, rows), torch.tensor([len(row) - 1 for row in rows]), sites)

    def entering(self, rows: Sequence[Row]) -> Float[Tensor, "row pos d_model"]:
        """What enters the first layer, right-padded with zeros."""
        new = [row for row in dict.fromkeys(rows) if row not in self._entering]
        site = Site("resid_pre", self.first)
        seen = self._run(new, [site])[site] if new else None
        found = dict(zip(new, seen, strict=True)) if seen is not None else {}
        at = device(self.model)
        parts = [(found[row][: len(row)] if row in found else self._entering[row]).to(at) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    def states(self, rows: Sequence[Row], site: Site) -> Float[Tensor, "row pos d_model"]:
        """What passes at a site, right-padded; nothing of it is kept."""
        return self._run(rows, [site])[site]

    @thin_products()
    def logp(
        self, rows: Sequence[Row], at: Sequence[tuple[int, int]], resid: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "asked vocab"]:
        """Log-probabilities at (row, position), in float32, of rows that enter as `entering` says; hooks fire."""
        frame = self.frame.first(resid.shape[1])
        with ending(torch.tensor([len(row) - 1 for row in rows])):
            out = frame.blocks(resid, self.first)
        index = torch.tensor(at, device=out.device)
        return frame.logits(out[index[:, 0], index[:, 1]]).float().log_softmax(-1)

    @torch.no_grad()
    def unedited(self, rows: Sequence[Row]) -> Float[Tensor, "row vocab"]:
        """Log-probabilities after the last token of kept prompts, as the model is."""
        last = torch.stack([self._leaving[row] for row in rows]).to(device(self.model))
        return self.frame.logits(last).float().log_softmax(-1)

    def slopes(self, pairs: Sequence[Pair], names: Sequence[WeightName]) -> Slopes:
        """The gradient of each pair's own loss, the mean of -log p over its answer's tokens."""
        rows = [pair.row for pair in pairs]
        resid = self.entering(rows).requires_grad_()
        sites = [Site(kind, name.layer) for name in names for kind in SITES[name.part]]
        try:
            with torch.enable_grad(), record(self.model, list(dict.fromkeys(sites)), grad=True) as seen:
                logp = self.logp(rows, asked(pairs), resid)
                losses = answer_losses(logp, pairs)
                writes = [seen[Site(SITES[name.part][1], name.layer)] for name in names]
                found = torch.autograd.grad(losses.sum(), writes)
        except HookNeverFired as silent:
            raise EditError(f"this model ({architecture(self.model)}) cannot be edited so: {silent}") from silent
        read = {name: seen[Site(SITES[name.part][0], name.layer)].detach().float() for name in names}
        ends = torch.tensor([len(pair.answer) for pair in pairs]).cumsum(0)
        said = logp.detach().argmax(-1).cpu()[torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]])]
        slope = {name: d.float() for name, d in zip(names, found, strict=True)}
        return Slopes(read, slope, losses.detach(), tuple(said.tolist()))

    @contextmanager
    def changed(self, changes: dict[WeightName, Thin], owner: Int[Tensor, " row"]) -> Iterator[None]:
        """The block runs with each example's change beside the matrices, for the rows that `owner` gives to it.

        One change alone is every row's.
        """
        read: dict[Site, Tensor] = {}
        owner = owner.to(device(self.model))

        def reading(site: Site) -> Callable[[Tensor], None]:
            return lambda x: read.update({site: x})

        def writing(source: Site, left: Tensor, right: Tensor) -> Callable[[Tensor], Tensor]:
            def write(y: Tensor) -> Tensor:
                x = read[source]
                if len(left) == 1:
                    return y + x @ left[0].to(x).T @ right[0].to(x)
                through = torch.einsum("r p i, r t i -> r p t", x, left.to(x)[owner])
                return y + torch.einsum("r p t, r t o -> r p o", through, right.to(x)[owner])

            return write

        sources = {name: Site(SITES[name.part][0], name.layer) for name in changes}
        hooks: list[tuple[Site, Callable[[Tensor], Tensor | None]]] = [
            (site, reading(site)) for site in dict.fromkeys(sources.values())
        ]
        for name, (left, right) in changes.items():
            hooks.append((Site(SITES[name.part][1], name.layer), writing(sources[name], left, right)))
        with hooked(self.model, hooks):
            yield


def asked(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """Where the answers' tokens are read: (row, position), pair by pair."""
    return [(r, len(pair.prompt) - 1 + t) for r, pair in enumerate(pairs) for t in range(len(pair.answer))]


def answer_losses(logp: Float[Tensor, "asked vocab"], pairs: Sequence[Pair]) -> Float[Tensor, " pair"]:
    """Mean of -log p over each answer's tokens, from log-probabilities in the order of `asked`."""
    ids = torch.tensor([token for pair in pairs for token in pair.answer], device=logp.device)
    row = torch.tensor([r for r, pair in enumerate(pairs) for _ in pair.answer], device=logp.device)
    nll = -logp.gather(1, ids[:, None])[:, 0]
    return torch.zeros(len(pairs), device=logp.device).index_add(0, row, nll) / torch.bincount(row).to(nll)


def answers_met(logp: Float[Tensor, "asked vocab"], pairs: Sequence[Pair]) -> list[bool]:
    """Whether every token of each answer is the argmax."""
    right = logp.argmax(-1).cpu() == torch.tensor([token for pair in pairs for token in pair.answer])
    return [bool(one.all()) for one in right.split([len(pair.answer) for pair in pairs])]
