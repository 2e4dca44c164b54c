"""What every format shares: the subject in a prompt, fields by name, and mistakes told by file, record and field."""

import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from factscope.data.formats.reader import formats
from factscope.data.load import load_cases, load_facts
from factscope.errors import FactError
from helpers.records import (
    CONVSENT,
    COUNTERFACT,
    FLAT,
    KNOWEDIT,
    MQUAKE,
    RELATION,
    RIPPLE,
    SCHOOL,
    TWICE,
    WIKIBIO,
    ZSRE,
    refusal,
)


@pytest.mark.parametrize(
    ("prompt", "subject", "template"),
    [
        ("Annaland was made for Anna by", "Anna", "Annaland was made for {} by"),  # whole words before parts of words
        ("What is the age of gull?", "Gull", "What is the age of {}?"),  # spelt as in the prompt
        ("日本の首都は", "日本", "{}の首都は"),  # no spaces between words
    ],
)
def test_the_subject_is_found_in_a_finished_prompt(write, prompt, subject, template):
    (fact,) = load_facts(write([{**FLAT, "prompt": prompt, "subject": subject}]))
    assert (fact.template, fact.prompt) == (template, prompt)


def test_a_subject_that_stands_twice_or_nowhere_is_refused_by_file_record_and_field(write):
    message = refusal(write([FLAT, TWICE]))
    assert "mine.json, record 1: field 'prompt' has the subject 'The Gull' 2 times" in message
    message = refusal(write([{**ZSRE, "subject": "The Tern"}]))
    assert "mine.json, record 0: field 'src' does not contain the subject 'The Tern'" in message


def changed(record, **change):
    return {name: value for name, value in {**record, **change}.items() if value != "(left out)"}


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ([FLAT, changed(FLAT, ground_truht="x")], ["record 1", "'ground_truht'", "did you mean 'ground_truth'"]),
        ([changed(FLAT, ground_truth="(left out)", ground_truht="x")], ["record 0", "did you mean 'ground_truth'"]),
        ([FLAT, changed(FLAT, target_new="(left out)")], ["record 1", "'target_new' is missing"]),
        ([changed(FLAT, target_new=5)], ["record 0", "'target_new' is the number 5, not a text"]),
        ([changed(FLAT, target_new="  ")], ["record 0", "'target_new' is empty"]),
        ([changed(FLAT, target_new="Lisbon")], ["record 0", "'Lisbon' is a true answer"]),
        ([FLAT, FLAT], ["record 1", "'counterfact/8' was used before"]),
        ([FLAT, "text"], ["record 1", "the record is a text"]),
        (["text"], ["record 0", "a text where an object"]),
        ([{"colour": "red"}], ["record 0", "the fields colour belong to no format we know; docs/suites.md#formats"]),
        ([{f"f{n}": "red" for n in range(30)}], ["the fields f0, f1, f2, f3, f4, f5, f6, f7, ... belong to no format"]),
        (
            [{"subject": "a", "target_new": "b", "colour": "red"}],
            ["the nearest is CounterFact, flat (EasyEdit), but there is no prompt and no ground_truth)"],
        ),
        ("[" * 10_000 + "]" * 10_000, ["mine.json: its lists or objects are nested too deeply"]),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, ["mine.json: its lists or objects are nested too deeply"]),
        (f"[{'1' * 5000}]", ["mine.json: a number in it has thousands of digits"]),
        (
            [changed(COUNTERFACT, requested_rewrite={**COUNTERFACT["requested_rewrite"], "target_true": "Rome"})],
            ["record 0", "requested_rewrite.target_true is a text"],
        ),
        (
            [changed(COUNTERFACT, requested_rewrite={**COUNTERFACT["requested_rewrite"], "prompt": "Slotless"})],
            ["record 0", "'Slotless' has 0 times"],
        ),
        (
            [changed(COUNTERFACT, requested_rewrite={**COUNTERFACT["requested_rewrite"], "targte_new": "Rome"})],
            ["record 0", "'requested_rewrite.targte_new'; did you mean 'target_new'"],
        ),
        ([changed(ZSRE, answers=[])], ["record 0", "'answers' is empty"]),
        ([changed(ZSRE, answers=["a", 3])], ["record 0", "'answers[1]' is the number 3"]),
        (changed(RELATION, facts=[{"subject": "a", "anwser": "b"}]), ["record 0", "'anwser'; did you mean 'answer'"]),
        (changed(RELATION, facts=RELATION["facts"] * 2), ["record 3", "'Blue Brook' was given before"]),
        (changed(RELATION, facts={}), ["field 'facts' is an object, not a list"]),
        (changed(RELATION, facts=[]), ["field 'facts' is empty"]),
        (changed(RELATION, templates=["{} or {}"]), ["'{} or {}' has 2 times"]),
        (changed(RELATION, templates=[]), ["no templates"]),
        (changed(RELATION, tempaltes=["{}"]), ["'tempaltes'; did you mean 'templates'"]),
        ([], ["holds no records"]),
        ("", ["the file is empty"]),
        ('[\n{"a": }]', ["line 2, column 7", "not JSON"]),
        ('{"a": 1}\n{"a": 1}', ["line 2, column 1", ".jsonl"]),
    ],
)
def test_every_mistake_names_the_file_the_record_and_the_field(write, value, seen):
    message = refusal(write(value))
    assert message.startswith("mine.json")
    for words in seen:
        assert words in message


