"""Scores against their definitions, protocols against each other, layers, and the trained toy whose facts flip."""

import math
from dataclasses import replace

import pytest
import torch

from editing import compute as computing
from editing import method as methods
from editing.delta import Delta
from editing.edit import Edit, applied, in_place
from editing.evaluation.evaluate import Reading, Row, evaluate, probes, read, table
from editing.evaluation.protocol import PROTOCOLS
from editing.layer_trials import try_layers
from editing.pages import layer_trials
from editing.pages.edit import scored
from factscope.data.fact import Fact, Neighbour
from factscope.data.load import load_facts
from factscope.data.request import EditRequest, requests_of
from factscope.errors import EditError
from factscope.model.forward.generate import generate
from factscope.model.prompts import start_ids
from factscope.model.weights import fingerprint, live_weights
from factscope.plots.page import page_html
from factscope.runs import store
from helpers.models import TOY
from helpers.moments import text_moments

FACT = Fact(
    "a", "r", "Foo Bar", "{} lives in", "Rome", "Oslo town", (), ("Foo Bar is in",), (Neighbour("Ze is in", "Bern"),)
)


def moved(model, seed=0, size=0.05, fact=FACT):
    """An edit of random factors."""
    generator = torch.Generator().manual_seed(seed)
    d_in, d_out = live_weights(model)["blocks.1.mlp.W_out"].shape
    left, right = size * torch.randn(d_in, 2, generator=generator), torch.randn(2, d_out, generator=generator)
    delta = Delta("blocks.1.mlp.W_out", right, left)
    return Edit("rome", {"layer": 1}, requests_of((fact,)), (delta,), fingerprint(model), "tiny", seed)


def nll(model, text, answer, start):
    """Mean nats per token, by one plain forward pass."""
    prompt = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    both = model.tokenizer(text + " " + answer, add_special_tokens=False)["input_ids"]
    logp = model(torch.tensor([[*start, *both]]))[0].log_softmax(-1)
    at = len(start) + len(prompt) - 1
    picked = [float(logp[at + i, token]) for i, token in enumerate(both[len(prompt) :])]
    return -sum(picked) / len(picked)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma3"])
def test_every_reading_is_that_of_a_plain_forward_pass(tiny, kind):
    model = tiny(kind)
    edit = moved(model)
    report = evaluate(model, [edit], start="none", shown=False)
    assert [row.kind for row in report.rows] == ["prompt", "paraphrase", "neighbour"]
    for row in report.rows:
        assert row.before.nll_new == pytest.approx(nll(model, row.prompt, "Oslo town", ()), abs=1e-4)
        assert row.before.nll_true == pytest.approx(nll(model, row.prompt, row.true, ()), abs=1e-4)
        assert row.before.kl == pytest.approx(0, abs=1e-6)
        clean = model(torch.tensor([model.tokenizer(row.prompt, add_special_tokens=False)["input_ids"]]))[
            0, -1
        ].log_softmax(-1)
        with edit.applied(model):
            assert row.after.nll_new == pytest.approx(nll(model, row.prompt, "Oslo town", ()), abs=1e-4)
            now = model(torch.tensor([model.tokenizer(row.prompt, add_special_tokens=False)["input_ids"]]))[
                0, -1
            ].log_softmax(-1)
        assert row.after.kl == pytest.approx(float((clean.exp() * (clean - now)).sum()), abs=1e-4)
        assert row.after.top == model.tokenizer.decode([int(now.argmax())])


def test_exact_is_greedy_generation_beginning_with_the_answer(toy):
    facts = load_facts(TOY / "toy_town.json", limit=4)
    asked = [probe for one in requests_of(facts) for probe in probes(toy, one, "auto")[:1]]
    for probe, found in zip(asked, read(toy, asked), strict=True):
        for row, ids, exact in zip(probe.rows, probe.ids, found.exact, strict=True):
            prompt = row[: len(row) - len(ids) + 1]
            assert (generate(toy, [prompt], len(ids))[0] == list(ids)) == exact
    assert all(found.exact[1] for found in read(toy, asked))  # the toy knows its world


