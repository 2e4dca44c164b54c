"""zsRE in MEND's form: two targets, and records whose target is true or empty."""

from dataclasses import replace

import pytest

from editing.evaluation.metrics import METRICS, Record
from editing.evaluation.protocol import protocol
from editing.evaluation.read import asked_of, listen, readings
from factscope.data.load import load_cases, load_facts
from factscope.errors import FactError
from helpers.records import ZSRE


def test_zsre_in_mends_form(write):
    fact, without = load_facts(write([ZSRE, {**ZSRE, "alt": "lisboa"}]))
    assert (fact.prompt, fact.template) == (ZSRE["src"], "Where was {} built?")
    assert (fact.answer, fact.aliases, fact.foil) == ("Lisbon", ("Lisboa",), "Oslo")
    assert fact.neighbours[0].answer == "many"
    assert without.foil is None  # an alternative that is true cannot be a foil


def test_zsre_has_two_targets_and_they_are_named(write):
    path = write([ZSRE])
    new, true = (load_cases(path, target=target)[0].trials for target in ("new", "true"))
    assert (new[0].questions[0].target, new[0].questions[0].other) == ("Oslo", "Lisbon")
    assert (true[0].questions[0].answers, true[0].questions[0].other) == ((("Lisbon", "Lisboa"),), None)
    assert new[2].questions[0].prompt == ZSRE["loc"]  # as it stands, no question mark added
    with pytest.raises(FactError, match="no target 'old'; choose new or true"):
        load_cases(path, target="old")


@pytest.mark.parametrize("alt", ["Lisbon", "Lisboa", "LISBON"])
def test_a_zsre_target_that_is_a_true_answer_is_edited_to_and_compared_with_nothing(write, alt):
    path = write([{**ZSRE, "alt": alt}, ZSRE])
    case, usual = load_cases(path)
    assert (case.requests[0].target, case.requests[0].old, case.requests[0].aliases) == (alt, None, ())
    assert {trial.kind for trial in case.trials} == {"rewrite", "paraphrase", "locality"}
    assert [trial.questions[0].other for trial in case.trials] == [None, None, None]
    assert [trial.questions[0].target for trial in case.trials] == [alt, alt, "many"]
    assert usual.trials[0].questions[0].other == "Lisbon"
    restated, plain = load_cases(path, target="true")
    assert replace(plain, id=restated.id, requests=restated.requests) == restated
    assert [(r.target, r.old, r.aliases) for r in (*plain.requests, *restated.requests)] == [
        ("Lisbon", None, ("Lisboa",))
    ] * 2
    traced = load_facts(path)[0]
    assert (traced.answer, traced.foil, traced.aliases) == ("Lisbon", None, ("Lisboa",))


def test_a_zsre_record_with_an_empty_target_is_left_out_of_edits_alone(write):
    path = write([ZSRE, {**ZSRE, "alt": ""}])
    with pytest.warns(UserWarning, match="1 of 2 records have an empty new answer .* the first: zsre/1"):
        assert [case.id for case in load_cases(path)] == ["zsre/0"]
    assert len(load_cases(path, target="true")) == len(load_facts(path)) == 2


def test_scores_that_compare_do_not_apply_where_the_old_answer_is_unsaid(write, toy):
    record = {**ZSRE, "subject": "Oda Voss", "src": "Oda Voss lives in", "answers": ["Brask"], "loc": "Today, one has"}
    measured = []
    for alt in ("Brask", "Vey"):
        (case,) = load_cases(write([{**record, "alt": alt}]))
        asked = asked_of(toy, case, "auto")
        heard = listen(toy, asked, (), protocol("counterfact"), "auto", 0)
        rows = [replace(a.row, before=one) for a, one in zip(asked, readings(asked, heard, heard), strict=True)]
        for scorer in ("likelihood", "token accuracy"):
            record_of = Record(tuple(rows), "before", scorer)
            measured.append({name: each.measure(record_of) for name, each in METRICS.items()})
    likely, exact, other, _ = measured
    comparing = ["ES", "PS", "NS", "EM", "PM", "NM"]
    assert [likely[name] for name in comparing] == [None] * 6
    assert likely["reliability"] == 1.0  # a whole answer is one whatever is compared
    assert exact["reliability"] == 1.0  # the toy knows that she lives in Brask
    assert all(other[name] is not None for name in comparing)  # the same record with a target that is not true