def test_a_broken_line_is_named_by_its_number(write):
    assert "mine.jsonl, line 3, column" in refusal(write(json.dumps(FLAT) + "\n\n{,\n", "mine.jsonl"))


DEEP = json.loads("[" * 400 + "]" * 400)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([MQUAKE, {k: v for k, v in MQUAKE.items() if k != "new_answer"}], "record 1: field 'new_answer' is missing"),
        ([{**MQUAKE, "requested_rewrite": []}], "record 0: field 'requested_rewrite' is empty"),
        ([{**RIPPLE, "edit": {"prompt": "X is Y.", "relation": "MOTHER"}}], "record 0: field 'edit.prompt'"),
        ([{**KNOWEDIT, "ground_truth": DEEP}], "record 0: field 'ground_truth' has lists in lists in lists"),
        ([{**WIKIBIO, "concept": "cy do"}], "record 0: field 'text' does not contain the concept 'cy do'"),
        ([{**CONVSENT[0], "neg": []}], "record 0: field 'neg' is empty"),
    ],
)
def test_the_first_bad_record_is_named_with_its_field(write, value, said):
    with pytest.raises(FactError, match=said):
        load_cases(write(value))


def test_bad_records_are_left_out_on_request_and_counted(write):
    path = write([{**KNOWEDIT, "case_id": 1}, {**KNOWEDIT, "case_id": 2, "target_new": ""}])
    with pytest.warns(UserWarning, match="1 of 2 records left out; the first: mine.json, record 1: field 'target_new'"):
        assert [case.id for case in load_cases(path, on_bad="skip")] == ["knowedit/1"]


def test_a_file_is_called_by_its_format(write):
    lre = {"name": "colour", "prompt_templates": ["{} are"], "samples": [{"subject": a, "object": a * 2} for a in "ab"]}
    own = {"relation": "colour", "templates": ["{} are"], "facts": [{"subject": a, "answer": a * 2} for a in "ab"]}
    names = [load_cases(write([value]))[0].suite for value in (lre, own, ZSRE, KNOWEDIT)]
    assert names == ["LRE", "facts by relation", "zsRE (MEND's form)", "KnowEdit"]


def test_every_format_is_found_by_listing_and_no_two_need_the_same():
    needed = [(frozenset(each.needed), each.title) for each in formats()]
    assert len({fields for fields, _ in needed}) == len(needed)
    assert {"LRE", "CounterFact", "MQuAKE", "RippleEdits", "zsRE (MEND's form)"} <= {title for _, title in needed}


