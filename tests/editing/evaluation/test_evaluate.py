"""Scores against their definitions, protocols against each other, layers, and the trained toy whose facts flip."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from editing import compute as computing
from editing import method as methods
from editing.delta import Delta
from editing.edit import Edit, applied, in_place
from editing.evaluation.evaluate import evaluate, questions
from editing.evaluation.protocol import ORDERS, PROTOCOLS
from editing.evaluation.read import Asked, Reading, Row
from editing.evaluation.table import harmonic, table
from editing.layer_trials import LayerChoice, LayerTrial, try_layers
from editing.pages import layer_trials
from editing.pages.edit import scored
from factscope.data.case import Case
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
from helpers.results import check_result
from helpers.schema_2 import row_as_schema_2

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
    assert [row.kind for row in report.rows] == ["rewrite", "paraphrase", "locality"]
    for row in report.rows:
        assert row.after is not None
        assert row.before.nll == pytest.approx(nll(model, row.prompt, row.target, ()), abs=1e-4)
        assert row.before.nll_other == pytest.approx(nll(model, row.prompt, row.other, ()), abs=1e-4)
        assert row.before.kl == pytest.approx(0, abs=1e-6)
        assert row.before.next_same
        clean = model(torch.tensor([model.tokenizer(row.prompt, add_special_tokens=False)["input_ids"]]))[
            0, -1
        ].log_softmax(-1)
        with edit.applied(model):
            assert row.after.nll == pytest.approx(nll(model, row.prompt, row.target, ()), abs=1e-4)
            now = model(torch.tensor([model.tokenizer(row.prompt, add_special_tokens=False)["input_ids"]]))[
                0, -1
            ].log_softmax(-1)
        assert row.after.kl == pytest.approx(float((clean.exp() * (clean - now)).sum()), abs=1e-4)
        assert row.after.top == model.tokenizer.decode([int(now.argmax())])
        assert row.after.next_same == (int(now.argmax()) == int(clean.argmax()))


def test_exact_is_greedy_generation_beginning_with_the_answer(toy):
    facts = load_facts(TOY / "toy_town.json", limit=4)
    requests = requests_of(facts)
    asked = questions(toy, [Case.of(request) for request in (*requests, *map(EditRequest.of_truth, facts))], "auto")
    rewrites = [one for one in asked if one.row.kind == "rewrite"]
    read = Asked.of(toy, rewrites, ORDERS["single"], "auto").read(toy)
    for one, reading in zip(rewrites, read, strict=True):
        prompt, answer = one.pairs[0].prompt, one.pairs[0].answer
        assert (generate(toy, [prompt], len(answer))[0] == list(answer)) == reading.exact
    assert all(reading.exact for reading in read[len(requests) :])  # the toy knows its world


def test_the_table_follows_its_definitions():
    def row(case, kind, before, after, label="", **more):
        read = [Reading(mine, 0.0, False, 1.0, 0.0, other) for mine, other in (before, after)]
        return Row(case, 0, kind, label, "all", "", "t", "o", read[0], replace(read[1], **more))

    near = "neighbourhood"
    rows = [
        row("a", "rewrite", (2.0, 1.0), (1.0, 2.0)),
        row("a", "paraphrase", (2.0, 1.0), (1.0, 2.0)),
        row("a", "paraphrase", (2.0, 1.0), (3.0, 2.0)),
        row("b", "rewrite", (2.0, 1.0), (1.0, 1.0)),  # a tie is no success
        row("b", "paraphrase", (2.0, 1.0), (1.0, 2.0), exact=True),
        row("b", "locality", (1.0, 2.0), (1.0, 1.0), near, same=0.5, kl=0.5, exact=True),
    ]
    scores = {(one.metric, one.when): one for one in table("m", rows, ORDERS["single"])}
    value = {key: one.value for key, one in scores.items()}
    assert (value["ES", "before"], value["ES", "after"], scores["ES", "after"].n) == (0, 0.5, 2)
    assert value["PS", "after"] == pytest.approx((0.5 + 1) / 2)  # within a fact, then over facts
    assert value["EM", "after"] == pytest.approx((math.exp(-1) - math.exp(-2)) / 2)
    assert (value["NS", "before"], value["NS", "after"]) == (1, 0)
    assert (value["locality, unchanged", "after"], value["locality KL", "after"]) == (0.5, 0.5)
    assert (value["reliability", "after"], value["generality", "after"]) == (0, 0.5)
    assert value["locality, right", "after"] == 1
    assert ("unrelated KL", "after") not in value
    assert ("reliability, tokens", "after") not in value  # a share of tokens is no line where likelihoods are compared


def test_the_order_is_a_part_of_the_protocol(tiny):
    model = tiny("llama")
    edits = [moved(model, 0), moved(model, 1, fact=replace(FACT, id="b", subject="Quux", paraphrases=()))]
    for name, alike in (("counterfact", "single"), ("memit", "together"), ("sequential", "sequence")):
        whole = replace(PROTOCOLS[name], scorer="likelihood", words=ORDERS[alike].words)
        one, other = (evaluate(model, edits, protocol=how, shown=False) for how in (whole, alike))
        assert (one.protocol, one.rows) == (whole, other.rows)
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
    same = lambda one, other: one.nll == pytest.approx(other.nll, abs=1e-5)  # noqa: E731
    assert same(first.after, reports["single"].rows[0].after)  # the first edit of a sequence is alone
    assert same(first.final, reports["together"].rows[0].after)  # and at the end all are there
    assert same(last.after, last.final)
    assert not same(first.after, first.final)
    assert reports["single"].rows[0].final is None


def test_unrelated_prompts_are_only_asked_whether_they_changed(tiny):
    model = tiny("gpt2")
    other = replace(FACT, id="other", subject="Ze", foil=None)
    edits = [moved(model, 0), moved(model, 1, fact=replace(FACT, id="b", subject="Quux"))]
    report = evaluate(model, edits, unrelated=[other], protocol="single", shown=False)
    found = [score for score in report.scores if score.metric.startswith("unrelated") and score.when == "after"]
    assert [score.metric for score in found] == ["unrelated, unchanged", "unrelated KL"]
    assert [score.n for score in found] == [1, 1]  # one fact, read under each edit: no two independent facts
    last = evaluate(model, edits, unrelated=[other], protocol="sequence", shown=False)
    assert last.score("unrelated KL", "final").value > 0
    with pytest.raises(KeyError, match="'unrelated KL' was not read 'after'"):
        last.score("unrelated KL")


def test_nothing_to_evaluate_and_edits_in_place_are_refused(tiny):
    model = tiny("llama")
    with pytest.raises(EditError, match="no edit"):
        evaluate(model, [])
    edit = moved(model)
    with applied(model, [edit]), pytest.raises(EditError, match="take the edits"):
        evaluate(model, [edit])


def test_a_request_that_does_not_say_the_old_answer_is_scored_by_its_own(tiny):
    model = tiny("llama")
    edit = replace(moved(model), requests=(EditRequest.of_truth(FACT),))
    report = evaluate(model, [edit], shown=False)
    metrics = {score.metric for score in report.scores}
    assert {"reliability", "generality", "locality, unchanged"} <= metrics
    assert not {"ES", "EM", "PS"} & metrics
    assert "next token" in page_html(scored([edit], report), light=True)


def test_a_report_saves_loads_and_draws(tiny, tmp_path):
    model = tiny("llama")
    edit = moved(model)
    report = evaluate(model, [edit], shown=False)
    again = store.load(store.save(report, tmp_path), type(report))
    assert store.same(report, again)
    html = page_html(scored([edit], again), light=True)
    assert "Oslo town" in html
    assert "NS, neighbourhood success" in html
    assert again.rows[0].after is not None
    written = again.rows[0].after.said
    assert written is not None
    told = any(score.metric == "generation entropy" and score.when == "after" for score in again.scores)
    assert told == (len(written.split()) > 2)  # two words have no n-grams to speak of


def test_a_report_of_schema_2_loads_with_the_numbers_that_it_had(tiny, tmp_path):
    """Its rows held both answers' numbers under one name each; what they did not hold has no line in the table."""
    model = tiny("llama")
    report = evaluate(model, [moved(model)], protocol="together", shown=False)
    store.save(report, tmp_path)
    place = tmp_path / store.JSON
    document = json.loads(place.read_text())
    document["schema"] = 2
    body = document["result"] | {"protocol": "together", "scores": [], "spoken": [["Foo Bar lives in", "x", "y"]]}
    body["rows"] = [row_as_schema_2(row) for row in body["rows"]]
    place.write_text(json.dumps(document | {"result": body}))
    again = store.load(tmp_path, type(report))
    known = {(one.metric, one.when): one.value for one in again.scores}
    assert known == {
        (one.metric, one.when): pytest.approx(one.value)
        for one in report.scores
        if one.metric not in ("locality, unchanged", "generation entropy") and not one.metric.startswith("said")
    }
    assert again.rows[0].after is not None
    assert again.rows[0].after.said == "y"
    assert math.isnan(again.rows[0].after.right)


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
    return replace(config, learning_rate=5e-3) if hasattr(config, "learning_rate") else config


