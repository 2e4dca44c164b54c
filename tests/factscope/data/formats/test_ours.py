"""Relations and facts in our own form."""

import json
from dataclasses import asdict

import pytest

from factscope.data.load import load_cases, load_facts
from factscope.errors import FactError
from helpers.records import RELATION


def test_a_relation_file_is_read_as_our_own_are(write):
    blue, red, old = load_facts(write(RELATION))
    assert blue.id.startswith("river_sea/blue-brook-")
    assert (blue.prompt, blue.answer) == ("Blue Brook flows into the", "North Sea")
    assert (blue.aliases, blue.foil, blue.source) == (("German Ocean",), "Baltic", "mine.json")
    assert blue.paraphrases == ("The mouth of Blue Brook is at the", "Blue Brook ends in the")
    assert [each.subject for each in red.neighbours] == ["Old Brook"]  # Blue Brook's answer is the foil
    assert load_facts(write(RELATION), template=1)[2].prompt == "The mouth of Old Brook is at the"
    assert old.foil == "North Sea"


def test_a_fact_survives_being_written_field_by_field(write):
    facts = load_facts("country_capital", limit=5)
    lines = "\n".join(json.dumps(asdict(fact)) for fact in facts)
    assert load_facts(write(lines + "\n", "saved.jsonl")) == facts


def test_one_fact_without_a_target_says_what_can_be_done(write):
    own = {"subject": "The Gull", "template": "{} is a", "answer": "ship"}
    path = write([{**own, "foil": "bird"}, own])
    with pytest.raises(FactError, match=r"mine.json, record 1: fact .* --target true.* --skip-bad"):
        load_cases(path)
