"""A fact holds together, or says what is wrong with it."""

from dataclasses import FrozenInstanceError

import pytest

from factscope.data.fact import Fact
from factscope.errors import FactError


def test_the_span_is_the_slot_even_where_the_subject_text_stands_elsewhere():
    fact = Fact("a/b", "a", "is", "What is {} is", "it")
    assert (fact.prompt, fact.subject_span) == ("What is is is", (8, 10))


def test_braces_that_are_no_slot_are_plain_text():
    assert Fact("a/b", "a", "x{}y", "{0} {} }", "it").prompt == "{0} x{}y }"


def test_a_fact_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Fact("a/b", "a", "s", "{} is", "it").answer = "that"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"template": "no slot"}, "'no slot' has 0 times"),
        ({"template": "{} and {}"}, "has 2 times"),
        ({"template": "{} is "}, "spaces around it"),
        ({"answer": " Paris"}, "answer is ' Paris'"),
        ({"subject": ""}, "subject is ''"),
        ({"foil": "PARIS"}, "is a true answer"),
        ({"foil": "Lutetia"}, "is a true answer"),
    ],
)
def test_a_fact_that_contradicts_itself_is_refused(change, seen):
    good = {"id": "a/b", "relation": "a", "subject": "France", "template": "{} is", "answer": "Paris"}
    with pytest.raises(FactError, match=seen):
        Fact(**{**good, "aliases": ("Lutetia",), **change})