@pytest.mark.parametrize(
    ("record", "portability"),
    [
        (FLAT, {"portability_prompt": "The Gull lies in the country of", "portability_ground_truth": "Norway"}),
        (SCHOOL, {"portability": {"Recalled Relation": "(South School, town, Vey)",
                                "New Question": "In which town is Ann Bo's school?", "New Answer": "Vey"}}),
        (SCHOOL | {"answers": ["South School"]}, {"portability": {"New Question": "In Vey?", "New Answer": "Vey"}}),
    ],
)  # fmt: skip
def test_what_follows_from_an_edit_is_asked_where_a_record_says_it(
    record: dict[str, Any], portability: dict[str, Any], write: Any
) -> None:
    plain = load_cases(write([record]))[0]
    (case,) = load_cases(write([record | portability]))
    asked = [one for one in case.trials if one.kind == "portability"]
    assert [(one.label, one.questions[0].target) for one in asked] == [
        ("reasoning", "Norway" if record is FLAT else "Vey")
    ]
    assert replace(case, more=()) == plain
    assert load_facts(write([record | portability])) == load_facts(write([record]))
    (true,) = load_cases(write([record | portability]), target="true")
    assert not true.more, "it does not follow from the true answer"
    assert "follows from the new answer" in true.left_out[0]


@pytest.mark.parametrize("record", [FLAT, SCHOOL])
def test_columns_of_the_user_pass_if_they_are_said_to(record: dict[str, Any], write: Any) -> None:
    file = write([record | {"my_note": "x", "gpt2/known": True}])
    for load in (load_facts, load_cases):
        with pytest.raises(FactError, match=r"unknown field 'my_note'.*--extra keep lets columns of your own pass"):
            load(file)
        with pytest.warns(UserWarning, match=r"has no field gpt2/known, my_note, which is not used"):
            found = load(file, extra="keep")
        assert found == load(write([record]))
        write([record | {"my_note": "x", "gpt2/known": True}])
    with pytest.raises(FactError, match="choose refuse or keep"):
        load_facts(file, extra="drop")


def test_a_misspelt_field_inside_a_record_is_an_error_all_the_same(write: Any) -> None:
    bad = KNOWEDIT | {"portability": {"Reasonin": []}}
    with pytest.raises(FactError, match=r"unknown field 'portability\.Reasonin'; did you mean 'Reasoning'"):
        load_cases(write([bad]), extra="keep")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x0b", "\x1c"])
def test_a_line_of_json_ends_at_its_line_feed_alone(mark: str, write: Any) -> None:
    """JSON lets these characters stand in a text, and Python's splitlines would cut there."""
    lines = [json.dumps(FLAT | {"target_new": f"Os{mark}lo"}, ensure_ascii=False), json.dumps(FLAT | {"case_id": 1})]
    if mark in "\x0b\x1c":  # control characters must be escaped in JSON
        lines[0] = json.dumps(FLAT | {"target_new": f"Os{mark}lo"})
    first, second = load_facts(write("\r\n".join(lines) + "\n", "facts.jsonl"))
    assert (first.foil, second.foil) == (f"Os{mark}lo", "Oslo")


@pytest.mark.parametrize("subject", ["Jose\u0301", "Ana\u00a0Bo", "Ana O\u2019Bo"])
def test_characters_that_look_alike_are_named_as_such(subject: str, write: Any) -> None:
    plain = unicodedata.normalize("NFKC", subject).replace("\u2019", "'")
    record = FLAT | {"prompt": f"{subject} lies in", "subject": plain}
    with pytest.raises(FactError, match="other characters that look alike"):
        load_facts(write([record]))


def test_a_field_that_is_there_twice_is_refused(write: Any) -> None:
    text = json.dumps([FLAT]).replace('"target_new"', '"target_new": "Rome", "target_new"')
    with pytest.raises(FactError, match="has the field 'target_new' twice"):
        load_facts(write(text))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_said_with_the_cure(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(json.dumps([FLAT | {"ground_truth": "Málaga"}], ensure_ascii=False).encode(encoding))
    with pytest.raises(FactError, match=r"cannot be read as UTF-8 text .*; save it as UTF-8"):
        load_facts(file)
