"""What an edit asks for: derived where it can be, refused where it is not clear."""

import hashlib
import json
from dataclasses import asdict, replace

import pytest

from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.data.request import EditRequest, distinct, question_of, requests_of
from factscope.data.shipped import relations
from factscope.errors import FactError
from factscope.runs import store

FACT = Fact("a/1", "a", "The Gull", "{} lies in", "Lisbon", "Oslo", ("Lisboa",), ("Where is The Gull?",))


def test_a_request_of_a_fact_says_its_foil_and_brings_what_surrounds_it():
    (request,) = requests_of([FACT])
    assert (request.prompt, request.target, request.old) == ("The Gull lies in", "Oslo", "Lisbon")
    assert (request.id, request.relation, request.template) == ("a/1", "a", "{} lies in")
    assert request.paraphrases == FACT.paraphrases
    assert str(request) == "The Gull lies in Oslo"
    assert request.told("{} is").prompt == "The Gull is"
    assert requests_of([request]) == (request,)


def test_a_true_target_counts_in_every_spelling_and_knows_nothing_old():
    request = EditRequest.of_truth(FACT)
    assert (request.target, request.old, request.aliases) == ("Lisbon", None, ("Lisboa",))


def test_the_place_of_the_subject_is_found_once_or_refused():
    assert EditRequest("Ann met Anna in", "Ann", "Oslo").template == "{} met Anna in"
    with pytest.raises(FactError, match=r"'Ann' stands 2 times in 'Ann met Ann in': give the template too"):
        EditRequest("Ann met Ann in", "Ann", "Oslo")
    assert EditRequest("Ann met Ann in", "Ann", "Oslo", template="Ann met {} in").template == "Ann met {} in"
    with pytest.raises(FactError, match="'Bo' stands not in"):
        EditRequest("Ann met Anna in", "Bo", "Oslo")
    with pytest.raises(FactError, match="does not give"):
        EditRequest("Ann met Anna in", "Ann", "Oslo", template="{} met Bo in")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": " Oslo"}, "target is ' Oslo': give text without spaces"),
        ({"target": "lisbon"}, "the target 'lisbon' is its answer already"),
        ({"fact": replace(FACT, subject="Bo")}, "not about the same prompt"),
    ],
)
def test_what_cannot_be_asked_is_refused(changes, said):
    with pytest.raises(FactError, match=said):
        replace(EditRequest.of(FACT), **changes)


def test_two_that_differ_in_case_ask_the_same():
    other = replace(FACT, id="b/1", subject="THE GULL")
    assert question_of(FACT) == EditRequest.of(other).key
    assert distinct([FACT, other]) == (FACT,)


def test_names_are_unique_and_foils_are_drawn_as_ever(tmp_path):
    """The draw is of the slug, as before names had a digest; so no shipped foil or neighbour has changed."""
    subjects = ["C", "C++", "NVIDIA", "Nvidia"]
    entries = [{"subject": subject, "answer": f"answer {n}"} for n, subject in enumerate(subjects)]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"relation": "made_by", "templates": ["{} is by"], "facts": entries}))
    facts = load_facts(path)
    assert len({fact.id for fact in facts}) == 4
    assert [fact.id.rsplit("-", 1)[0] for fact in facts] == [
        "made_by/c",
        "made_by/c",
        "made_by/nvidia",
        "made_by/nvidia",
    ]
    france = next(fact for fact in load_facts("country_capital") if fact.subject == "France")
    draw = int.from_bytes(hashlib.sha256(b"country_capital/france").digest()[:8])
    wrong = [answer for answer in relations()["country_capital"].answers if answer != "Paris"]
    assert france.foil == wrong[draw % len(wrong)]


def test_a_request_can_be_written_and_read(tmp_path):
    store.save(EditRequest.of(FACT), tmp_path)
    assert store.load(tmp_path, EditRequest) == EditRequest.of(FACT)
    assert json.dumps(asdict(EditRequest.of(FACT)))
