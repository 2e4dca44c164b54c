"""Edited and edited back: distances and answers against the weights themselves, and what follows from a fact."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import factscope as fs
from editing.edit import applied
from editing.method import method
from factscope.data.questions.ripples import ECHO, ripples_of
from factscope.data.request import EditRequest
from factscope.errors import UserError
from factscope.model.prompts import make_prompt
from factscope.model.readout import rank
from factscope.model.weights import live_weights
from factscope.plots.figures.intervals import Intervals
from helpers.results import check_result
from studies.edit import MethodRun
from studies.pages.round_trip import page, records, summary, words
from studies.tables.round_trip import (
    MEASURES,
    RoundTrip,
    back,
    check_back,
    contradicting,
    distance,
    divergence,
    round_trip,
)


def request(subject: str, target: str, old: str | None, relation: str, template: str) -> EditRequest:
    return EditRequest(template.replace("{}", subject), subject, target, old, template=template, relation=relation)


def test_what_follows_is_read_from_shipped_facts_backwards_and_one_step_on() -> None:
    capital = request("France", "Berlin", "Paris", "country_capital", "The capital of {} is")
    (reverse,) = ripples_of(capital)
    (question,) = reverse.questions
    assert (question.prompt, question.target, question.other) == ("Berlin is the capital of", "France", "Germany")
    tower = request("The Louvre", "Tokyo", "Paris", "landmark_city", "{} is located in the city of")
    found = {one.label: one.questions[0] for one in ripples_of(tower)}
    assert set(found) == {"composite", ECHO}
    assert (found["composite"].target, found["composite"].other) == ("Japan", "France")
    assert (found[ECHO].target, found[ECHO].prompt) == ("Tokyo", found["composite"].prompt)
    assert ripples_of(replace(tower, target="Nowhere")) == ()  # nothing is known about it
    assert ripples_of(replace(tower, relation="prompt")) == ()


def test_a_third_answer_contradicts_and_the_way_back_swaps_the_answers() -> None:
    one = request("France", "Rome", "Paris", "country_capital", "The capital of {} is")
    other = request("Spain", "Paris", "Madrid", "country_capital", "The capital of {} is")
    third = request("Italy", "Oslo", "Rome", "country_capital", "The capital of {} is")
    found = contradicting((one, other, third))
    assert [str(each) for each in found] == [
        "The capital of France is Oslo",  # Paris is its old answer
        "The capital of Spain is Oslo",
        "The capital of Italy is Paris",
    ]
    assert contradicting((one,), "Paris") == (None,)
    home = back(one)
    assert (home.target, home.old, home.prompt) == ("Paris", "Rome", one.prompt)
    with pytest.raises(UserError, match="nothing to go back to"):
        check_back((replace(one, old=None),))


def test_divergence_on_paper() -> None:
    assert divergence([0.0, 0.0], [0.0, 0.0]) == 0.0
    assert divergence([1.0, 3.0], [2.0, 4.0]) == pytest.approx(0.0, abs=1e-12)  # the same shares
    assert divergence([0.0, 60.0], [60.0, 0.0]) == pytest.approx(math.log(2), abs=1e-9)
    half = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    whole = math.log(1 / 0.75)
    assert divergence([0.0, 0.0], [0.0, 60.0]) == pytest.approx((half + whole) / 2, abs=1e-9)


@pytest.fixture(scope="module")
def trip(toy: Any) -> tuple[RoundTrip, EditRequest, MethodRun]:
    asked = fs.request(toy, fs.prompt(toy, "[Oda Voss] lives in", answer="Brask"), "Vey")
    spec = method("ft_m")
    run = MethodRun(spec, spec.config_for(toy, ["layer=0", "steps=8"]))
    ice = MethodRun(method("ice"), method("ice").config_for(toy, ()))
    made = round_trip(
        toy, [asked], [run, ice], second=contradicting([asked], "Corrin"), others=[("Ostmar",)], shown=False
    )
    return made, asked, run


def test_the_states_are_those_of_the_weights_themselves(
    toy: Any, trip: tuple[RoundTrip, EditRequest, MethodRun]
) -> None:
    made, asked, run = trip
    unedited, edited, again, null, out = (
        made.state("ft_m", one) for one in ("unedited", "edited", "edited back", "null", "taken out")
    )
    read = [name for name in MEASURES if name != "distance"]
    assert {name: out.values[name] for name in read} == {name: unedited.values[name] for name in read}
    assert out.mean("distance") == 0.0
    assert (edited.mean("old preferred"), again.mean("old preferred"), out.mean("KL prompt")) == (0.0, 1.0, 0.0)
    assert null.mean("distance") == pytest.approx(again.mean("distance"), rel=1e-4)
    first = run.compute(toy, [asked], shown=False)
    name = first.deltas[0].weight
    before = live_weights(toy)[name].detach().clone().double()
    with applied(toy, [first]):
        second = run.compute(toy, [back(asked)], shown=False)
    with applied(toy, [first, second]):
        now = live_weights(toy)[name].detach().double()
        assert distance(toy, [first, second]) == pytest.approx(float((now - before).norm() / before.norm()), rel=1e-4)
        prompt = make_prompt(toy, "[Oda Voss] lives in", answer="Brask")
        logits = toy(prompt.tensor(next(toy.parameters()).device))[0, -1]
        assert (rank(logits, prompt.answer_ids[0]) == 1) == (again.mean("old preferred") == 1.0)
        p = float(logits.softmax(-1)[prompt.answer_ids[0]])
        assert again.mean("P(old)") == pytest.approx(p, abs=1e-4)
    assert distance(toy, [first, second]) == pytest.approx(again.mean("distance"), rel=1e-6)
    against = made.state("ft_m", "contradicted")
    assert (against.mean("P(third)") or 0) > (edited.mean("P(third)") or 1)
    assert 0 < (again.mean("distortion") or 0) < math.log(2)


def test_the_call_of_the_face_is_the_recipe(toy: Any, trip: tuple[RoundTrip, EditRequest, MethodRun]) -> None:
    """Without what was asked of the recipe beside; and what it refuses, it refuses before any work."""
    made, asked, _ = trip
    found = fs.edit_back(toy, asked, ["ft_m"], settings={"ft_m": {"layer": 0, "steps": 8}})
    for state in ("edited", "edited back", "null", "taken out"):
        for name in ("P(old)", "P(new)", "distance"):
            assert found.state("ft_m", state).mean(name) == made.state("ft_m", state).mean(name)
    with pytest.raises(fs.UserError, match="does not say its old answer"):
        fs.edit_back(toy, fs.EditRequest("Oda Voss lives in", "Oda Voss", "Vey"))
    with pytest.raises(fs.UserError, match="no method to edit by"):
        fs.edit_back(toy, asked, [])


def test_a_method_beside_the_weights_has_no_distance(trip: tuple[RoundTrip, EditRequest, MethodRun]) -> None:
    made, *_ = trip
    assert made.state("ice", "edited back").mean("distance") is None
    with pytest.raises(KeyError):
        made.state("ice", "null")
    said = words(made)
    assert "edited back, 1 of these answer the old again" in said[0]
    assert "of their norm" in said[0]
    assert not any("of their norm" in line for line in said if line.startswith("ice"))
    assert len(records(made)) == len(made.read)
    assert set(summary(made)["methods"]) == {"ft_m", "ice"}


def test_it_is_saved_and_drawn_again(trip: tuple[RoundTrip, EditRequest, MethodRun], tmp_path: Any) -> None:
    made, *_ = trip
    check_result(made, tmp_path, "RoundTrip")
    again = fs.load(tmp_path / "saved")
    assert (again.read, again.second) == (made.read, made.second)
    shown = page(again)
    head, answers, *_ = shown.sections[0].specs
    assert "by ft_m 1 of 1" in str(head)
    assert isinstance(answers, Intervals)
    place = answers.rows.index("edited back")
    assert [group.name for group in answers.groups] == ["ft_m", "ice"]
    assert answers.groups[0].values[place] == made.state("ft_m", "edited back").mean("P(old)")
    assert math.isnan(answers.groups[1].values[answers.rows.index("null")])  # a text has no weights to scramble


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--target", "Vey", "--then", "x [y] z"], "--then and --then-target are one edit"),
        (["--target", "Vey", "--third", "Vey"], "--third Vey is the old answer or the target already"),
        ([], "--target is missing"),
    ],
)
def test_bad_input_is_one_sentence(run_command: Callable[..., Any], given: list[str], said: str) -> None:
    from helpers.models import TOY

    found = run_command("edit", "back", "[Oda Voss] lives in", "--answer", "Brask", "--model", str(TOY), *given)
    assert found.exit_code == 2
    assert said in found.stderr
    assert found.stderr.count("\n") == 1
