"""Many prompts at once, from the subject's last token on and above one layer: the part of a forward pass that an edit
changes.

Rows of different lengths are laid so that their subjects end in the same column. What stands before enters through
keys and values kept from one clean pass; the layers up to the edited one never run again. For 32 facts in 6 contexts
that leaves about a sixth of the work of a whole forward pass, and one batch instead of 32.

    column       0 ... P-1 | P ........ P+S-1
    row 0    . . The Eiffel| Tower is in
    row 1    I said. Mount | Fuji is in the       columns before a row begins are masked

The blocks' arguments (mask, rotary angles) are taken from a plain pass and re-indexed row by row. That this is right
for the model at hand is not assumed: `Suffix.check` compares with the model's own logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factscope.errors import ModelError
from factscope.model.agreement import agree, off_by, require, tolerance
from factscope.model.bridge import Bridge, architecture, device
from factscope.model.forward.batched import padded
from factscope.model.forward.partial import Frame, KeysValues, check_parts, embed
from factscope.model.hooks import Patch, patched, record
from factscope.model.readout import readout
from factscope.model.sites import Site
from factscope.model.source.checkpoint import probe
from factscope.model.weights import down_projection, live_weights


@dataclass(frozen=True)
class Row:
    """One prompt: its tokens, where the subject ends, and the positions whose logits are wanted."""

    tokens: tuple[int, ...]
    subject: int  # position of the subject's last token
    wanted: tuple[int, ...]

    @property
    def length(self) -> int:
        """How many tokens remain from the subject's last to the last wanted one."""
        return max((*self.wanted, self.subject)) + 1 - self.subject


@dataclass(frozen=True, eq=False)
class Suffix:
    """Rows laid out as above, ready to run blocks `layer + 1` and up; see the module's text."""

    frame: Frame
    layer: int
    rows: tuple[Row, ...]
    resid: Float[Tensor, "row pos d_model"]  # after block `layer`, from the subject's last token on
    kept: tuple[KeysValues | None, ...]  # one per block; None up to `layer`
    write: Float[Tensor, "row d_model"]  # what the MLP of `layer` writes at the subject's last token, before any norm

    def run(self, added: Float[Tensor, "row d_model"]) -> Float[Tensor, "row pos d_model"]:
        """The residual stream after the last block, with `added` at the subject's last token after block `layer`."""
        resid = torch.cat([self.resid[:, :1] + added[:, None].to(self.resid), self.resid[:, 1:]], 1)
        for layer in range(self.layer + 1, len(self.frame.model.blocks)):
            resid = self.frame.block(layer, resid, self.kept[layer])
        return resid

    def logits(
        self, resid: Float[Tensor, "row pos d_model"]
    ) -> tuple[Float[Tensor, "wanted vocab"], Int[Tensor, " wanted"]]:
        """Logits at all wanted positions, row after row, and the row of each."""
        row = [r for r, one in enumerate(self.rows) for _ in one.wanted]
        column = [p - one.subject for one in self.rows for p in one.wanted]
        return self.frame.logits(resid[row, column]), torch.tensor(row)

    def narrowed(self, keep: Sequence[int]) -> "Suffix":
        """The same with these rows only."""
        index = torch.tensor(keep, device=self.resid.device)
        frame = self.frame
        arguments = tuple({name: _rows(name, value, index) for name, value in one.items()} for one in frame.arguments)
        return replace(
            self,
            frame=replace(frame, arguments=arguments),
            rows=tuple(self.rows[i] for i in keep),
            resid=self.resid[index],
            kept=tuple(None if pair is None else (pair[0][index], pair[1][index]) for pair in self.kept),
            write=self.write[index],
        )

    def subjects(self, keep: Sequence[int]) -> "Suffix":
        """These rows only, and of each its first column only: the subject's last token."""
        few = self.narrowed(keep)
        rows = tuple(replace(row, wanted=(row.subject,)) for row in few.rows)
        frame = replace(few.frame, n_positions=few.frame.n_positions - self.resid.shape[1] + 1)
        return replace(few, frame=frame, rows=rows, resid=few.resid[:, :1])

    @torch.no_grad()
    def check(self) -> None:
        """Raise ModelError unless nothing added gives the model's own logits, on the longest row and the shortest."""
        some = sorted({min(range(len(self.rows)), key=self._order), max(range(len(self.rows)), key=self._order)})
        few = self.narrowed(some)
        ours, _ = few.logits(few.run(torch.zeros_like(few.write)))
        model = self.frame.model
        own = [model(torch.tensor([r.tokens], device=device(model)), use_cache=False)[0, [*r.wanted]] for r in few.rows]
        off = off_by(ours, torch.cat(own))
        if not off <= tolerance(self.resid.dtype):
            raise ModelError(
                f"this architecture ({architecture(model)}) run from the subject on does not give the model's own "
                f"logits (off by {off:.2g} standard deviations), so it cannot be edited"
            )

    def _order(self, row: int) -> int:
        return self.rows[row].subject


