"""A model that does not fit is refused before it is read, with what would fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from editing.weights.lent import in_float32
from factscope.errors import EditError, ModelError
from factscope.model.load import load
from factscope.model.source import room
from helpers.models import TOY


def _as_float32(model: Any) -> None:
    with in_float32(model):
        pass


def test_the_files_say_how_many_weights_there_are(toy: Any, tmp_path: Path) -> None:
    stored = {parameter.data_ptr(): parameter.numel() for parameter in toy.original_model.parameters()}
    assert room.weights_in(str(TOY)) == sum(stored.values())
    assert room.weights_in(str(tmp_path)) is None
    (tmp_path / "broken.safetensors").write_bytes(b"\x08")
    assert room.weights_in(str(tmp_path)) == 0  # whoever reads it says what is wrong


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    count = room.weights_in(str(TOY))
    assert count is not None
    monkeypatch.setattr(room, "free", lambda _: 3.0 * count)
    with pytest.raises(ModelError, match=r"0.000487 GB in float32, and .* free on cpu; --dtype bfloat16 needs half"):
        load(str(TOY), device="cpu")
    model = load(str(TOY), device="cpu", dtype="bfloat16")
    monkeypatch.setattr("editing.weights.lent.free", lambda _: 1.0 * count)
    with pytest.raises(EditError, match=r"computed in float32, for which this model needs .* GB more on cpu"):
        _as_float32(model)
    assert next(model.parameters()).dtype == torch.bfloat16
    monkeypatch.setattr(room, "free", lambda _: 1.0 * count)
    with pytest.raises(ModelError, match="use a smaller model, or a larger machine"):
        load(str(TOY), device="cpu")


def test_the_system_says_what_is_free_or_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there = room.free("cpu")
    assert there is None or there > 0
    monkeypatch.setattr(room, "_available", lambda: None)
    monkeypatch.setattr(room, "_left_to_container", lambda: None)
    assert room.free("cpu") is None
    room.check_room("any", str(TOY), torch.float32, "cpu")
