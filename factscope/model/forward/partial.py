"""Run only the blocks above a layer, and only the positions from one on: where the speed comes from.

What lies below a patched layer does not change, and in a causal model neither do the positions before the patched one.
So a patched run needs only the blocks from that layer up, on the positions from the patched one to the last; the
positions before it enter through their keys and values, kept from the run that was not patched. TransformerLens's own
`start_at_layer` runs every block and swaps the residual stream in afterwards, which saves nothing.

A block wants keyword arguments (rotary angles, mask, position ids) that the model makes on its way; a `Frame` takes
them once from a plain forward pass. `Frame.check` proves, on the model at hand, that blocks run this way give the
model's own logits, so that an architecture with a peculiarity we do not know is refused and not mistaken.
"""

import contextlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factscope.errors import ModelError
from factscope.model.agreement import agree, off_by, require, tolerance
from factscope.model.bridge import Bridge, architecture, device_of, run_blocks
from factscope.model.readout import readout
from factscope.model.source.checkpoint import probe

KeysValues = tuple[Tensor, Tensor]  # each [row, kv_head, pos, d_head], keys after rotation


class _Recorder:
    """Stands in for a key/value cache: keeps what the layer made and hands it back unchanged."""

    seen: KeysValues

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> KeysValues:
        self.seen = (keys, values)
        return keys, values


class _KeysKnown(Exception):
    """Ends a block as soon as its keys and values are made."""


class _Stopper:
    """Stands in for a key/value cache: keeps what the layer made and stops the block there."""

    seen: KeysValues

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> KeysValues:
        self.seen = (keys, values)
        raise _KeysKnown


class _Prefix:
    """Stands in for a key/value cache: puts kept keys and values of earlier positions before the layer's own."""

    def __init__(self, kept: KeysValues) -> None:
        self.kept = kept

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> KeysValues:
        return torch.cat([self.kept[0], keys], 2), torch.cat([self.kept[1], values], 2)