def landed(model: Bridge, layer: int, write: Tensor, added: Tensor) -> Tensor:
    """What reaches the residual stream when the MLP of `layer` writes `write + added` instead of `write`.

    It is `added`, except where the model normalises after the MLP (Gemma-2 and -3) or multiplies (Granite).
    """
    norm = getattr(model.blocks[layer], "ln2_post", None)
    moved = added if norm is None else norm(write + added) - norm(write)
    share = _share(model, layer)
    return moved if share == 1 else moved * share


def _share(model: Bridge, layer: int) -> float:
    """The multiplier between what an MLP writes, normed where the model norms it, and what it adds; 1 mostly."""
    measure_shares(model, (layer,))
    return _SHARES[model][layer]


def measure_shares(model: Bridge, layers: Sequence[int]) -> None:
    """Find the multipliers of all these layers in one pass, where they are not known: `landed` asks for one a pass."""
    known = _SHARES.setdefault(model, {})
    unknown = [layer for layer in layers if layer not in known]
    if not unknown:
        return
    with torch.no_grad(), record(model, [Site(kind, i) for i in unknown for kind in ("mlp_write", "mlp")]) as seen:
        model(probe(readout(model).n_tokens, device(model)), use_cache=False)
        for layer in unknown:
            norm = getattr(model.blocks[layer], "ln2_post", None)
            write, added = seen[Site("mlp_write", layer)], seen[Site("mlp", layer)]
            write = write if norm is None else norm(write)
            same = torch.equal(write, added)
            known[layer] = 1.0 if same else float((write * added).sum() / write.square().sum().clamp_min(1e-30))


_SHARES: WeakKeyDictionary[Any, dict[int, float]] = WeakKeyDictionary()


def check_written(model: Bridge, layer: int) -> None:
    """ModelError unless what the MLP of `layer` writes can be changed exactly.

    There must be one down-projection, whose product with what it reads is what it writes; and rows run from the subject
    on must give the logits of the whole model with the same change made by a hook.
    """

    def prove() -> None:
        check_parts(model)
        weight = live_weights(model).get(down_projection(layer))
        if weight is None or weight.ndim != 2:
            raise ModelError(
                f"layer {layer} of this model ({architecture(model)}) has no MLP with one down-projection to edit: its "
                "MLP is of experts, its weights are packed by a quantiser, or it has no MLP"
            )
        tokens = probe(readout(model).n_tokens, device(model))
        sites = [Site("mlp_hidden", layer), Site("mlp_write", layer)]
        with record(model, sites) as seen:
            model(tokens, use_cache=False)
        keys, written = (seen[site].flatten(0, 1).float() for site in sites)
        product = keys @ weight.float()
        if not agree((product - product[:1]).to(weight.dtype), (written - written[:1]).to(weight.dtype)):  # less a bias
            raise ModelError(
                f"the down-projection of layer {layer} of this model ({architecture(model)}) does not write the "
                "product of its weight and its key, so nothing can be stored in it"
            )
        _check_from_subject(model, layer, tokens, written)

    require(model, f"edited at layer {layer}", prove)


def _check_from_subject(model: Bridge, layer: int, tokens: Tensor, written: Tensor) -> None:
    """Two rows, whose subjects end at different places, with something added there, against hooks on the model."""
    rows = [Row(tuple(tokens[0].tolist()), 3, (5, 10)), Row(tuple(tokens[1].tolist()), 6, (7, 10))]
    part = suffix(model, rows, layer)
    added = written[: len(rows)].flip(-1).to(part.write)  # as large as what is written, and another direction
    places = (("mlp_write", landed(model, layer, part.write, added)), ("resid", added))
    for kind, moved in places:
        ours, _ = part.logits(part.run(moved))
        own = []
        for row, change in zip(rows, added, strict=True):
            with patched(model, [Patch(Site(kind, layer), change, positions=[row.subject], add=True)]):
                own.append(model(torch.tensor([row.tokens], device=tokens.device), use_cache=False)[0, [*row.wanted]])
        off = off_by(ours, torch.cat(own))
        if not off <= tolerance(own[0].dtype):
            raise ModelError(
                f"this architecture ({architecture(model)}), run from the subject on with a change at layer {layer}, "
                f"does not give the model's own logits (off by {off:.2g} standard deviations), so it cannot be edited"
            )