# Two cannot be asked here. UltraEdit standardises over target tokens, and refuses a fact whose target is one token.
# PMET's values begin at layer 1, where none can be found in the toy: MEMIT's descent stays above 4 nats there, too.
# Methods that are trained need more facts than the toy has (tests/editing/trained).
ELSEWHERE = ("ultraedit", "pmet", *(name for name in methods.method_names() if methods.method(name).train))
ALONE = [name for name in methods.method_names() if not methods.method(name).in_context and name not in ELSEWHERE]


@pytest.mark.parametrize("name", ALONE)
def test_every_method_that_changes_weights_flips_most_facts_of_the_toy(toy, name):
    """At layer 0, where the toy keeps its facts: a trace of it says so too."""
    facts = load_facts(TOY / "toy_town.json", limit=4)
    edits = computing.compute_each(
        name,
        toy,
        facts,
        toy_settings(name),
        moments=toy_moments(toy, [0, 1]),
        contexts=("{}", "Today, {}"),
        shown=False,
    )
    report = evaluate(toy, edits, protocol="single", shown=False)
    assert report.score("ES", "before").value == 0
    # Not all four: in so small a world the update also reaches the words beside the subject.
    assert report.score("ES").value >= 0.5
    assert report.score("PS").value > report.score("PS", "before").value


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
    assert report.score("ES").value >= 0.75
    assert report.score("ES").n == 8


