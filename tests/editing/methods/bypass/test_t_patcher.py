"""T-Patcher: a neuron for each mistake, at 1 where it is needed, and the penalties by hand."""

from math import exp
from typing import Any

import pytest
import torch

import factscope as fs
from editing.bypass import Bypass, functions, join
from editing.compute import compute
from editing.edit import Edit, applied
from editing.method import method
from editing.methods.bypass import t_patcher
from editing.requests import request, target_prompts
from factscope.errors import EditError
from factscope.model.forward.ends import ending
from factscope.model.hooks import record
from factscope.model.sites import Site

FACTS = (("[Oda Voss] lives in", "Vey"), ("[Mira Drey] speaks", "Norrish"))


def made(model: Any, some: Any, **settings: Any) -> Edit:
    return compute(
        "t_patcher", model, some, method("t_patcher").config_for(model, {"apiece": 1} | settings), shown=False
    )


def asked(model: Any) -> list[Any]:
    return [request(model, text, target) for text, target in FACTS]


def test_a_neuron_begins_at_one_where_the_mistake_is_and_writes_nothing(toy: Any) -> None:
    (one, _) = asked(toy)
    edit = made(toy, [one], steps=1)
    (part,) = edit.bypasses
    (prompt,) = target_prompts(toy, one, ("{}",), "auto")
    count = len(prompt.answer_ids)
    assert 1 <= len(part.words) <= count
    ids = torch.tensor([[*prompt.tokens, *prompt.answer_ids[:-1]]])
    site = Site("mlp_read", part.layer)
    with record(toy, [site]) as seen:
        before = toy(ids)
    inputs = seen[site][0, -count:] @ part.tensors["keys"].T
    assert float(inputs[0, 0]) == pytest.approx(1.0, abs=1e-5)
    assert not part.tensors["values"].any()
    with edit.applied(toy):
        assert torch.equal(toy(ids), before)
    torch.testing.assert_close(edit.memory["mistakes"][0], seen[site][0, -count], atol=1e-5, rtol=1e-5)


def test_what_is_said_already_gets_no_neuron_and_the_edit_says_so(toy: Any) -> None:
    (one, two) = asked(toy)
    with made(toy, [one]).applied(toy):
        again = made(toy, [request(toy, "[Oda Voss] lives in", "Vey", answer="Brask"), two])
    assert again.notes[0] == "the model says 'Vey' already"
    assert set(again.bypasses[0].words) == {"Norrish"}


def neurons(*rows: tuple[tuple[float, float], float, tuple[float, float]]) -> Bypass:
    """Of (key, bias, value)."""
    keys, bias, values = (torch.tensor(column) for column in zip(*rows, strict=True))
    return Bypass("neurons", 0, {"keys": keys, "bias": bias, "values": values}, {}, ("a",) * len(rows))


def test_neurons_add_what_they_fire_in_any_order_and_leave_silent_positions_alone(toy: Any) -> None:
    one, two = neurons(((1.0, 0.0), -1.0, (1.0, 2.0))), neurons(((0.0, 1.0), 0.0, (10.0, 0.0)))
    x, y = torch.tensor([[[3.0, -1.0], [0.5, -2.0], [2.0, 4.0]]]), torch.zeros(1, 3, 2)
    for parts in ([one, two], [two, one]):
        (_, read), (_, write) = functions(join(parts), toy)
        with ending(torch.tensor([2])):
            read(x)
            out = write(y)
            assert out is not None
            assert out[0].tolist() == [[2, 4], [0, 0], [41, 2]]
            read(x[:, 1:2])
            assert write(y[:, 1:2]) is None


def test_penalties_of_one_state_on_paper() -> None:
    """One neuron, one state: exp(k m + b + 3) + exp(k m - k q + 3) times the memory's weight, and exp(-(k q + b))."""
    config = t_patcher.Config(act=2.0, memory=0.5, worst=5)
    query, state, yes = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -1.0]]), torch.tensor([[True]])
    parts = {"keys": torch.tensor([[0.2, 0.3]]), "bias": torch.tensor([-0.1])}
    inner, here = 0.5 * 0.2 - 0.3, 0.2 + 0.6
    silent = 2.0 * exp(-(here - 0.1))
    wanted = 0.5 * (exp(inner - 0.1 + 3) + exp(inner - here + 3)) + silent
    assert float(t_patcher.penalties(config, parts, query, state, yes)) == pytest.approx(wanted, rel=1e-5)
    assert float(t_patcher.penalties(config, parts, query, state, ~yes)) == pytest.approx(silent, rel=1e-5)
    twice = t_patcher.penalties(config, parts, query, torch.cat([state, state]), torch.cat([yes, ~yes]))
    assert float(twice) == pytest.approx((wanted - silent) / 2 + silent, rel=1e-5)  # the mean over what is kept


def test_facts_of_one_edit_are_learned_together_and_a_rate_of_zero_is_refused(toy: Any) -> None:
    edit = made(toy, asked(toy))
    with applied(toy, [edit]):
        for (text, target), one in zip(FACTS, edit.requests, strict=True):
            answer = fs.prompt(toy, text, answer=target).answer_ids[0]
            (prompt,) = target_prompts(toy, one, ("{}",), "auto")
            assert int(toy(prompt.tensor())[0, -1].argmax()) == answer
    with pytest.raises(EditError, match="learning_rate is 0, and must be above 0"):
        made(toy, asked(toy), learning_rate=0.0)
