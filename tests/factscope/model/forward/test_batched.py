"""Rows of any length in one batch against each by itself."""

import pytest
import torch

from factscope.model.forward.batched import logits_at


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma3"])
def test_logits_at_wanted_positions_are_the_models(tiny, kind):
    model = tiny(kind)
    rows = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]]
    found = logits_at(model, rows, [[1, 4], [1], [0, 2]])
    for row, places, logits in zip(rows, [[1, 4], [1], [0, 2]], found, strict=True):
        torch.testing.assert_close(logits, model(torch.tensor([row]))[0, places], atol=1e-4, rtol=1e-4)
