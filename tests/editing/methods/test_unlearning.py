"""Unlearning: the old answer costs more, by ascent without end and by one that fades; what counts as forgotten."""

import math
from typing import Any

import pytest
import torch

import factscope as fs
from editing import compute as computing
from editing.evaluation.metrics import METRICS, Record
from editing.evaluation.read import Reading, Row
from editing.methods.fine_tuning.npo import preference
from factscope.data.case import REFUSAL, Case, refusing
from factscope.data.fact import Fact
from factscope.data.load import load_cases
from factscope.data.request import EditRequest
from factscope.errors import EditError, SettingError
from factscope.model.forward.scoring import Pair, score
from factscope.model.prompts import make_prompt
from helpers.models import TOY

HOW = {"layer": 0, "steps": 12, "learning_rate": 3e-3}


def nats(model: Any) -> float:
    """Of the toy's own answer, by scoring."""
    prompt = make_prompt(model, "[Oda Voss] lives in", answer="Brask")
    return score(model, [Pair(tuple(prompt.tokens), tuple(prompt.answer_ids))])[0].nll


@pytest.fixture(scope="module")
def asked(toy: Any) -> EditRequest:
    return fs.request(toy, fs.prompt(toy, "[Oda Voss] lives in", answer="Brask"), "Vey")


def test_ascent_ends_where_the_old_answer_costs_what_was_asked(toy: Any, asked: EditRequest) -> None:
    edit = fs.edit(toy, asked, "ga", settings=HOW | {"forget": 4.0})
    assert edit.curve is not None
    assert float(edit.curve[0, 0]) == 0
    before = nats(toy)
    with edit.applied(toy):
        rise = nats(toy) - before
        assert rise == pytest.approx(-float(edit.curve[-1, 0]), abs=1e-3)  # the step that ended took no more
        assert rise >= 4.0 > -float(edit.curve[-2, 0])
    assert edit.requests[0].target == "Vey"  # what was asked, though ascent does not use it


def test_npo_begins_at_its_own_size_and_goes_the_same_way(toy: Any, asked: EditRequest) -> None:
    edit = fs.edit(toy, asked, "npo", settings=HOW)
    assert edit.curve is not None
    assert float(edit.curve[0, 0]) == pytest.approx(2 / 0.1 * math.log(2), rel=1e-5)  # before any step
    before = nats(toy)
    with edit.applied(toy):
        assert nats(toy) > before + 1
    with pytest.raises((SettingError, EditError), match="beta must be above 0"):
        fs.edit(toy, asked, "npo", settings=HOW | {"beta": 0.0})


def test_the_slope_of_npo_is_that_of_ascent_at_first_and_fades() -> None:
    """On paper: d loss / d nats = -2 T sigmoid(beta T (n0 - n)), so -T at first and 0 at last."""
    loss, tokens, facts = preference(0.1), torch.tensor([3.0]), torch.tensor([0])

    def slope(at: float) -> float:
        given = torch.tensor([at], requires_grad=True)
        loss(given, tokens, facts).sum().backward()
        assert given.grad is not None
        return float(given.grad)

    assert slope(0.5) == pytest.approx(-3.0)  # n0 is what was given first
    assert slope(1.5) == pytest.approx(-2 * 3 / (1 + math.exp(0.1 * 3 * 1.0)), rel=1e-5)
    assert abs(slope(200.0)) < 1e-6
    other = preference(1e-6)
    given = torch.tensor([0.5], requires_grad=True)
    other(given, tokens, facts).sum().backward()
    further = torch.tensor([5.0], requires_grad=True)
    other(further, tokens, facts).sum().backward()
    assert given.grad is not None
    assert further.grad is not None
    assert float(further.grad) == pytest.approx(float(given.grad), rel=1e-4)  # beta -> 0 is ascent


def test_what_is_not_known_cannot_be_forgotten(tiny: Any) -> None:
    request = EditRequest("Foo Bar lives in", "Foo Bar", "Oslo")
    for name in ("ga", "npo"):
        with pytest.raises(EditError, match="does not say its old answer, so there is nothing to forget"):
            computing.compute(name, tiny("gpt2"), [request], shown=False)


def test_any_facts_become_an_erasure_suite() -> None:
    fact = Fact("a", "town", "Oda Voss", "{} lives in", "Brask", "Vey", paraphrases=("The home of Oda Voss is",))
    case = refusing(Case("a", "ours", (EditRequest.of(fact),)))
    assert (case.requests[0].target, case.requests[0].old) == (REFUSAL, "Brask")
    gone = [(one.label, one.questions[0].prompt, one.questions[0].target) for one in case.more if one.kind == "erasure"]
    assert gone == [("", "Oda Voss lives in", "Brask"), ("paraphrase", "The home of Oda Voss is", "Brask")]
    assert refusing(case) is case  # one that asks for it already stays
    assert {one.requests[0].target for one in load_cases(TOY / "toy_town.json", limit=2, target="refuse")} == {REFUSAL}


def test_forgotten_is_not_refused_and_refused_is_not_forgotten() -> None:
    def reading(exact: bool) -> Reading:
        return Reading(1.0, float(exact), exact, 1.0, 0.0)

    def got(refuses: bool, old: bool, elsewhere: bool) -> list[float | None]:
        rows = [("rewrite", "", refuses), ("erasure", "", old), ("erasure", "paraphrase", elsewhere)]
        made = tuple(
            Row("a", n, kind, label, "all", "P", "T", None, reading(False), reading(exact))
            for n, (kind, label, exact) in enumerate(rows)
        )
        record = Record(made, "after", "strict")
        names = ("reliability", "forgotten", "forgotten, paraphrases", "erasure")
        return [METRICS[name].measure(record) for name in names]

    assert got(True, False, True) == [1.0, 1.0, 0.0, 1.0]  # hidden behind one prompt
    assert got(False, False, False) == [0.0, 1.0, 1.0, 0.0]  # nonsense
    assert got(True, True, True) == [1.0, 0.0, 0.0, 0.0]
