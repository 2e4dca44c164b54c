"""Values and second moments run in as many parts as find room; their numbers do not depend on it."""

from typing import Any

import pytest
import torch

from editing.compute import compute
from editing.requests import RequestPrompts
from editing.solve import corpus, moments, training, values
from editing.solve.sums import Sums
from factscope.data.load import load_facts
from factscope.data.request import requests_of
from factscope.errors import EditError, ModelError
from factscope.model.bridge import without_gradients
from factscope.model.forward import at_once
from factscope.runs.counting import counted
from helpers.models import TOY

DESCENT = values.Descent(steps=3, stop=0.0)


def prompts() -> RequestPrompts:
    """Of some facts, in two contexts."""
    facts = [fact for fact in load_facts(str(TOY / "toy_town.json")) if fact.foil][:6]
    return RequestPrompts(requests_of(facts), ("{}", "It is so. {}"), "auto")


@pytest.mark.parametrize("place", ["mlp", "hidden", "parts"])
def test_values_in_little_memory_are_the_same_and_hold_less(
    toy: Any, monkeypatch: pytest.MonkeyPatch, place: values.Place
) -> None:
    found, held, asked = [], [], list[tuple[int, int, int]]()
    own = at_once.fitting

    def fitting(model: Any, most: int, each: int, what: str) -> int:
        asked.append((most, each, own(model, most, each, what)))
        return asked[-1][2]

    monkeypatch.setattr(at_once, "fitting", fitting)
    with without_gradients(toy):
        values.find_values(toy, prompts(), 1, DESCENT, place=place)
        each = max(one for _, one, _ in asked)
        for rows in (1000, 2):
            asked.clear()
            monkeypatch.setattr(at_once, "free", lambda _, rows=rows: rows * 1.01 * each / at_once.SHARE)
            with counted() as count:
                found.append(values.find_values(toy, prompts(), 1, DESCENT, place=place))
            held.append(count.bytes_most)
            assert all(fit == min(most, int(rows * 1.01 * each / one)) for most, one, fit in asked)
            assert rows == 2 or count.bytes_most <= sum(most * one for most, one, _ in asked)
        torch.testing.assert_close(found[1].delta, found[0].delta, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found[1].losses, found[0].losses, rtol=1e-4, atol=1e-4)
        assert held[1] < held[0]
        monkeypatch.setattr(at_once, "free", lambda _: 1.0)
        with pytest.raises(ModelError, match=r"the gradients of a prompt of .* tokens need .* use --dtype bfloat16"):
            values.find_values(toy, prompts(), 1, DESCENT, place=place)


@pytest.mark.parametrize("name", ["ft-m", "lora"])
def test_a_training_holds_no_more_than_is_foreseen_and_too_little_memory_is_told(
    toy: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    requests, foreseen, held = prompts().requests, list[int](), list[int]()
    own, step = at_once.fitting, training._Run._step

    def fitting(model: Any, most: int, each: int, *told: Any) -> int:
        foreseen.append(each)
        return own(model, most, each, *told)

    def counting(self: Any, *which: Any) -> Any:
        with counted() as count:
            done = step(self, *which)
        held.append(count.bytes_most)
        return done

    with monkeypatch.context() as spied:
        spied.setattr(training, "fitting", fitting)
        spied.setattr(at_once, "fitting", fitting)
        spied.setattr(training._Run, "_step", counting)
        compute(name, toy, requests, start="auto")
    assert 0 < max(held) <= sum(foreseen)
    monkeypatch.setattr(at_once, "free", lambda _: 0.7 * foreseen[1] / at_once.SHARE)
    with pytest.raises(ModelError, match=r"the gradients of 6 texts of 5 tokens need .* --limit 4 would do"):
        compute(name, toy, requests, start="auto")


def test_keys_of_text_are_the_same_in_little_memory(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[1 + (7 * row + place) % 50 for place in range(10)] for row in range(12)]
    whole = moments.keys_of_text(toy, [0, 1], rows)
    monkeypatch.setattr(at_once, "free", lambda _: 5.5 * at_once.bytes_of(toy, 1, 10, 0, 0) / at_once.SHARE)
    parted = moments.keys_of_text(toy, [0, 1], rows)
    for layer in (0, 1):
        torch.testing.assert_close(parted[layer], whole[layer], rtol=1e-5, atol=1e-6)


def test_sums_hold_no_more_than_is_foreseen_and_too_little_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    width = 1200
    keys = torch.randn(3 * width, width)
    with counted() as count:
        sums = Sums.of({"0": width}, corpus.NOTHING)
        for begin in range(0, len(keys), 600):
            sums.add("0", keys[begin : begin + 600], len(keys))
            sums.state["tokens"] += 600
        sums.estimated("0", len(keys), None)
    assert count.bytes_most <= (moments.SUMMED + moments.MADE) * width * width
    monkeypatch.setattr(moments, "free", lambda _: 1.1 * (moments.SUMMED + moments.MADE) * width * width)
    moments._check_room(1, width)
    with pytest.raises(EditError, match=r"second moments of 9 layers .* with edit moments --layer"):
        moments._check_room(9, width)
    with pytest.raises(EditError, match=r"second moments of 1 layer with keys of 2400 .* with --moments identity"):
        moments._check_room(1, 2400)
