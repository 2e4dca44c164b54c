"""What no other test holds against TransformerLens: its activation patching and its logit lens, on one model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from campaigns.differential.pieces import Difference, _lens, _patched, asked
from helpers.circuits import double


@pytest.mark.parametrize("kind", ["resid", "mlp", "head"])
def test_a_trace_by_swapping_is_transformerlenss_activation_patching(tmp_path: Path, kind: str) -> None:
    ours, theirs = _patched(*_asked(tmp_path), kind)
    torch.testing.assert_close(ours.double(), theirs.double(), atol=1e-6, rtol=1e-5)
    assert float(theirs.abs().max()) > 1e-2


def test_the_logit_lens_is_transformerlenss(tmp_path: Path) -> None:
    ours, theirs = _lens(*_asked(tmp_path))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_difference_falls_and_a_refusal_does_not() -> None:
    assert Difference("x", 0, "x", "plain", 1, 1e-3, 1.0).fell
    assert Difference("x", 0, "x", "plain", 1, float("nan"), 1.0).fell
    assert not Difference("x", 0, "x", "plain", 1, 1e-6, 1.0).fell
    assert not Difference("x", 0, "x", "plain", 0, float("nan"), float("nan"), "refused").fell


def _asked(folder: Path) -> tuple[Any, Any]:
    model = double("gpt2", folder)
    return model, asked(model)