@torch.no_grad()
def suffix(model: Bridge, rows: Sequence[Row], layer: int) -> Suffix:
    """Run `rows` once, clean, and keep what the blocks above `layer` need to run from the subject's end on."""
    before = max(row.subject for row in rows)  # P
    after = max(row.length for row in rows)  # S
    tokens = padded(model, [row.tokens[: row.subject + row.length] for row in rows], to=before + after)
    tokens = tokens[:, : before + after]
    plain = Frame.of(model, tokens[:1], check=False)
    end = torch.tensor([row.subject for row in rows], device=tokens.device)
    column = torch.arange(before + after, device=tokens.device)
    position = column[None] - before + end[:, None]  # [row, column], negative before the row begins

    resid = embed(model, tokens)
    for number in range(layer):
        resid = plain.block(number, resid)
    site = Site("mlp_write", layer)
    with record(model, [site]) as seen:
        resid = plain.block(layer, resid)
    write = seen[site][torch.arange(len(rows)), end]

    # Above the layer only what stands before a subject is needed, for its keys and values.
    kept: list[KeysValues | None] = [None] * (layer + 1)
    early = resid[:, :before]
    short = plain.first(before) if before else None
    for number in range(layer + 1, len(model.blocks)):
        if short is None:
            kept.append(None)
            continue
        early, (keys, values) = short.recording_block(number, early)
        place = position[:, None, :before, None].clamp_min(0).expand(-1, keys.shape[1], -1, keys.shape[3])
        place = place.to(keys.device)
        kept.append((keys.gather(2, place), values.gather(2, place)))
    later = position[:, before:, None].expand(-1, -1, resid.shape[2]).to(resid.device)
    arguments = tuple({name: _aligned(name, value, position) for name, value in one.items()} for one in plain.arguments)
    frame = Frame(model, before + after, arguments)
    return Suffix(frame, layer, tuple(rows), resid.gather(1, later), tuple(kept), write)


def _aligned(name: str, value: Any, position: Int[Tensor, "row column"]) -> Any:
    """One argument of a block, for rows whose columns stand for these positions."""
    real = position.clamp_min(0)
    if value is None:
        return None
    if name == "position_embeddings":
        if isinstance(value, tuple):
            return tuple(part[0][real.to(part.device)] for part in value)
        return value[0][real.to(value.device)]
    if name in ("position_ids", "cache_position"):
        return real.to(value.device) if name == "position_ids" else None
    if name == "attention_mask":
        if value.ndim != 4:
            raise ModelError("this architecture's attention mask has a form we do not know, so it cannot be edited")
        real, position = real.to(value.device), position.to(value.device)
        mask = value[0, 0][real[:, :, None], real[:, None, :]]  # [row, query, key]
        closed = value[0, 0, 0, -1].item()  # what keeps the first position from the last: libraries differ in the sign
        padding = (position < 0)[:, None, :].expand_as(mask)
        return mask.masked_fill(padding, closed)[:, None]
    return value


def _rows(name: str, value: Any, index: Tensor) -> Any:
    if value is None:
        return None
    if name == "position_embeddings" and isinstance(value, tuple):
        return tuple(part[index.to(part.device)] for part in value)
    return value[index.to(value.device)] if name in ("position_embeddings", "position_ids", "attention_mask") else value


def buckets(lengths: Sequence[int], overhead: int = 64) -> list[list[int]]:
    """Rows in groups of similar length, so that little is spent on filling up; indices into `lengths`.

    The cost of a group is rows x longest + `overhead` tokens (a block's fixed cost); the cheapest split of the rows
    sorted by length is found exactly.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    ends = [i for i in range(1, len(order) + 1) if i == len(order) or lengths[order[i]] != lengths[order[i - 1]]]
    best: dict[int, tuple[float, int]] = {0: (0.0, 0)}
    for end in ends:
        best[end] = min(
            (cost + (end - begin) * lengths[order[end - 1]] + overhead, begin) for begin, (cost, _) in best.items()
        )
    groups, end = [], len(order)
    while end:
        begin = best[end][1]
        groups.append(order[begin:end])
        end = begin
    return groups[::-1]
