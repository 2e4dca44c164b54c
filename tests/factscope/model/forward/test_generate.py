"""Text that is written on for many prompts at once, against each prompt alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from factscope.model.forward import generate as written
from factscope.model.forward.generate import generate, sample

PROMPTS = ([5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19, 20], [5, 9, 30, 7])


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_prompts_of_any_length_are_written_on_as_each_alone(tiny: Callable[[str], Any], name: str) -> None:
    model = tiny(name)
    passes = []
    handle = model.original_model.register_forward_pre_hook(lambda *_: passes.append(1))
    alone = [sample(model, torch.tensor([row]), len(row) + 6, None)[0, len(row) :].tolist() for row in PROMPTS]
    generate(model, PROMPTS, 1)  # the trial is behind us
    passes.clear()
    together = generate(model, PROMPTS, 6)
    handle.remove()
    assert together == alone
    assert len(passes) == 6  # not 6 for each length
    # A plain model of the same weights says the same, without any cache.
    row = list(PROMPTS[1])
    with torch.no_grad():
        for _ in range(6):
            row.append(int(model.original_model(torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    assert row[len(PROMPTS[1]) :] == together[1]


def test_a_model_that_notices_padding_reads_one_length_at_a_time(
    tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gpt2")
    right = generate(model, PROMPTS, 4)
    monkeypatch.setattr(written, "_notices_padding", lambda _: True)
    widths = []

    def watched(model: Any, begin: torch.Tensor, *more: Any, **how: Any) -> torch.Tensor:
        widths.append(tuple(begin.shape))
        return sample(model, begin, *more, **how)

    monkeypatch.setattr(written, "sample", watched)
    assert generate(model, PROMPTS, 4) == right
    assert widths == [(2, 4), (1, 5), (1, 7)]


def test_greedy_sampling_with_a_cache_is_the_argmax_of_plain_passes(tiny):
    model = tiny("llama")
    tokens = torch.tensor([[3, 4], [5, 6]])
    out = sample(model, tokens, 7, None)
    for _ in range(5):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
    assert torch.equal(out, tokens)