def test_the_table_follows_its_definitions():
    reading = lambda new, true, **more: Reading(new, true, False, True, "x", **more)  # noqa: E731
    rows = [
        Row("a", "prompt", "", "n", "t", reading(2.0, 1.0), reading(1.0, 2.0)),
        Row("a", "paraphrase", "", "n", "t", reading(2.0, 1.0), reading(1.0, 2.0)),
        Row("a", "paraphrase", "", "n", "t", reading(2.0, 1.0), reading(3.0, 2.0)),
        Row("b", "prompt", "", "n", "t", reading(2.0, 1.0), reading(1.0, 1.0)),  # a tie is no success
        Row("b", "paraphrase", "", "n", "t", reading(2.0, 1.0), reading(1.0, 2.0)),
        Row("b", "neighbour", "", "n", "t", reading(2.0, 1.0), replace(reading(1.0, 1.0, kl=0.5), top="y")),
    ]
    scores = {score.name: score for score in table(rows)}
    assert (scores["efficacy success"].before, scores["efficacy success"].after) == (0, 0.5)
    assert scores["efficacy success"].n == 2
    assert scores["paraphrase success"].after == pytest.approx((0.5 + 1) / 2)  # within a fact, then over facts
    magnitude = (math.exp(-1) - math.exp(-2)) / 2
    assert scores["efficacy magnitude"].after == pytest.approx(magnitude)
    assert (scores["neighbourhood success"].before, scores["neighbourhood success"].after) == (1, 0)
    assert scores["neighbourhood top-1 same"].after == 0
    assert scores["neighbourhood KL"].after == 0.5
    assert scores["neighbourhood exact"].after == 1
    assert "unrelated KL" not in scores


def test_the_order_is_a_part_of_the_protocol(tiny):
    model = tiny("llama")
    edits = [moved(model, 0), moved(model, 1, fact=replace(FACT, id="b", subject="Quux", paraphrases=()))]
    for name, alike in (("counterfact", "single"), ("memit", "together"), ("sequential", "sequence")):
        one, other = (evaluate(model, edits, protocol=how, shown=False) for how in (PROTOCOLS[name], alike))
        assert (one.protocol, one.rows) == (alike, other.rows)
    with pytest.raises(EditError, match="as 'alone'; choose single, together, sequence"):
        evaluate(model, edits, protocol="alone", shown=False)


def test_protocols_agree_where_they_must(tiny):
    model = tiny("llama")
    edits = [moved(model, 0), moved(model, 1, fact=replace(FACT, id="b", subject="Quux", paraphrases=()))]
    before = fingerprint(model)
    reports = {name: evaluate(model, edits, protocol=name, shown=False) for name in ("single", "together", "sequence")}
    assert fingerprint(model) == before
    assert in_place(model) == ()
    first, last = reports["sequence"].rows[0], reports["sequence"].rows[-1]
    same = lambda one, other: one.nll_new == pytest.approx(other.nll_new, abs=1e-5)  # noqa: E731
    assert same(first.after, reports["single"].rows[0].after)  # the first edit of a sequence is alone
    assert same(first.final, reports["together"].rows[0].after)  # and at the end all are there
    assert same(last.after, last.final)
    assert not same(first.after, first.final)
    assert reports["single"].rows[0].final is None


def test_unrelated_prompts_are_only_asked_whether_they_changed(tiny):
    model = tiny("gpt2")
    other = replace(FACT, id="other", subject="Ze")
    report = evaluate(model, [moved(model)], unrelated=[other], shown=False)
    assert [score.name for score in report.scores if score.name.startswith("unrelated")] == [
        "unrelated top-1 same",
        "unrelated KL",
    ]


def test_nothing_to_evaluate_and_edits_in_place_are_refused(tiny):
    model = tiny("llama")
    with pytest.raises(EditError, match="no edit"):
        evaluate(model, [])
    edit = moved(model)
    with applied(model, [edit]), pytest.raises(EditError, match="take the edits"):
        evaluate(model, [edit])
    with pytest.raises(EditError, match="does not say what was true before"):
        probes(model, replace(EditRequest.of(FACT), old=None), "auto")


def test_a_report_saves_loads_and_draws(tiny, tmp_path):
    model = tiny("llama")
    edit = moved(model)
    report = evaluate(model, [edit], words=5, shown=False)
    again = store.load(store.save(report, tmp_path), type(report))
    assert store.same(report, again)
    html = page_html(scored([edit], again), light=True)
    assert "Oslo town" in html
    assert "neighbourhood" in html
    told = all(len(text.split()) > 2 for text in again.spoken[0][1:])  # two words have no n-grams to speak of
    assert any(score.name == "generation entropy" for score in again.scores) == told


# ---- the trained toy ----


