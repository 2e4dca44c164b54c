"""RippleEdits."""

from factscope.data.load import load_cases
from helpers.records import RIPPLE, trials


def test_ripple_finds_what_is_new_by_words_and_keeps_conditions(write):
    (case,) = load_cases(write([RIPPLE]))
    asked = case.requests[0]
    assert (asked.subject, asked.target, asked.old) == ("Ann Bo", "New Zealand", "New Guinea")
    specific, composed = trials(case, "ripple")
    assert (specific.need, composed.need) == ("any", "all")
    assert composed.questions[0].answers == (("Wellington", "Poneke"),)
    assert composed.conditions[0].target == "Wellington"
    assert case.left_out == ("Forgetfulness[0]: test_queries[0] has no answer",)
    edit = dict(RIPPLE["edit"])
    edit["previous_fact"] = edit.pop("original_fact")
    assert load_cases(write([{**RIPPLE, "edit": edit}]))[0].requests == case.requests
    recent = {**RIPPLE, "edit": {"prompt": "The mother of Ann Bo is Di Bo.", "relation": "MOTHER"}}
    asked = load_cases(write([recent]))[0].requests[0]
    assert (asked.template, asked.target, asked.old) == ("The mother of {} is", "Di Bo", None)
