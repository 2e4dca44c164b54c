"""Attention with edges knocked out: chosen tokens do not see chosen earlier tokens, in the layers that are named.

Geva et al. 2023, section 4. An edge is closed in the mask that the model hands to a block, before the softmax, so the
attention that is left still sums to one. A closed edge gets the value with which the model's own mask hides the future
from the first token, whatever that value is, so every architecture is masked in its own way.

What is proven of a model (`check_knockout`): a token that no later token can see in any layer has no say in what the
model answers, and one that they can see has.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from factscope.errors import ModelError
from factscope.model.agreement import agree, require
from factscope.model.bridge import Bridge, architecture
from factscope.model.bridge import device as device_of_model
from factscope.model.forward.partial import Frame
from factscope.model.readout import readout
from factscope.model.source.checkpoint import probe

Closed = Bool[Tensor, "row query key"]  # True where the query does not see the key


def without(mask: Tensor, closed: Closed) -> Tensor:
    """A block's attention mask [row, head, query, key] with the edges in `closed` hidden as it hides the future."""
    future = mask[..., :1, -1:]
    return torch.where(closed[:, None].to(mask.device), future, mask)


def knocked_out(frame: Frame, layer: int, closed: Closed) -> Frame:
    """The frame with the edges in `closed` knocked out in block `layer`; `closed` has all the frame's positions."""
    arguments = list(frame.arguments)
    arguments[layer] = arguments[layer] | {"attention_mask": without(mask_of(frame, layer), closed)}
    return replace(frame, arguments=tuple(arguments))


def visible(frame: Frame, layer: int) -> Bool[Tensor, "query key"]:
    """Which earlier tokens each token sees in block `layer`, by any head: with sliding windows, not all of them."""
    mask = mask_of(frame, layer)
    return (mask != mask[..., :1, -1:]).any(1)[0].cpu()


def mask_of(frame: Frame, layer: int) -> Tensor:
    """The attention mask of block `layer`, [row, head, query, key]; ModelError for a block that is given none."""
    mask = frame.arguments[layer].get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        raise ModelError(_unmasked(frame.model, layer))
    return mask


@contextmanager
def attention_knockout(model: Bridge, closed: Mapping[int, Closed]) -> Iterator[None]:
    """Run the block with the edges in `closed`, by layer, knocked out: the whole model's own forward pass, masked."""
    with ExitStack() as stack:
        for layer, edges in closed.items():
            block = model.blocks[layer]
            hook = _masking(model, layer, edges, list(inspect.signature(block.original_component.forward).parameters))
            stack.callback(block.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _masking(model: Bridge, layer: int, closed: Closed, names: list[str]) -> Any:
    """A hook that puts the masked mask in the place of the block's own, wherever among the arguments it stands."""

    def hook(_: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        place = names.index("attention_mask") if "attention_mask" in names else len(positional)
        inside = place < len(positional)
        mask = positional[place] if inside else named.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.ndim != 4:
            raise ModelError(_unmasked(model, layer))
        masked = without(mask, closed)
        if inside:
            return (*positional[:place], masked, *positional[place + 1 :]), named
        return positional, named | {"attention_mask": masked}

    return hook


def _unmasked(model: Bridge, layer: int) -> str:
    return (
        f"layer {layer} of this model ({architecture(model)}) is given no attention mask of tokens by tokens, so no "
        "attention can be knocked out there"
    )


# ---- the proof ----


def check_knockout(model: Bridge) -> None:
    """ModelError unless a token that no later token sees, in any layer, has no say in the model's answer."""

    def prove() -> None:
        tokens = probe(readout(model).n_tokens, device_of_model(model))[:1]
        middle = tokens.shape[1] // 2
        other = tokens.clone()
        other[:, middle] = tokens[:, 0]
        rows = torch.cat([tokens, other])
        closed = torch.zeros(1, tokens.shape[1], tokens.shape[1], dtype=torch.bool)
        closed[:, middle + 1 :, middle] = True
        open_ = model(rows, use_cache=False)[:, -1]
        with attention_knockout(model, dict.fromkeys(range(model.cfg.n_layers), closed)):
            shut = model(rows, use_cache=False)[:, -1]
        if agree(open_[1], open_[0]):
            raise ModelError(
                f"this model ({architecture(model)}) answers alike whichever tokens stand before, so a knockout of its "
                "attention would show nothing"
            )
        if not agree(shut[1], shut[0]):
            raise ModelError(
                f"in this architecture ({architecture(model)}) a token that attention cannot see still changes the "
                "answer, so its attention cannot be knocked out exactly"
            )

    require(model, "run with attention knocked out", prove)
