"""What others may ask of a loaded model: where it came from, its device, and the layers worth editing."""

from dataclasses import dataclass
from typing import Any

import torch

from factscope.model.load import _info


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
    return known if known is not None else _info(model, str(model.cfg.model_name), str(model.cfg.model_name), None)


def device(model: Any) -> torch.device:
    """Where the model's input goes."""
    return next(model.embed.parameters()).device
