"""The attributes rate and the extracting layers, against the lens and by hand."""

from typing import Any

import pytest
import torch

from factscope.data.load import load_facts
from factscope.errors import UserError
from factscope.model.prompts import make_prompt, prompt_of
from factscope.model.readout import readout
from factscope.model.sites import Site
from helpers.models import TOY
from tracing.flow.recall import FUNCTION_WORDS, WORDS, attributes_of, enrichment, extraction, recorded
from tracing.logit_lens import lens


def test_the_attributes_of_a_subject_are_what_its_facts_lead_to() -> None:
    tower = attributes_of("The Eiffel Tower")
    assert tower == attributes_of("Eiffel Tower")
    assert {"Paris", "France", "French"} <= set(tower)
    assert "Berlin" not in tower
    assert attributes_of("Nobody Nowhere") == ()
    pool = load_facts(TOY / "toy_town.json")
    assert attributes_of(pool[0].subject, pool) == (pool[0].answer,)


def test_the_rate_counts_attributes_among_the_first_words_of_the_lens(toy: Any) -> None:
    pool = load_facts(TOY / "toy_town.json")
    prompt = prompt_of(toy, pool[0])
    found = enrichment(toy, prompt, recorded(toy, prompt), (), pool)
    assert found is not None
    assert found.words == (pool[0].answer,)
    assert found.rate.shape == found.null.shape == (toy.cfg.n_layers + 1,)
    # By hand: the lens at the subject's last token, its words in their order.
    place = prompt.subject_span[1] - 1
    states = recorded(toy, prompt)
    for layer in range(toy.cfg.n_layers):
        logits = readout(toy).logits(states[Site("resid", layer)][place])
        tokens = [toy.tokenizer.decode([i]).strip().casefold() for i in logits.argsort(descending=True).tolist()]
        words = [text for text in tokens if text.isalpha() and len(text) > 2 and text not in FUNCTION_WORDS][:WORDS]
        own = [toy.tokenizer.decode([i]).strip().casefold() for i in toy.tokenizer.encode(f" {pool[0].answer}")]
        assert float(found.rate[layer + 1]) == pytest.approx(sum(text in own for text in words) / len(words))
    assert found.rate[-1] > 0
    assert 1 <= found.others <= 30


def test_given_words_are_taken_and_words_that_are_none_refused(toy: Any) -> None:
    prompt = make_prompt(toy, "In Vey [Mira Hallin] lives in", answer="Brask")
    states = recorded(toy, prompt)
    found = enrichment(toy, prompt, states, ("Brask", "Vey"))
    assert found is not None
    assert found.words == ("Brask", "Vey")
    assert found.words_from == "given"
    assert found.null.isnan().all(), "no other subject is known"
    assert enrichment(toy, prompt, states) is None
    with pytest.raises(UserError, match="none of the attributes"):
        enrichment(toy, prompt, states, ("3",))


def test_an_update_extracts_what_it_puts_first(toy: Any) -> None:
    prompt = prompt_of(toy, load_facts(TOY / "toy_town.json")[0])
    found = extraction(toy, prompt, recorded(toy, prompt))
    assert found.rank.shape == (2, toy.cfg.n_layers)
    components = {part.name: part for part in lens(toy, prompt, norm="final-scale").components}
    for layer in range(toy.cfg.n_layers):
        assert int(found.rank[1, layer]) == components[f"m{layer}"].rank
        assert found.top[1][layer] == components[f"m{layer}"].top[0]
    heads = [part for part in components.values() if part.name.startswith("a")]
    assert len(heads) >= toy.cfg.n_layers
    answer = toy.tokenizer.decode([prompt.answer_ids[0]])
    for part in range(2):
        for layer in range(toy.cfg.n_layers):
            assert bool(found.extracts[part, layer]) == (found.top[part][layer] == answer)
    assert found.extracts.any(), "the trained toy extracts its answer somewhere"
    assert torch.all(found.rank >= 1)
