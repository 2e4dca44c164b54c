"""SERAC's gate: what it is on paper, that it learns, and that a closed question is the model's own."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from editing.compute import compute
from editing.edit import Edit, applied
from editing.methods.trained import serac
from editing.methods.trained.serac import Gate, best_floor
from editing.requests import target_prompts
from editing.scope import Scope, names, pooled
from editing.trained.editor import Trained
from editing.trained.examples import TrainingInputs
from editing.trained.facts import Example, split, training_facts
from editing.trained.train import train_editor
from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.data.request import EditRequest
from factscope.model.forward.batched import logits_at
from helpers.editors import config_of
from helpers.models import TOY

ASKED = EditRequest("Nora Fell lives in", "Nora Fell", "Vey")


def known() -> list[Fact]:
    """What the toy was taught."""
    return [one for name in ("town", "trade", "tongue") for one in load_facts(TOY / f"toy_{name}.json")]


@pytest.fixture(scope="module")
def editor(toy: Any) -> Trained:
    """A gate that learnt the toy's town, trades and tongues."""
    config = replace(config_of(toy, "serac", 60), width=16, batch=16, every=20, learning_rate=2e-2)
    return train_editor(toy, "serac", known(), config, shown=False)


@pytest.fixture(scope="module")
def edit(toy: Any, editor: Trained) -> Edit:
    """A memory of one fact."""
    return compute("serac", toy, [ASKED], editor=editor, shown=False)


def prompt(model: Any, request: EditRequest) -> tuple[int, ...]:
    """Its tokens."""
    return tuple(target_prompts(model, request, ("{}",), "auto")[0].tokens)


def test_the_gate_learns_which_question_is_about_which_fact(editor):
    losses = [one.value for one in editor.scores if (one.facts, one.metric) == ("validation", "loss")]
    assert min(losses[1:4]) < 0.8 * losses[0]
    found = {one.metric: one.value for one in editor.scores if one.facts == "trained"}
    assert found["open for another wording"] > 0.5
    assert found["closed for other facts"] > 0.5


def test_its_loss_is_the_cross_entropy_of_s_by_hand(toy):
    gate = Gate(TrainingInputs(toy, split(training_facts(known()), 0), 0, "auto"), config_of(toy, "serac"))
    texts = list(gate.seen)[:5]
    batch = [Example(texts[0], "x", texts[1], tuple(texts[2:5]))]
    phi = {text: gate.seen[text].double() @ gate.parts["W"].double() for text in texts}
    s = [torch.exp(-(phi[text] - phi[texts[0]]).square().sum()) for text in texts[1:]]
    wanted = -torch.log(s[0]) - torch.stack([torch.log(1 - one) for one in s[1:]]).mean()
    torch.testing.assert_close(gate.losses(gate.parts, batch)["loss"].double(), wanted, atol=1e-4, rtol=1e-3)


def test_the_floor_parts_right_from_wrong_best_and_of_equals_is_the_highest():
    right, wrong = torch.tensor([0.9, 0.8, 0.35, 0.3]), torch.tensor([0.5, 0.1, 0.2, 0.15])
    floor, trade = best_floor(right, wrong)
    assert floor == pytest.approx(0.25)  # all of the right above it and a quarter of the wrong: 0.75; above 0.5: 0.5
    for at, opened, leaked in trade.tolist():
        assert opened == pytest.approx(float((right > at).float().mean()))
        assert leaked == pytest.approx(float((wrong > at).float().mean()))
    apart, _ = best_floor(torch.tensor([0.6, 0.8]), torch.tensor([0.1, 0.4]))
    assert apart == pytest.approx(0.5)
    alone, _ = best_floor(right, torch.zeros(0))
    assert 0 < alone < 0.3