@dataclass(frozen=True, eq=False)
class Frame:
    """What the blocks of one model need besides the residual stream, for prompts of one length."""

    model: Bridge
    n_positions: int
    arguments: tuple[dict[str, Any], ...]  # one per block

    @classmethod
    @torch.no_grad()
    def of(cls, model: Bridge, tokens: Int[Tensor, "row pos"], check: bool = True) -> "Frame":
        """Take the blocks' arguments from one forward pass of the first row of `tokens`, and check the frame on it.

        `check=False` is for callers that compare with the model's own logits themselves.
        """
        seen: dict[int, dict[str, Any]] = {}

        def keep(layer: int, block: Any) -> Any:
            names = list(inspect.signature(block.original_component.forward).parameters)

            def hook(_: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
                seen[layer] = dict(zip(names, positional, strict=False)) | named

            return block.register_forward_pre_hook(hook, with_kwargs=True)

        handles = [keep(layer, block) for layer, block in enumerate(model.blocks)]
        try:
            if check:
                logits = model(tokens[:1], use_cache=False)
            else:
                run_blocks(model, tokens[:1])
        finally:
            for handle in handles:
                handle.remove()
        arguments = tuple(
            {k: v for k, v in seen[layer].items() if k != "hidden_states"} for layer in range(len(model.blocks))
        )
        frame = cls(model, tokens.shape[1], arguments)
        if check:
            frame._check(tokens[:1], logits[0, -1])
        return frame

    def first(self, n_positions: int) -> "Frame":
        """The frame of the first `n_positions` positions."""
        arguments = tuple({k: _positions(k, v, 0, n_positions) for k, v in one.items()} for one in self.arguments)
        return replace(self, n_positions=n_positions, arguments=arguments)

    def block(
        self,
        layer: int,
        resid: Float[Tensor, "row pos d_model"],
        prefix: KeysValues | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "row pos d_model"]:
        """Block `layer` on the last `pos` positions; `prefix` holds the keys and values of the positions before."""
        start = self.n_positions - resid.shape[1]
        return self._run(layer, resid, _Prefix(prefix) if prefix is not None else cache, start)

    def _run(self, layer: int, resid: Tensor, cache: Any, start: int) -> Tensor:
        """Block `layer` on the positions from `start` on, with `cache` in the place of a key/value cache."""
        block = self.model.blocks[layer]
        named = dict(self.arguments[layer])
        named["layer_past" if "layer_past" in named else "past_key_values"] = cache
        end = start + resid.shape[1]
        named = {k: _rows(k, _positions(k, v, start, end), len(resid)) for k, v in named.items()}
        device = device_of(block, resid)
        out = block(resid.to(device), **named)
        after: Tensor = out[0] if isinstance(out, tuple) else out
        return after

    def recording_block(self, layer: int, resid: Float[Tensor, "row pos d_model"]) -> tuple[Tensor, KeysValues]:
        """Block `layer` on all positions, with the keys and values that it made."""
        recorder = _Recorder()
        out = self.block(layer, resid, cache=recorder)
        return out, recorder.seen

    def last_block(self, resid: Float[Tensor, "row pos d_model"], prefix: KeysValues) -> Float[Tensor, "row 1 d_model"]:
        """The last block for the last position alone: the others give it their keys and values and no more.

        Hooks on the block fire twice, first with the earlier positions and then with the last, so patch nothing here.
        """
        layer = len(self.model.blocks) - 1
        stopper = _Stopper()
        with contextlib.suppress(_KeysKnown):
            self._run(layer, resid[:, :-1], stopper, self.n_positions - resid.shape[1])
        keys, values = stopper.seen
        whole = (torch.cat([prefix[0], keys], 2), torch.cat([prefix[1], values], 2))
        return self.block(layer, resid[:, -1:], whole)

    def blocks(
        self,
        resid: Float[Tensor, "row pos d_model"],
        first: int,
        prefixes: Sequence[KeysValues] | None = None,
    ) -> Float[Tensor, "row pos d_model"]:
        """All blocks from `first` up; `prefixes` has one entry for each block of the model."""
        for layer in range(first, len(self.model.blocks)):
            resid = self.block(layer, resid, prefixes[layer] if prefixes is not None else None)
        return resid

    def logits(self, last: Float[Tensor, "row d_model"], unembed: Any = None) -> Float[Tensor, "row vocab"]:
        """The model's answer to the last position's residual stream; `unembed` may be a faster copy of its own."""
        return readout(self.model).logits(last, unembed)

    def _check(self, tokens: Int[Tensor, "1 pos"], logits: Float[Tensor, " vocab"]) -> None:
        """Blocks run one by one, whole and from the middle position on, must give the model's own logits."""
        resid = embed(self.model, tokens)
        middle = self.n_positions // 2
        suffix = resid[:, middle:]
        for layer in range(len(self.model.blocks)):
            before = resid
            resid, (keys, values) = self.recording_block(layer, before)
            prefix = (keys[:, :, :middle], values[:, :, :middle]) if middle else None
            suffix = self.block(layer, suffix, prefix)
        for found, how in ((resid, "block by block"), (suffix, "on the later positions alone")):
            off = off_by(self.logits(found[:, -1])[0], logits)
            if not off <= tolerance(logits.dtype):
                raise ModelError(
                    f"this architecture ({architecture(self.model)}) run {how} does not give the model's "
                    f"own logits (off by {off:.2g} standard deviations), so it cannot be traced exactly"
                )


@torch.no_grad()
def embed(model: Bridge, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos d_model"]:
    """The residual stream that enters block 0; hooks on the embedding fire."""
    seen: list[Tensor] = []

    def keep(_: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(positional[0] if positional else named["hidden_states"])

    handle = model.blocks[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model(tokens, stop_at_layer=0)
    finally:
        handle.remove()
    return seen[0]


def _positions(name: str, value: Any, start: int, end: int) -> Any:
    """One of a block's arguments for the positions from `start` up to `end`."""
    if value is None:
        return None
    if name == "position_embeddings":  # cosines and sines, or one complex number for both
        return tuple(part[:, start:end] for part in value) if isinstance(value, tuple) else value[:, start:end]
    if name == "attention_mask":
        return value[..., start:end, :end] if value.ndim >= 4 else value[..., :end]
    if name == "alibi":  # by key
        return value[..., :end]
    return value[..., start:end] if name in ("position_ids", "cache_position") else value


def _rows(name: str, value: Any, rows: int) -> Any:
    """An argument that was made for one row, for `rows` of them."""
    if value is None or rows == 1:
        return value
    if name == "attention_mask" and len(value) == 1:
        return value.expand(rows, *value.shape[1:])
    return value.repeat(rows, *[1] * (value.ndim - 1)) if name == "alibi" else value


# ---- the proof ----


def check_parts(model: Bridge) -> None:
    """ModelError unless blocks run in parts give the model's own logits: whole, from the middle on, the last alone."""

    def prove() -> None:
        rows = probe(readout(model).n_tokens, device_of(model.embed, torch.empty(0)))
        try:
            own, frame, resid = model(rows, use_cache=False)[:, -1], Frame.of(model, rows), embed(model, rows)
        except AttributeError as asked:
            if not isinstance(asked.obj, _Recorder):
                raise
            raise ModelError(
                f"a layer of this model ({architecture(model)}) does not keep keys and values as attention does, so it "
                "cannot be run in parts, and the model can neither be traced nor edited"
            ) from asked
        middle, top = rows.shape[1] // 2, len(model.blocks) - 1
        suffix = resid[:, middle:]
        for layer in range(top + 1):
            resid, (keys, values) = frame.recording_block(layer, resid)
            prefix = (keys[:, :, :middle], values[:, :, :middle])
            if layer == top:
                last = frame.last_block(suffix, prefix)
            suffix = frame.block(layer, suffix, prefix)
        for found in (resid, suffix, last):
            if not agree(frame.logits(found[:, -1]), own):
                raise ModelError(
                    f"several rows of this architecture ({architecture(model)}), run in parts, do not give the model's "
                    "own logits, so it cannot be traced exactly"
                )

    require(model, "run in parts", prove)
