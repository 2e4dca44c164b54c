"""What a request says of a model: its own answer, in the words that give the token it chose, or no words at all."""

import warnings
from typing import Any

import pytest
import torch

from editing.requests import request
from factscope.model.prompts import make_prompt, with_answer

TEXTS = ("[Mira Voss] lives in", '[Mira Voss] says "', "[Mira Voss] (", "In Vey [Oda Drey] works as a", "[Oda Senn] -")


@pytest.mark.parametrize("name", ["toy", "gpt2", "llama", "neox", "gemma3"])
def test_the_models_own_answer_is_the_token_that_it_gives(name: str, toy: Any, tiny: Any) -> None:
    """A random model says anything: parts of words, spaces, line breaks. What words cannot say is not compared with."""
    model = toy if name == "toy" else tiny(name)
    for text in TEXTS:
        prompt = make_prompt(model, text)
        own = int(model(torch.tensor([prompt.tokens]))[0, -1].argmax())
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            asked = request(model, text, "Nowhere")
        if asked.old is None:
            assert "no answer that a score could compare with" in str(told[0].message)
        else:
            assert with_answer(model, prompt, asked.old, "own").answer_ids[0] == own
