"""Knowledge neurons of one fact: the result as a value, its page, and the comparison with a trace."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import factscope as fs
from factscope.data.load import load_facts
from factscope.errors import UserError
from factscope.model.hooks import Patch, patched
from factscope.model.neurons.attribution import Path
from factscope.model.neurons.selection import Refinement
from factscope.model.prompts import make_prompt, tokenized
from factscope.model.sites import Site
from factscope.plots.show import page_of
from helpers.models import TOY
from helpers.results import check_result
from studies.trace import TraceStudy, trace_study
from tracing.causal import Config as TraceConfig
from tracing.neurons import Config, agreements, neurons
from tracing.results import NeuronResult

QUICK = Config(Path(points=4, tolerance=0.05))


@pytest.fixture(scope="module")
def study(toy: Any) -> TraceStudy:
    """A trace of one fact of the toy and its neurons, over three wordings."""
    fact = load_facts(TOY / "toy_town.json")[0]
    prompt = make_prompt(toy, fact.prompt, subject=fact.subject, answer=fact.answer)
    made = trace_study(toy, prompt, TraceConfig(samples=2, sites=("mlp",), window=1), neuron_config=QUICK, shown=False)
    found = neurons(toy, prompt, QUICK, wordings=fact.paraphrases)
    assert len(found.wordings) >= 3
    return replace(made, neurons=found)


@pytest.fixture
def found(study: TraceStudy) -> NeuronResult:
    assert study.neurons is not None
    return study.neurons


def test_silencing_the_fact_s_neurons_takes_the_answer_away_and_silencing_others_does_not(
    toy: Any, found: NeuronResult
) -> None:
    """Beside as many neurons of the same layers that carry least."""

    def left(places: list[tuple[int, int]]) -> float:
        patches = []
        for layer in {layer for layer, _ in places}:
            own = found.activation[0, layer].clone()
            own[[index for at, index in places if at == layer]] = 0
            patches.append(Patch(Site("mlp_hidden", layer), own, positions=[len(found.prompt.tokens) - 1]))
        with torch.no_grad(), patched(toy, patches):
            logits = toy(found.prompt.tensor())[0, -1]
        return float(logits.softmax(-1)[found.prompt.answer_ids[0]])

    own = [neuron.place for neuron in found.neurons]
    idle = [(layer, int(found.attribution[0, layer].abs().argsort()[rank])) for rank, (layer, _) in enumerate(own)]
    assert left(own) < left(idle) - 0.05
    assert left([]) == pytest.approx(float(found.whole[0]), abs=1e-5)


def test_the_result_is_saved_and_drawn_again(found: NeuronResult, study: TraceStudy, tmp_path: Any) -> None:
    for number, one in enumerate((found, study, replace(study, neurons=None))):
        fs.save(one, tmp_path / str(number))
        again = fs.load(tmp_path / str(number))
        assert repr(again) == repr(one)
        assert [section.heading for section in page_of(again).sections] == [s.heading for s in page_of(one).sections]
    check_result(found, tmp_path / "neurons", "NeuronResult")
    check_result(study, tmp_path / "both", "TraceStudy")
    assert "Knowledge neurons" in [section.heading for section in page_of(study).sections]
    assert torch.equal(fs.load(tmp_path / "0").attribution, found.attribution)


def test_the_words_say_which_neurons_and_where_the_trace_looks_elsewhere(study: TraceStudy) -> None:
    said = repr(study)
    assert "at the last token (layer.neuron, probability" in said
    assert "the trace restores most by the MLPs around layer" in said


def test_agreement_is_over_layers_at_the_two_tokens_that_matter(study: TraceStudy, found: NeuronResult) -> None:
    one, other = agreements(study.trace, found)
    assert (one.role, other.role) == ("last subject", "last token")
    effect = study.trace.grid("mlp").effect
    twin = replace(
        found, attribution=effect[None, :, -1, None].repeat(len(found.wordings), 1, found.attribution.shape[2])
    )
    assert agreements(study.trace, twin)[1].rho == pytest.approx(1)
    assert agreements(replace(study.trace, grids=()), found) == ()


def test_without_an_answer_it_is_the_model_s_own(toy: Any) -> None:
    bare = neurons(toy, make_prompt(toy, "[Oda Voss] lives in"), replace(QUICK, wordings=1))
    assert bare.prompt.answer == " Brask"
    assert bare.wordings == ("Oda Voss lives in",)
    assert bare.deciding == 1


def test_a_wording_that_cannot_be_asked_is_said_and_left_out(toy: Any) -> None:
    prompt = make_prompt(toy, "[Oda Voss] lives in", answer="Brask")
    found = neurons(toy, prompt, QUICK, wordings=[" ", "The home of Oda Voss is"])
    assert found.wordings == ("Oda Voss lives in", "The home of Oda Voss is")
    assert any("left out" in note for note in found.notes)


def test_neurons_of_other_facts_are_told_of(toy: Any) -> None:
    """The toy knows no shipped fact, so there are none: said, and nothing is left out."""
    found = neurons(toy, make_prompt(toy, "[Oda Voss] lives in"), replace(QUICK, others=3))
    assert found.common == ()
    assert any("no other facts" in note for note in found.notes)


def test_what_many_facts_of_the_relation_share_is_left_out(toy: Any) -> None:
    prompt = make_prompt(toy, "The capital of France is", answer="Paris")
    config = Config(Path(points=1, tolerance=10.0), Refinement(common=0.4), wordings=1, others=2)
    plain, apart = (neurons(toy, prompt, replace(config, others=others)) for others in (0, 2))
    assert apart.common
    assert not {neuron.place for neuron in apart.neurons} & set(apart.common)
    assert {neuron.place for neuron in plain.neurons} & set(apart.common)


def test_what_a_neuron_raises_is_what_its_row_raises(toy: Any, found: NeuronResult) -> None:
    own = found.neurons[0]
    weight = toy.original_model.model.layers[own.layer].mlp.down_proj.weight[:, own.index] * own.activation
    gain, table = toy.original_model.model.norm.weight, toy.original_model.lm_head.weight
    best = int((table @ (weight * gain)).argmax())
    assert own.raises[0] == toy.tokenizer.decode([best])
    assert tokenized(toy, found.wordings[0])[0] == found.prompt.tokens


def test_a_config_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="wording"):
        Config(wordings=0)
