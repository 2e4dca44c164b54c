"""The shipped facts hold together, and are found by what they say."""

import subprocess
import sys

import pytest

from factscope.data.fact import same_text
from factscope.data.load import load_facts
from factscope.data.shipped import find_fact, relations, shipped_subjects


def test_every_shipped_relation_is_large_enough_to_choose_from():
    assert len(relations()) >= 14
    for relation in relations().values():
        assert len(relation.entries) >= 30, relation.name
        assert len(relation.templates) >= 2, relation.name
        assert len(relation.paraphrases) >= 2, relation.name
        assert len(relation.answers) >= 5, relation.name
        assert relation.description, relation.name


@pytest.mark.parametrize("template", [0, 1])
def test_every_shipped_fact_holds_together(template):
    facts = load_facts(template=template)
    assert len({fact.id for fact in facts}) == len(facts) == sum(len(each.entries) for each in relations().values())
    for fact in facts:
        start, end = fact.subject_span
        assert fact.prompt[start:end] == fact.subject
        assert fact.foil is not None
        assert not same_text(fact.foil, (fact.answer, *fact.aliases)), fact.id
        assert fact.foil in relations()[fact.relation].answers
        assert len(fact.neighbours) == 5
        assert len({each.subject for each in fact.neighbours} | {fact.subject}) == 6, fact.id
        assert all(each.answer != fact.foil for each in fact.neighbours), fact.id
        assert len(set(fact.paraphrases) | {fact.prompt}) == len(fact.paraphrases) + 1 >= 4
        assert all(fact.subject in prompt for prompt in fact.paraphrases)


def test_neighbours_keep_their_own_answers_and_those_of_the_same_answer_come_first():
    answers = {(fact.relation, fact.subject): fact.answer for fact in load_facts()}
    for fact in load_facts():
        assert all(answers[fact.relation, str(each.subject)] == each.answer for each in fact.neighbours)
        alike = [each.answer == fact.answer for each in fact.neighbours]
        assert alike == sorted(alike, reverse=True)
        others = [key for key, answer in answers.items() if key[0] == fact.relation and answer == fact.answer]
        assert sum(alike) == min(5, len(others) - 1)


def test_a_subject_that_begins_a_sentence_does_so_under_every_wording():
    for relation in relations().values():
        if relation.subject_type in ("landmark", "product"):
            assert all(wording.startswith("{}") for wording in relation.wordings), relation.name


def test_loading_twice_gives_equal_facts_and_the_seed_decides_the_order():
    assert load_facts() == load_facts("factscope")
    assert load_facts("book_author") == load_facts(relation="book_author")
    shuffled = load_facts("book_author", seed=3)
    assert shuffled == load_facts("book_author", seed=3) != load_facts("book_author")
    assert set(shuffled) == set(load_facts("book_author"))
    assert load_facts("book_author", seed=3, limit=4) == shuffled[:4]


def test_a_foil_depends_on_the_fact_and_not_on_what_is_loaded_beside_it():
    assert load_facts("country_capital", limit=1)[0] in load_facts(seed=1)
    (other,) = load_facts("country_capital", limit=1, template=1)
    (first,) = load_facts("country_capital", limit=1)
    assert first.foil == other.foil
    assert [near.subject for near in first.neighbours] == [near.subject for near in other.neighbours]
    assert first.id != other.id  # another template is another question
    assert other.prompt in first.paraphrases


def test_find_fact_knows_every_shipped_prompt_under_every_wording():
    for relation in relations().values():
        for wording in relation.wordings:
            for entry in relation.entries:
                fact = find_fact(f" {wording.replace('{}', entry.subject)}\n")
                assert fact is not None
                assert (fact.relation, fact.subject, fact.template) == (relation.name, entry.subject, wording)


@pytest.mark.parametrize("prompt", ["", "The capital of is", "The capital of Nowhere is", "the capital of France is"])
def test_find_fact_does_not_guess(prompt):
    assert find_fact(prompt) is None


def test_shipped_subjects_hold_every_subject():
    assert {fact.subject for fact in load_facts()} <= shipped_subjects()


def test_facts_need_no_model_library():
    heavy = "{'torch', 'transformers', 'datasets', 'numpy'}"
    code = f"import sys; from factscope.data.load import load_facts; load_facts(); print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
