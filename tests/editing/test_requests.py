"""What a request says of a model: its own answer, in the words that give the token it chose, or no words at all."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from editing.requests import check, known, request
from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.data.request import requests_of
from factscope.errors import EditError, FactError, PromptError
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


FACTS = requests_of(
    (
        Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),
        Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris town"),
        Fact("c", "home", "Ze", "{} is", "Bern", "York"),
    )
)


def test_a_request_brings_its_answer_and_refuses_what_cannot_be_edited(toy):
    asked = request(toy, "[Oda Voss] lives in", "Vey")
    assert (asked.template, asked.target, asked.old) == ("{} lives in", "Vey", "Brask")
    with pytest.raises(EditError, match="edited away from"):
        request(toy, "[Oda Voss] lives in", "Brask")
    with pytest.raises(EditError, match="empty"):
        request(toy, "[Oda Voss] lives in", "  ")
    with pytest.raises(PromptError, match="not in the prompt"):
        request(toy, "Oda Voss lives in", "Vey", subject="Mira Drey")


def test_facts_without_a_target_or_with_two_are_refused_by_name():
    check(FACTS)
    with pytest.raises(EditError, match="no fact"):
        check([])
    with pytest.raises(FactError, match="'a' has no target"):
        requests_of([Fact("a", "home", "Foo Bar", "{} lives in", "Rome")])
    with pytest.raises(EditError, match=r"two targets, 'Oslo' and 'Kyiv' \(facts 'a' and 'z'\)"):
        check([*FACTS, replace(FACTS[0], id="z", target="Kyiv")])
    with pytest.raises(EditError, match="the same target twice"):
        check([*FACTS, replace(FACTS[0], id="z")])


def test_known_facts_are_those_whose_answer_comes_first(toy):
    facts = load_facts("tests/toy/toy_town.json", limit=6)
    assert known(toy, facts) == facts
    assert known(toy, facts, 2) == facts[:2]
    assert known(toy, [replace(facts[0], answer="Vey", foil=None)]) == ()
