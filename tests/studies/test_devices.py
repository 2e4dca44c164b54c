"""Every verb and every method on a device that is not the CPU: it runs, and its numbers are those of the CPU.

The device is pretended (helpers/pretend.py), so that a tensor left on the wrong one is found without the hardware.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits.find import find
from circuits.method import Method
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG
from circuits.scorers.exact import Exact
from circuits.search.acdc import ACDC
from circuits.task import Task
from editing import compute as computing
from editing.edit import Edit
from editing.evaluation.evaluate import evaluate
from editing.method import method, method_names
from editing.restraint import restrained
from editing.sequence.result import Config as SequenceConfig
from editing.sequence.run import sequence
from editing.sequence.yardstick import Yardstick, fixed_text
from editing.solve import corpus, moments
from editing.spectrum import spectra
from factscope.data.load import load_facts
from factscope.errors import ModelError
from factscope.model.bridge import device
from factscope.model.known import answer_ranks
from factscope.model.load import load
from factscope.model.prompts import make_prompt
from helpers.commands import invoke
from helpers.editors import config_of, editor_of
from helpers.models import TOY
from helpers.moments import text_moments
from helpers.pretend import pretended, spread
from studies.circuit import CircuitStudy, evaluated
from tracing.causal import Config, trace
from tracing.flow.knockout import FlowConfig, flow
from tracing.logit_lens import lens

FACTS = load_facts(TOY / "toy_town.json", limit=2)


Place = Callable[[Any], AbstractContextManager[Any]]


@pytest.fixture(params=[pretended, spread], ids=["another device", "several devices"])
def place(request: Any) -> Place:
    """A device that is not the CPU, or the CPU and another: the layers from the second half on."""
    found: Place = request.param
    return found


def both(model: Any, call: Callable[[], Any], place: Place = pretended) -> tuple[Any, Any]:
    """What it gives on the CPU and on the device."""
    here = call()
    with place(model):
        return here, call()


def same_tensors(one: Any, other: Any) -> None:
    """Two values of one kind hold the same numbers, those of the second on the CPU, as results keep them."""
    assert type(other) is torch.Tensor, "results stand on the CPU"
    torch.testing.assert_close(one, other, equal_nan=True, rtol=1e-3, atol=1e-5)  # other products sum in another order


@pytest.mark.parametrize("corruption", ["noise", "swap"])
def test_traces(toy: Any, place: Place, corruption: str) -> None:
    prompt = make_prompt(toy, "[Oda Voss] lives in", answer="Brask", foil="Vey")
    sites = ("resid", "mlp", "attn", "head", "severed_mlp", "severed_attn")
    swaps = ("Mira Drey",) if corruption == "swap" else ()
    metric = "kl" if corruption == "swap" else "probability"
    config = Config(sites=sites, samples=1, corruption=corruption, swaps=swaps, metric=metric)
    one, other = both(toy, lambda: trace(toy, prompt, config), place)
    for site in sites:
        same_tensors(one.grid(site).effect, other.grid(site).effect)


def test_flows(toy: Any, place: Place) -> None:
    prompt = make_prompt(toy, "In Vey [Oda Voss] lives in", answer="Brask Vey")
    config = FlowConfig(nulls=1, attributes=("Brask",))
    for engine in ("fast", "reference"):
        one, other = both(toy, partial(flow, toy, prompt, replace(config, engine=engine)), place)
        same_tensors(one.log_probability, other.log_probability)
        same_tensors(one.null, other.null)
        same_tensors(one.extraction.rank, other.extraction.rank)
        same_tensors(one.enrichment.rate, other.enrichment.rate)


def test_the_lens_scores_and_ranks(toy: Any, place: Place) -> None:
    prompt = make_prompt(toy, "[Oda Voss] lives in", answer="Brask")
    for norm in ("per-state", "final-scale"):
        one, other = both(toy, partial(lens, toy, prompt, norm), place)
        same_tensors(one.log_probability, other.log_probability)
    one, other = both(toy, lambda: answer_ranks(toy, [prompt]), place)
    assert one == other


@pytest.fixture(scope="module")
def keys(toy: Any) -> Any:
    return text_moments(toy, [1, 2])


@pytest.mark.parametrize("name", method_names())
def test_methods_of_edits(toy: Any, keys: Any, place: Place, name: str) -> None:
    spec = method(name)
    config: Any = spec.Config()
    if not spec.in_context:
        config = spec.at_layers(config, (1, 2) if spec.layer_setting == "layers" else (2,))
        if hasattr(config, "descent"):
            config = replace(config, descent=replace(config.descent, steps=2))
        elif hasattr(config, "steps"):
            config = replace(config, steps=2)
    how: dict[str, Any] = {"moments": keys if spec.needs_moments else None, "contexts": ("{}", "Today, {}")}
    if spec.train is not None:
        config, how["editor"] = config_of(toy, name), editor_of(toy, name)
    facts = FACTS[:1] if spec.in_context else FACTS
    one, other = both(toy, lambda: computing.compute(name, toy, facts, config, shown=False, **how), place)
    for ours, theirs in zip(one.deltas, other.deltas, strict=True):
        same_tensors(ours.dense(torch.float32), theirs.dense(torch.float32))
    for beside, there in zip(one.bypasses, other.bypasses, strict=True):
        for part, tensor in beside.tensors.items():
            same_tensors(tensor, there.tensors[part])
    asked = torch.tensor([make_prompt(toy, FACTS[0].prompt).tokens])
    with one.applied(toy):
        said = toy(asked, use_cache=False)
    with place(toy), other.applied(toy):
        same_tensors(said, toy(asked.to(device(toy)), use_cache=False).cpu().as_subclass(torch.Tensor))
    if name != "rome":  # the reading is the same for all
        return
    first, second = both(toy, lambda: evaluate(toy, [one]), place)
    assert [one.value for one in first.scores] == pytest.approx(
        [one.value for one in second.scores], rel=1e-3, abs=1e-6
    )


def test_moments_restraints_spectra_and_sequences(toy: Any, place: Place, tmp_path: Path) -> None:
    text = corpus.Config(tokens=260, document=20, rows=8)
    folders = iter((tmp_path / "here", tmp_path / "there"))
    one, other = both(toy, lambda: moments.collect(toy, [2], text, folder=next(folders), shown=False), place)
    same_tensors(one.of(2), other.of(2))
    spec = method("rome")
    config: Any = spec.at_layers(spec.Config(), (2,))
    config = replace(config, descent=replace(config.descent, steps=2))
    edit: Edit = computing.compute("rome", toy, FACTS[:1], config, contexts=("{}",), shown=False)
    first, second = both(toy, lambda: (restrained(toy, [edit], "rect", None), spectra(toy, [edit])), place)
    same_tensors(first[0].deltas[0].dense(torch.float32), second[0].deltas[0].dense(torch.float32))
    assert [one.condition for one in first[1]] == pytest.approx([one.condition for one in second[1]])
    places = iter((tmp_path / "one", tmp_path / "two"))

    def run() -> Any:
        yardstick = Yardstick.of(toy, (), *fixed_text(toy, documents=2, tokens=10), "auto")
        settings = SequenceConfig(every=1)
        return sequence(
            toy,
            FACTS,
            "rome",
            settings,
            next(places),
            yardstick,
            config=config,
            contexts=("{}",),
            shown=False,
            say=lambda _: None,
        )

    first, second = both(toy, run, place)
    assert first.last.perplexity == pytest.approx(second.last.perplexity, rel=1e-3)


@pytest.mark.parametrize("wanted", [EAP(edges=30), EAPIG(edges=30), Exact(edges=30), ACDC(threshold=2.0)], ids=type)
def test_circuits(toy: Any, wanted: Method) -> None:
    prompt, other, third = (
        make_prompt(toy, f"[{who}] lives in", answer=where)
        for who, where in (("Oda Voss", "Brask"), ("Mira Drey", "Vey"), ("Oda Drey", "Brask"))
    )
    for ablation in ("mean", "counterfactual"):
        task = Task((prompt,), "nll", ablation, (other,), (other, third))
        one, two = both(toy, partial(find, toy, task, wanted, split=False))
        same_tensors(one.scores, two.scores)
    if isinstance(wanted, EAP):
        first, second = both(toy, lambda: evaluated(toy, CircuitStudy(one), (other,)))
        assert first.evaluation.faithfulness == pytest.approx(second.evaluation.faithfulness, rel=1e-3)


def test_a_model_on_several_devices_has_no_circuits_and_says_so(toy: Any) -> None:
    prompt = make_prompt(toy, "[Oda Voss] lives in", answer="Brask")
    with spread(toy), pytest.raises(ModelError, match=r"lies on several devices, .* load it onto one for circuits"):
        find(toy, Task((prompt,), ablation="zero"), EAP(edges=30))


def test_a_model_is_spread_where_it_is_asked_for(tmp_path: Path) -> None:
    """By accelerate itself, over the one device that is here, and over one that has no room for all of it."""
    model = load(str(TOY), device_map="auto")

    prompt = make_prompt(model, "[Oda Voss] lives in", answer="Brask")
    assert trace(model, prompt, Config(sites=("mlp",), samples=1)).clean.mean() > 0.5
    ended = invoke("trace", prompt.text, "--subject", "Oda Voss", "--model", TOY, "--device-map", "auto", "--samples",
                   1, "--sites", "mlp", "--out", tmp_path / "run")  # fmt: skip
    assert ended.exit_code == 0, ended.stderr
    two = invoke("trace", prompt.text, "--model", TOY, "--device-map", "auto", "--device", "cpu")
    assert (two.exit_code, "give one of the two" in two.stderr) == (2, True)
    aside = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    aside |= {"model.rotary_emb": "cpu"}
    with pytest.raises(ModelError, match=r"does not fit into the devices: model\.layers"):
        load(str(TOY), device_map=aside)
