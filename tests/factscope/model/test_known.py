"""Which facts a model knows: the rank of the answer in the model's own logits, many prompts at once."""

from typing import Any

import pytest
import torch

from factscope.data.load import load_facts
from factscope.errors import UserError
from factscope.model.known import Known, answer_ranks
from factscope.model.prompts import prompt_of
from helpers.models import TOY


def test_known_is_the_answers_rank_whatever_runs_beside_it(toy: Any) -> None:
    prompts = [prompt_of(toy, fact) for fact in load_facts(TOY / "toy_town.json", limit=6)]
    own = []
    for prompt in prompts:
        with torch.no_grad():
            logits = toy(prompt.tensor())[0, -1]
        own.append(1 + int((logits > logits[prompt.answer_ids[0]]).sum()))
    assert answer_ranks(toy, prompts) == own
    for within in (1, 2, 10):
        kept = tuple(prompt for prompt, place in zip(prompts, own, strict=True) if place <= within)
        assert Known.top(within).prompts(toy, prompts) == kept
    assert Known.top(10_000).prompts(toy, prompts) == tuple(prompts)
    assert answer_ranks(toy, []) == []


def test_known_says_what_it_is() -> None:
    assert Known() == Known.top(1)
    assert (str(Known()), str(Known.top(10))) == ("top 1", "top 10")
    with pytest.raises(UserError, match="top 1 or more"):
        Known.top(0)
