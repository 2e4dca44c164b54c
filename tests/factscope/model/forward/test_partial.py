"""Running only some blocks on only some positions gives what the whole model gives."""

from typing import Any

import pytest
import torch

from factscope.errors import ModelError
from factscope.model.forward.partial import Frame, embed
from factscope.model.hooks import Patch, patched
from factscope.model.sites import Site

SHAPES = ("gpt2", "llama", "neox", "gemma3")
TOKENS = torch.tensor([[0, 7, 30, 12, 7, 55, 9, 80, 3, 41, 2, 17]])
CLOSE: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-4}  # float32, four layers, another order of sums


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_a_tail_from_any_layer_and_position_gives_the_models_logits(tiny: Any, name: str) -> None:
    model = tiny(name)
    frame, resid = Frame.of(model, TOKENS), embed(model, TOKENS)
    states, kept = [resid], []
    for layer in range(4):
        resid, keys_values = frame.recording_block(layer, resid)
        states.append(resid)
        kept.append(keys_values)
    wanted = model(TOKENS)[:, -1]
    for layer in range(5):
        for start in (0, 1, 5, 11):
            prefixes = [(k[:, :, :start], v[:, :, :start]) for k, v in kept]
            resid = frame.blocks(states[layer][:, start:], layer, prefixes)
            assert torch.allclose(frame.logits(resid[:, -1]), wanted, **CLOSE), (layer, start)


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_the_last_block_for_the_last_position_alone(tiny: Any, name: str) -> None:
    model = tiny(name)
    frame, resid = Frame.of(model, TOKENS), embed(model, TOKENS)
    for layer in range(3):
        resid, _ = frame.recording_block(layer, resid)
    whole, (keys, values) = frame.recording_block(3, resid)
    for start in (0, 4, 10):
        last = frame.last_block(resid[:, start:], (keys[:, :, :start], values[:, :, :start]))
        assert torch.allclose(last, whole[:, -1:], **CLOSE)


@torch.no_grad()
def test_hooks_inside_a_block_fire_in_a_tail(tiny: Any) -> None:
    model = tiny("llama")
    frame, resid = Frame.of(model, TOKENS), embed(model, TOKENS)
    patch = Patch(Site("mlp", 2), torch.zeros(32), positions=[6])
    with patched(model, [patch]):
        wanted = model(TOKENS)[:, -1]
    for layer in range(2):
        resid, _ = frame.recording_block(layer, resid)
    with patched(model, [patch]):
        assert torch.allclose(frame.logits(frame.blocks(resid, 2)[:, -1]), wanted, **CLOSE)


def test_a_model_whose_blocks_are_not_the_whole_story_is_refused(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    monkeypatch.setattr(model.cfg, "output_logits_soft_cap", 1.0, raising=False)  # the model itself does not cap
    with pytest.raises(ModelError, match="traced exactly"):
        Frame.of(model, TOKENS)
