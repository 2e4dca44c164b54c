"""CounterFact: as published, flat, and for tracing."""

from factscope.data.load import load_facts
from helpers.records import COUNTERFACT, FLAT, TRACING


def test_counterfact_as_published(write):
    (fact,) = load_facts(write([COUNTERFACT]))
    assert fact.prompt == "The harbour of the Gull lies in"
    assert (fact.id, fact.relation, fact.answer, fact.foil) == ("counterfact/7", "P99", "Lisbon", "Oslo")
    assert fact.paraphrases == ("Long ago. The Gull is moored in",)
    assert [(each.prompt, each.answer) for each in fact.neighbours] == [
        ("The Tern lies in", "Lisbon"),
        ("The Heron lies in", "Lisbon"),
    ]


def test_counterfact_in_easyedits_flat_form(write):
    (fact,) = load_facts(write([FLAT]))
    assert (fact.id, fact.template, fact.subject) == ("counterfact/8", "{}, a ship from", "The Gull")
    assert (fact.answer, fact.foil, fact.paraphrases) == ("Lisbon", "Oslo", ("The Gull was built in",))
    assert [(each.prompt, each.answer) for each in fact.neighbours] == [("The Tern was built in", "Lisbon")]


def test_counterfact_for_tracing_says_where_the_subject_begins(write):
    (fact,) = load_facts(write([{**TRACING, "prompt": "The Home of Home is", "relation_prefix": "The Home of"}]))
    assert (fact.template, fact.answer, fact.foil) == ("The Home of {} is", "Lisbon", "Oslo")
