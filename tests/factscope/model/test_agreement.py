"""Numbers that ran over are no numbers: nothing is read of them, whoever asks."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from factscope.errors import ModelError
from factscope.model.agreement import finite
from factscope.model.forward.batched import logits_at
from factscope.model.forward.generate import generate, sample
from factscope.model.forward.scoring import Pair, score
from factscope.model.known import Known
from factscope.model.prompts import make_prompt
from tracing.causal import Config, trace
from tracing.logit_lens import lens


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_are_numbers(bad: float) -> None:
    good = torch.tensor([0.0, -torch.inf, 2.0])  # a token that a model rules out is fine
    assert finite(good) is good
    with pytest.raises(ModelError, match="not numbers"):
        finite(torch.tensor([0.0, bad]))


@pytest.fixture
def broken(tiny: Any) -> Iterator[Any]:
    """A model of which an edit, or half precision, made nonsense."""
    model = tiny("gpt2")
    weight = model.ln_final.original_component.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0] = torch.nan
    yield model
    with torch.no_grad():
        weight.copy_(kept)


def test_scoring_sampling_tracing_and_the_lens_stop(broken: Any) -> None:
    prompt = make_prompt(broken, "[Mira Voss] lives in", answer="Brask")
    asks = [
        lambda: logits_at(broken, [prompt.tokens], [[2]]),
        lambda: score(broken, [Pair(prompt.tokens, prompt.answer_ids)]),
        lambda: Known().prompts(broken, [prompt]),
        lambda: sample(broken, torch.tensor([[0, 1]]), 6, torch.Generator().manual_seed(0)),
        lambda: sample(broken, torch.tensor([[0, 1]]), 6, torch.Generator().manual_seed(0), top_k=5),
        lambda: generate(broken, [prompt.tokens], 3),
        lambda: trace(broken, prompt, Config(sites=("mlp",), samples=1)),
        lambda: lens(broken, prompt),
    ]
    for ask in asks:
        with pytest.raises(ModelError, match="not numbers"):
            ask()