def toy_moments(toy, layers):
    """Second moments of everything that the toy was taught."""
    facts = [fact for name in ("town", "trade", "tongue") for fact in load_facts(TOY / f"toy_{name}.json")]
    texts = [f"{text} {fact.answer}" for fact in facts for text in (fact.prompt, *fact.paraphrases)]
    rows = [[*start_ids(toy), *toy.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    return text_moments(toy, layers, rows)


def toy_settings(name):
    spec = methods.method(name)
    config = spec.at_layers(spec.Config(), (0,))
    return config if hasattr(config, "descent") else replace(config, learning_rate=5e-3)


@pytest.mark.parametrize("name", [name for name in methods.method_names() if not methods.method(name).in_context])
def test_every_method_that_changes_weights_flips_most_facts_of_the_toy(toy, name):
    """At layer 0, where the toy keeps its facts: a trace of it says so too."""
    facts = load_facts(TOY / "toy_town.json", limit=4)
    edits = computing.compute_each(
        name, toy, facts, toy_settings(name), moments=toy_moments(toy, [0]), contexts=("{}", "Today, {}"), shown=False
    )
    report = evaluate(toy, edits, shown=False)
    assert report.score("efficacy success").before == 0
    # Not all four: in so small a world the update also reaches the words beside the subject.
    assert report.score("efficacy success").after >= 0.5
    assert report.score("paraphrase success").after > report.score("paraphrase success").before


def test_many_facts_at_once_flip_too(toy):
    facts = load_facts(TOY / "toy_town.json", limit=8)
    edit = computing.compute(
        "memit",
        toy,
        facts,
        toy_settings("memit"),
        moments=toy_moments(toy, [0]),
        contexts=("{}", "Today, {}"),
        shown=False,
    )
    report = evaluate(toy, [edit], protocol="together", shown=False)
    assert report.score("efficacy success").after >= 0.75
    assert report.score("efficacy success").n == 8


def test_chunks_of_values_are_kept_and_taken_up(toy, tmp_path, monkeypatch):
    facts = load_facts(TOY / "toy_town.json", limit=5)
    monkeypatch.setattr(methods, "CHUNK", 2)
    real, calls = methods.find_values, []

    def stopping(model, some, *arguments, **how):
        calls.append(len(some))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(model, some, *arguments, **how)

    config = replace(methods.method("memit").Config(), layers=(0, 1))
    how = {"moments": text_moments(toy, [0, 1]), "contexts": ("{}",), "shown": False}
    whole = computing.compute("memit", toy, facts, config, **how)
    monkeypatch.setattr(methods, "find_values", stopping)
    before = fingerprint(toy)
    with pytest.raises(KeyboardInterrupt):
        computing.compute("memit", toy, facts, config, folder=tmp_path, **how)
    assert fingerprint(toy) == before
    again = computing.compute("memit", toy, facts, config, folder=tmp_path, **how)
    assert calls == [2, 2, 2, 1]  # the first chunk was not found again
    for one, other in zip(whole.deltas, again.deltas, strict=True):
        torch.testing.assert_close(one.dense(), other.dense())


def test_layers_are_tried_and_the_best_is_the_one_with_the_highest_mark(toy):
    facts = load_facts(TOY / "toy_town.json", limit=3)
    choice = try_layers(toy, facts, [0, 1, 3], moments=text_moments(toy, [0, 1, 3]), shown=False)
    assert [trial.layer for trial in choice.trials] == [0, 1, 3]
    best = next(trial for trial in choice.trials if trial.layer == choice.best)
    assert best.mark == max(trial.mark for trial in choice.trials)
    parts = (best.efficacy, best.paraphrase, best.neighbourhood, best.unchanged)
    assert best.mark == pytest.approx(4 / sum(1 / part for part in parts))
    assert "layer" in page_html(layer_trials.page(choice), light=True)
    with pytest.raises(EditError, match="no paraphrase or no neighbour"):
        try_layers(toy, [replace(facts[0], neighbours=())], [0])


# ---- the real default model ----


@pytest.mark.default_model
def test_one_rome_edit_of_the_default_model_end_to_end(smollm2, tmp_path):
    """The identity stands in for moments, so that nothing is sampled but six contexts: Paris becomes Rome, and back."""
    from editing.requests import request

    asked = request(smollm2, "[The Eiffel Tower] is located in the city of", "Rome")
    config = methods.method("rome").config_for(smollm2)
    edit = computing.compute("rome", smollm2, [asked], config, shown=False)
    report = evaluate(smollm2, [edit], shown=False)
    row = report.rows[0]
    assert (row.before.top, row.after.top) == (" Paris", " Rome")
    assert math.exp(-row.after.nll_new) > 0.8
    again = Edit.load(edit.save(tmp_path))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 50_000
    with again.applied(smollm2):
        assert fingerprint(smollm2) != edit.base
    assert fingerprint(smollm2) == edit.base
