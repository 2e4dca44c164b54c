"""KnowEdit's five suites."""

import json

import pytest

from factscope.data.load import load_cases, load_facts
from factscope.errors import FactError
from helpers.records import CONVSENT, KNOWEDIT, SANITATION, WIKIBIO, trials


def test_knowedit_keeps_every_spelling_and_names_what_cannot_be_asked(write):
    (case,) = load_cases(write([KNOWEDIT]))
    assert case.requests[0].template == "The harbour of {} is"
    assert {trial.label: trial.questions[0].answers for trial in trials(case, "portability")} == {
        "alias": (("Oslo",),),
        "reasoning": (("Norway", "Norge"),),
        "logical": (("yes", "true"),),
    }
    assert [trial.questions[0].target for trial in trials(case, "locality")] == ["white"]
    assert case.left_out == ("locality.Relation_Specificity[1]: its answer is empty",)


def test_a_record_that_does_not_say_the_old_answer_is_edited_but_not_traced(write):
    path = write([{name: value for name, value in KNOWEDIT.items() if name != "ground_truth"}])
    (case,) = load_cases(path)
    assert (case.requests[0].old, case.requests[0].fact) == (None, None)
    assert trials(case, "rewrite")[0].questions[0].other is None
    with pytest.raises(FactError, match="record 0: the record does not say the true answer"):
        load_facts(path)


def test_wikibio_is_edited_where_its_person_is_named_last(write):
    (case,) = load_cases(write([WIKIBIO]))
    assert case.requests[0].subject == "Ann Bo"
    assert case.requests[0].template == "This is a passage about ann bo. {} was a sailor."
    assert case.requests[0].target == "She sailed The Gull."


def test_convsent_wants_either_tone_in_turn_and_keeps_the_next_topic(write):
    first, second = load_cases(write(CONVSENT))
    assert [case.requests[0].target for case in (first, second)] == ["I like them.", "Noisy."]
    assert {trial.label: len(trial.questions) for trial in trials(first, "sentiment")} == {"wanted": 2, "opposite": 1}
    assert trials(first, "locality")[0].questions[0].prompt == second.requests[0].prompt


def test_sanitation_deals_the_retained_questions_out(write):
    first, second = load_cases(write(SANITATION))
    assert (first.requests[0].target, second.requests[0].target) == ("I cannot say.", "I don't know.")
    assert trials(second, "erasure")[0].questions[0].target == "Bo"
    assert [len(trials(case, "locality")) for case in (first, second)] == [2, 1]
    other = {"K_F": SANITATION["success"], "K_R": SANITATION["locality"]}
    assert load_cases(write(other))[0].more == first.more


def test_two_sets_of_one_folder_keep_their_cases_apart_and_are_mixed_by_the_seed(tmp_path):
    """A folder of sets that all count from 0, and the same by name; a second id in one file is still refused."""
    other = KNOWEDIT | {"subject": "Sund", "prompt": "The harbour of Sund is"}
    for name, records in (("recent", [KNOWEDIT]), ("zsre", [other]), ("sent", CONVSENT)):
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    cases = load_cases(tmp_path)
    assert [case.id for case in cases] == ["knowedit/0", "convsent/0", "convsent/1", "zsre/knowedit/0"]
    assert [one.id for case in cases for one in case.requests] == [case.id for case in cases]
    assert trials(cases[1], "locality")[0].questions[0].prompt == cases[2].requests[0].prompt  # as in a set of its own
    files = [tmp_path / f"{name}.json" for name in ("recent", "sent", "zsre")]
    named = load_cases(files[0], also=files[1:], seed=1)
    assert [case.id for case in named] == [case.id for case in load_cases(files[0], also=files[1:], seed=1)]
    assert {case.requests[0].prompt for case in named} == {case.requests[0].prompt for case in cases}
    (tmp_path / "zsre.json").write_text(json.dumps([other | {"case_id": 3}, KNOWEDIT | {"case_id": 3}]))
    with pytest.raises(FactError, match="the id 'knowedit/3' was used before"):
        load_cases(tmp_path / "zsre.json")