def test_chunks_of_values_are_kept_and_taken_up(toy, tmp_path, monkeypatch):
    facts = load_facts(TOY / "toy_town.json", limit=5)
    monkeypatch.setattr(methods, "CHUNK", 2)
    real, calls = methods.find_values, []

    def stopping(model, some, *arguments, **how):
        calls.append(len(some.requests))
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


def test_layers_are_tried_and_the_best_is_the_one_with_the_highest_mark(toy, tmp_path):
    facts = load_facts(TOY / "toy_town.json", limit=3)
    choice = try_layers(toy, facts, [0, 1, 3], moments=text_moments(toy, [0, 1, 3]), shown=False)
    assert [trial.layer for trial in choice.trials] == [0, 1, 3]
    best = next(trial for trial in choice.trials if trial.layer == choice.best)
    assert best.mark == max(trial.mark for trial in choice.trials)
    parts = (best.efficacy, best.paraphrase, best.neighbourhood, best.unchanged)
    assert best.mark == pytest.approx(4 / sum(1 / part for part in parts))
    assert "layer" in page_html(layer_trials.page(choice), light=True)
    assert choice.likely() == ()
    check_result(choice, tmp_path, "LayerChoice")
    assert "fewer than 5 subjects" in layer_trials.words(choice)[0]
    with pytest.raises(EditError, match="no paraphrase or no neighbour"):
        try_layers(toy, [replace(facts[0], neighbours=())], [0])


def test_a_choice_says_how_often_other_facts_would_have_made_it():
    """Two layers that nothing tells apart share the resamples, and one that fails at neighbours is never the best."""
    unmoved = np.linspace(0.1, 0.9, 40)
    trials = []
    for layer, last in ((4, unmoved), (5, unmoved[::-1]), (9, 0 * unmoved)):
        each = tuple((1.0, 1.0, 1.0, share) for share in last.tolist())
        mark = float(harmonic(np.mean(each, 0)[:, None])[0])
        trials.append(LayerTrial(layer, 1.0, 1.0, 1.0, float(last.mean()), 0.0, mark, each))
    facts = tuple(map(str, range(40)))
    choice = LayerChoice("rome", facts, tuple(trials), "identity", facts)
    shares = choice.shares()
    assert shares[9] == 0
    assert sum(shares.values()) == pytest.approx(1)
    assert choice.likely() == (4, 5)
    assert f"in {shares[choice.best]:.0%} of resamples" in layer_trials.words(choice)[0]
    assert "among layers 4, 5 in 95 % of them" in layer_trials.words(choice)[0]
    again = LayerChoice("rome", facts, tuple(trials), "identity", facts[:4] * 10)  # forty facts of four subjects
    assert again.shares() == {}
