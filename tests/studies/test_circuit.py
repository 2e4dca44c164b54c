"""For which facts a circuit is found when one sentence is given: the toy's relation stands for a shipped one."""

from dataclasses import replace
from typing import Any

import pytest

import factscope as fs
from circuits.task import alike
from factscope.data.fact import Relation
from factscope.data.records import shipped_relation
from factscope.errors import UserError
from factscope.model.known import Known
from helpers.models import TOY
from studies.by_role import by_role_prompt
from studies.circuit_inputs import DEFAULT, FACTS, TaskOptions, about_facts, about_prompt
from studies.other_subjects import other_subjects

TEXT = "Oda Voss lives in"
ANY = TaskOptions(known=Known.top(10**6))


@pytest.fixture
def town(monkeypatch: pytest.MonkeyPatch) -> Relation:
    relation = shipped_relation((TOY / "toy_town.json").read_text(), "toy_town")
    monkeypatch.setattr("factscope.data.shipped._shipped", lambda: {relation.name: relation})
    return relation


def test_a_fact_brings_its_relation(toy: Any, town: Relation) -> None:
    """Examples are others that align and have many answers; the mean is over other subjects; the rest is held out."""
    work = about_prompt(toy, TEXT)
    own, *others = work.task.prompts
    assert own.text == TEXT
    assert len(work.task.prompts) == FACTS
    assert alike(own, work.task.prompts) == work.task.prompts
    assert len({prompt.answer_ids[0] for prompt in work.task.prompts}) >= min(FACTS, len(town.answers)) - 1
    assert work.task.ablation == "mean"
    assert own not in work.task.reference
    assert not set(work.held_out) & set(work.task.prompts)
    assert work.held_out
    assert others[0].subject in " ".join(work.notes)
    assert all(str(prompt.answer).strip() == _answer(town, prompt.subject) for prompt in (*others, *work.held_out))


@pytest.mark.usefixtures("town")
def test_what_optimal_constants_are_learned_on_is_not_held_out(toy: Any) -> None:
    """For a scorer's relation, for ACDC's one prompt, for a file of facts, and by token role."""
    own = TaskOptions(ablation="optimal")
    found = [about_prompt(toy, TEXT, options=own), about_prompt(toy, TEXT, method=fs.ACDC(), options=own)]
    found.append(about_facts(toy, str(TOY / "toy_town.json"), options=own))
    pairs = [(work.task.reference, work.held_out) for work in found]
    roles = by_role_prompt(toy, TEXT, options=own)
    for reference, held_out in [*pairs, (roles.lengths.reference, roles.held_out)]:
        assert len(reference) >= 3
        assert held_out
        assert not {prompt.tokens for prompt in reference} & {prompt.tokens for prompt in held_out}


@pytest.mark.usefixtures("town")
def test_a_search_and_a_named_subject_stand_alone(toy: Any) -> None:
    """ACDC is as it was: the prompt, cut to zero; and one swapped subject, here a longer one, is the counterfactual."""
    alone = about_prompt(toy, TEXT, method=fs.ACDC())
    assert (len(alone.task.prompts), alone.task.ablation) == (1, "zero")
    longer = "Oda Drey Voss"
    swapped = about_prompt(toy, TEXT, swap=longer, options=replace(ANY, ablation="counterfactual"))
    assert [other.subject for other in swapped.task.corrupt] == [longer]
    assert len(swapped.task.corrupt[0].tokens) > len(swapped.task.prompts[0].tokens)


@pytest.mark.usefixtures("town")
def test_one_recipe_for_the_call_and_the_command(toy: Any) -> None:
    called = fs.find_circuit(toy, TEXT)  # without a warning: what was chosen is in the notes
    work = about_prompt(toy, TEXT)
    assert work.notes
    assert called.notes[: len(work.notes)] == work.notes
    study = fs.find_circuit(toy, work)
    assert (called.mask == study.mask).all()
    assert called.task == study.task == work.task
    assert called.method == DEFAULT.name
    assert called.faithfulness >= 0.6 or "no circuit of up to" in " ".join(called.notes)


def test_others_of_a_kind_are_found_for_an_own_sentence(toy: Any, town: Relation) -> None:
    """Subjects of a shipped relation in another wording; answers, read backwards; those named; or none."""
    prompt = fs.prompt(toy, "[Oda Voss] works as a")
    found = other_subjects(toy, prompt)
    assert found.origin == "the subjects of toy_town"
    assert found.guessed
    assert {each.subject for each in found.prompts} == {entry.subject for entry in town.entries} - {"Oda Voss"}
    back = other_subjects(toy, fs.prompt(toy, "[Brask] lives in"))
    assert "backwards" in back.origin
    assert {each.subject for each in back.prompts} == set(town.answers) - {"Brask"}
    assert all(_answer(town, str(each.answer).strip()) == each.subject for each in back.prompts)
    named = other_subjects(toy, prompt, ("Mira Drey",))
    assert [each.subject for each in named.prompts] == ["Mira Drey"]
    assert other_subjects(toy, fs.prompt(toy, "[Nobody] lives in")).prompts == ()
    with pytest.raises(UserError, match="own subject"):
        other_subjects(toy, prompt, ("Oda Voss",))


@pytest.mark.usefixtures("town")
def test_an_unknown_fact_is_told_with_what_the_model_says(toy: Any) -> None:
    with pytest.raises(UserError, match=r"' weaver' is at rank \d+ after .* where it says '"):
        about_prompt(toy, TEXT, answer="weaver")


def _answer(relation: Relation, subject: str) -> str:
    return next(entry.answer for entry in relation.entries if entry.subject == subject)
