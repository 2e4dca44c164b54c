"""ROME's known facts, which have no target."""

import pytest

from factscope.data.load import load_cases, load_facts
from factscope.errors import FactError
from helpers.records import KNOWN


def test_known_facts_take_the_prompt_and_let_the_template_place_the_subject(write):
    (fact,) = load_facts(write([KNOWN]))
    assert fact.template == "Grammar calls the word {} an example of an"  # the first "the" is not the subject
    assert (fact.prompt, fact.answer, fact.foil, fact.relation) == (KNOWN["prompt"], "article", None, "P31")


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
@pytest.mark.filterwarnings("ignore:.*left out")
def test_facts_without_any_target_are_for_tracing_or_for_the_true_answer(write, on_bad):
    path = write([KNOWN, {**KNOWN, "known_id": 2}])
    with pytest.raises(FactError, match=r"mine.json: none of its 2 facts has a target .* traced, and --target true"):
        load_cases(path, on_bad=on_bad)
    assert [case.requests[0].target for case in load_cases(path, target="true")] == [KNOWN["attribute"]] * 2
    assert len(load_facts(path)) == 2
