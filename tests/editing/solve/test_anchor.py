"""The norm anchor: lengths, directions, and that a sequence's values do not grow."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from editing import compute as computing
from editing import method as methods
from editing.edit import in_place
from editing.requests import RequestPrompts
from editing.solve import anchor
from editing.solve.anchor import Anchoring, anchored
from editing.solve.values import Descent, Values, find_values
from factscope.data.fact import Fact
from factscope.data.request import requests_of
from factscope.errors import EditError
from factscope.model.weights import fingerprint
from helpers.moments import text_moments

FACTS = requests_of(
    (
        Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),
        Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris town"),
    )
)
SHORT = Descent(steps=3, learning_rate=0.1, clamp=50.0, weight_decay=0.0)


def found(*deltas):
    delta = torch.tensor(deltas)
    return Values(delta, torch.zeros_like(delta), torch.zeros(1, len(delta)), torch.ones(len(delta)), (1,) * len(delta))


def test_what_is_written_keeps_its_direction_and_gets_the_length():
    before = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    values = anchored(found([2.0, 4.0], [1.0, -1.0]), before, 3.0)
    whole = before + values.delta
    torch.testing.assert_close(whole.norm(dim=1), torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(whole[0] / 3, torch.tensor([0.6, 0.8]))  # of (3, 4)
    assert values.said(FACTS) == ()


def test_scaling_first_changes_nothing_and_the_own_length_is_no_change():
    before, values = torch.tensor([[1.0, 2.0]]), found([2.0, 2.0])
    scaled = found((1.3 * torch.tensor([3.0, 4.0]) - before[0]).tolist())
    torch.testing.assert_close(anchored(scaled, before, 4.0).delta, anchored(values, before, 4.0).delta)
    torch.testing.assert_close(anchored(values, before, 5.0).delta, values.delta)


def test_a_value_beyond_twice_the_length_is_not_written_and_a_person_is_told():
    values = anchored(found([9.0, 0.0], [2.0, 0.0]), torch.zeros(2, 2), 3.0)
    assert not values.delta[0].any()
    torch.testing.assert_close(values.delta[1], torch.tensor([3.0, 0.0]))
    assert values.said(FACTS) == ("a: a value 3.0 times as long as usual: nothing was written for it",)
    assert values.of(0).said(FACTS[:1]) == values.said(FACTS)
    assert values.of(1).said(FACTS[1:]) == ()


def test_no_length_and_no_direction_are_refused():
    for values, length in ((found([0.0, 0.0]), 3.0), (found([1.0, 0.0]), 0.0)):
        with pytest.raises(EditError, match="no direction to be anchored by"):
            anchored(values, torch.zeros(1, 2), length)


@pytest.fixture
def shipped(tiny, tmp_path, monkeypatch):
    """The tiny llama, two facts of our own in the place of the shipped ones, and an empty cache."""
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path))
    facts = [Fact(c, "home", c * 3, "{} lives in", "Rome", "Oslo") for c in "uvw"]
    monkeypatch.setattr(anchor, "load_facts", lambda: facts)
    return tiny("llama"), facts


@pytest.mark.parametrize(("method", "place"), [("rome", "mlp"), ("memit", "hidden")])
def test_values_of_edits_have_the_usual_length_of_the_unedited_model(shipped, method, place):
    """Also of a later edit of a sequence, whose own values have grown or shrunk."""
    model, facts = shipped
    prompts, descent, base = RequestPrompts(requests_of(facts)), replace(SHORT, anchors=3), fingerprint(model)
    found = find_values(model, prompts, 1, SHORT, place=place)
    lengths = (anchor.written(model, prompts, 1, place) + found.delta).norm(dim=1)
    assert Anchoring(1, place, descent, "auto").length(model, base) == pytest.approx(float(lengths.mean()), rel=1e-4)
    config: Any = methods.method(method).config_for(model, {"layer" if method == "rome" else "layers": "1"})
    config = replace(config, descent=descent)
    how = {"moments": text_moments(model, [1]), "contexts": ("{}",), "shown": False}
    first = computing.compute(method, model, FACTS[:1], config, **how)
    shorter = Anchoring(1, place, replace(descent, steps=2), "auto")
    with first.applied(model):
        again = shorter.length(model, base)
        assert in_place(model) == (first,)
        second = computing.compute(method, model, FACTS[1:], config, **how)
        before = anchor.written(model, RequestPrompts(FACTS[1:]), 1, place)
    assert float(shorter._lengths(model).mean()) == pytest.approx(again, rel=1e-4)
    whole = before + second.deltas[0].right
    assert float(whole.norm()) == pytest.approx(float(lengths.mean()), rel=1e-3)
    assert second.notes == ()