def test_a_subject_gate_is_shut_before_questions_that_do_not_name_the_subject(toy, editor, edit):
    assert edit.scope is not None
    assert edit.scope.subjects == ("Nora Fell",)
    assert edit.scope.floor == float(editor.tensors["floor"])
    assert [names(text, "Nora Fell") for text in ("Is NORA FELL in?", "Nora Fellow is", "Nora lives in")] == [
        True, False, False,
    ]  # fmt: skip
    own = torch.zeros(2, 3)
    always = Scope(0, torch.zeros(3), own, ("a", "b"), -1.0, 2, torch.eye(3), ("Nora Fell", "Tam Orr"))
    asked = ["Nora Fell lives in", "Where is Tam Orr?", "Tam Orr and Nora Fell", "Who?"]
    assert [sorted(some) for some in always.chosen(torch.zeros(4, 3), asked)] == [[0], [1], [0, 1], []]
    assert not always.one_with(replace(always, subjects=()))
    (both,) = pooled([always, replace(always, texts=("c", "d"), subjects=("Ada", "Bo"))])
    assert both.subjects == ("Nora Fell", "Tam Orr", "Ada", "Bo")
    wide = replace(edit, scope=replace(edit.scope, floor=0.0), digest="")  # the states would open for anything
    other = prompt(toy, EditRequest("Tam Orr lives in", "Tam Orr", "Vey"))
    (plain,) = logits_at(toy, [other], [[len(other) - 1]])
    with applied(toy, [wide]):
        assert torch.equal(logits_at(toy, [other], [[len(other) - 1]])[0], plain)
    assert replace(edit, scope=replace(edit.scope, subjects=()), digest="").digest != edit.digest


def test_the_floor_is_chosen_by_relations_that_a_gate_did_not_train_on(toy, monkeypatch):
    config = config_of(toy, "serac", 2)
    facts = split(training_facts(known()), 0)
    gate, met = Gate(TrainingInputs(toy, facts, 0, "auto"), config), []
    real = serac.learn

    def seen(learner: Any, some: Any, *how: Any, **more: Any) -> Any:
        met.append({fact.relation for fact in (*some.trained, *some.asked["validation"])})
        return real(learner, some, *how, **more)

    monkeypatch.setattr(serac, "learn", seen)
    right, wrong = serac.left_out(gate, facts, config, 0)
    every = {fact.relation for fact in facts.trained}
    assert len(right) == len(facts.trained)
    assert len(wrong) <= 3 * len(right)
    assert set.union(*(every - some for some in met)) == every  # each is left out
    assert sum(len(every - some) for some in met) == len(every)  # once


def test_a_trained_metric_measures_distances_and_ties_go_to_the_later_entry():
    draw = torch.Generator().manual_seed(0)
    metric, mean, own = (torch.randn(*shape, generator=draw) for shape in ((4, 3), (4,), (2, 4)))
    keys = (own - mean) @ metric
    scope = Scope(0, mean, torch.cat([keys, keys[:1]]), ("a", "b", "a again"), 0.5, 1, metric)
    asked = torch.randn(5, 4, generator=draw)
    wanted = torch.exp(-torch.cdist((asked - mean).double() @ metric.double(), scope.keys.double()).square())
    torch.testing.assert_close(scope.nearness(asked).double(), wanted, atol=1e-5, rtol=1e-4)
    assert scope.chosen(own) == [[2], [1]]
    assert replace(scope, floor=1.0).chosen(own) == [[], []]  # nothing is nearer than the entry itself
    assert replace(scope, floor=-1.0).chosen(own - 100) == [[2], [2]]
    assert not scope.one_with(replace(scope, metric=metric + 1))
    assert not scope.one_with(replace(scope, metric=None))


def test_an_open_question_is_answered_as_in_context_and_a_closed_one_by_the_model_itself(toy, edit):
    (other, own) = prompt(toy, EditRequest("The weather was good and Tam is", "Tam", "Vey")), prompt(toy, ASKED)
    shut = replace(edit, scope=replace(edit.scope, floor=1.0), digest="")
    at = [[len(own) - 1], [len(other) - 1]]
    plain = logits_at(toy, [own, other], at)
    told = compute("ice", toy, [ASKED], shown=False)
    with applied(toy, [shut]):
        closed = logits_at(toy, [own, other], at)
    assert all(torch.equal(a, b) for a, b in zip(plain, closed, strict=True))
    with applied(toy, [told]):
        (wanted,) = logits_at(toy, [own], at[:1])
    with applied(toy, [edit]):
        (found,) = logits_at(toy, [own], at[:1])
    assert torch.equal(found, wanted)
    assert edit.scope is not None
    assert edit.scope.texts == ("Imagine that Nora Fell lives in Vey.\n",)
