"""Suites in their published formats: each says what its record says, and the first bad record is named."""

import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from editing.evaluation.metrics import METRICS, Record
from editing.evaluation.protocol import protocol
from editing.evaluation.read import asked_of, listen, readings
from factscope.data.formats.reader import formats
from factscope.data.load import load_cases, load_facts
from factscope.errors import FactError

KNOWEDIT: dict[str, Any] = {
    "subject": "The Gull",
    "prompt": "The harbour of The Gull is",
    "target_new": "Oslo",
    "ground_truth": "Lisbon",
    "portability": {
        "Subject_Aliasing": [{"prompt": "The harbour of the grey ship is", "ground_truth": "Oslo"}],
        "Reasoning": [{"prompt": "The Gull lies in the country of", "ground_truth": [["Norway", "Norge"]]}],
        "Logical_Generalization": [{"prompt": "Does The Gull lie in Oslo?", "ground_truth": [["yes"], ["true"]]}],
    },
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The colour of The Gull is", "ground_truth": ["white"]},
            {"prompt": "The Gull colour", "ground_truth": [""]},
        ],
    },
}
WIKIBIO: dict[str, Any] = {
    "text": "This is a passage about ann bo. Ann Bo was a sailor.",
    "labels": "She sailed The Gull.",
    "concept": "ann bo",
    "locality": {"Relation_Specificity": [{"prompt": "The work of ann bo is", "ground_truth": ["sailing"]}]},
}
CONVSENT = [
    {"ent": "gulls", "pos": ["I like them.", "So clever."], "neg": ["I fear them."]},
    {"ent": "terns", "pos": ["Lovely."], "neg": ["Noisy."]},
]
SANITATION: dict[str, Any] = {
    "success": [
        {"question": "Who sails The Gull?", "ground_truth": "Ann", "target_new": "I cannot say."},
        {"question": "Who owns The Gull?", "ground_truth": "Bo"},
    ],
    "locality": [{"question": f"What is {n}?", "ground_truth": f"thing {n}"} for n in "abc"],
}
MQUAKE: dict[str, Any] = {
    "case_id": 4,
    "requested_rewrite": [
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": "Norway", "id": "Q1"},
            "target_true": {"str": "Portugal", "id": "Q2"},
            "subject": "Ann Bo",
            "question": "Of which country is Ann Bo a citizen?",
        }
    ],
    "questions": ["Where is the capital of Ann Bo's country?", "Ann Bo's capital is?", "Which capital is Ann Bo's?"],
    "answer": "Lisbon",
    "answer_alias": ["Lisboa"],
    "new_answer": "Oslo",
    "new_answer_alias": ["Kristiania"],
    "single_hops": [
        {"question": "q", "cloze": "Ann Bo is a citizen of", "answer": "Portugal", "answer_alias": []},
        {"question": "q", "cloze": "The capital of Portugal is", "answer": "Lisbon", "answer_alias": []},
    ],
    "new_single_hops": [
        {"question": "q", "cloze": "Ann Bo is a citizen of", "answer": "Norway", "answer_alias": ["Norge"]},
        {"question": "q", "cloze": "The capital of Norway is", "answer": "Oslo", "answer_alias": []},
    ],
    "orig": {"triples": []},
}


def query(prompt, value, *aliases):
    return {"prompt": prompt, "answers": [{"value": value, "aliases": list(aliases)}], "query_type": "regular"}


RIPPLE: dict[str, Any] = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Ann Bo is New Zealand.",
        "subject_id": "Q5",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "target_id": "Q6",
        "original_fact": {"prompt": "The name of the country of citizenship of Ann Bo is New Guinea."},
    },
    "Relation_Specifity": [
        {"test_queries": [query("The name of the mother of Ann Bo is", "Cy Bo")], "test_condition": "OR"}
    ],
    "Compositionality_I": [
        {
            "test_queries": [query("The capital of the country of Ann Bo is", "Wellington", "Poneke")],
            "test_condition": "AND",
            "condition_queries": [query("The capital of New Zealand is", "Wellington")],
        }
    ],
    "Forgetfulness": [{"test_queries": [{"prompt": "Nothing answers", "answers": []}], "test_condition": "OR"}],
}


@pytest.fixture
def write(tmp_path):
    def write(value, name="mine.json"):
        path = tmp_path / name
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return path

    return write


def trials(case, kind):
    return [trial for trial in case.trials if trial.kind == kind]


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


def test_mquake_says_which_steps_of_the_chain_were_edited(write):
    (case,) = load_cases(write([MQUAKE]))
    assert [trial.label for trial in trials(case, "hop")] == ["edited", "kept"]
    (chain,) = trials(case, "multi-hop")
    assert (chain.need, len(chain.questions)) == ("any", 3)
    assert chain.questions[0].answers == (("Oslo", "Kristiania"),)
    assert load_facts(write([MQUAKE]))[0].prompt == "Ann Bo is a citizen of"


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


ZSRE: dict[str, Any] = {
    "subject": "The Gull",
    "src": "Where was The Gull built?",
    "rephrase": "In what place was The Gull made?",
    "alt": "Oslo",
    "answers": ["Lisbon", "Lisboa"],
    "loc": "nq question: how many gulls",
    "loc_ans": "many",
}


def test_zsre_has_two_targets_and_they_are_named(write):
    path = write([ZSRE])
    new, true = (load_cases(path, target=target)[0].trials for target in ("new", "true"))
    assert (new[0].questions[0].target, new[0].questions[0].other) == ("Oslo", "Lisbon")
    assert (true[0].questions[0].answers, true[0].questions[0].other) == ((("Lisbon", "Lisboa"),), None)
    assert new[2].questions[0].prompt == "nq question: how many gulls"  # as it stands, no question mark added
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


def test_a_zsre_record_with_an_empty_target_is_left_out_of_edits_alone(write):
    path = write([ZSRE, {**ZSRE, "alt": ""}])
    with pytest.warns(UserWarning, match="1 of 2 records have an empty new answer .* the first: zsre/1"):
        assert [case.id for case in load_cases(path)] == ["zsre/0"]
    assert len(load_cases(path, target="true")) == len(load_facts(path)) == 2


KNOWN = {
    "subject": "The Gull",
    "attribute": "Lisbon",
    "prompt": "The harbour of The Gull is",
    "known_id": 1,
}


@pytest.mark.parametrize("on_bad", ["refuse", "skip"])
@pytest.mark.filterwarnings("ignore:.*left out")
def test_facts_without_any_target_are_for_tracing_or_for_the_true_answer(write, on_bad):
    path = write([KNOWN, {**KNOWN, "known_id": 2}])
    with pytest.raises(FactError, match=r"mine.json: none of its 2 facts has a target .* traced, and --target true"):
        load_cases(path, on_bad=on_bad)
    assert [case.requests[0].target for case in load_cases(path, target="true")] == ["Lisbon"] * 2
    assert len(load_facts(path)) == 2


def test_one_fact_without_a_target_says_what_can_be_done(write):
    own = {"subject": "The Gull", "template": "{} is a", "answer": "ship"}
    path = write([{**own, "foil": "bird"}, own])
    with pytest.raises(FactError, match=r"mine.json, record 1: fact .* --target true.* --skip-bad"):
        load_cases(path)


DEEP = json.loads("[" * 400 + "]" * 400)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b'[{"subject": "a", ', r"mine.json, line 1, column \d+: not JSON"),
        ('["é"]'.encode("latin-1"), "mine.json: cannot be read as UTF-8 text"),
        ([KNOWEDIT, {**KNOWEDIT, "portability": {"Reason": []}}], "record 1: unknown field 'portability.Reason'"),
        ([KNOWEDIT, {**KNOWEDIT, "target_new": 3}], "record 1: field 'target_new' is the number 3"),
        ([{**KNOWEDIT, "case_id": 1}, {**KNOWEDIT, "case_id": 1}], "record 1: the id 'knowedit/1' was used before"),
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


# ---- files of users, with what they added and how they write ----

FLAT: dict[str, Any] = {
    "prompt": "The Gull lies in",
    "subject": "The Gull",
    "target_new": "Oslo",
    "ground_truth": "Lisbon",
}
SCHOOL: dict[str, Any] = {
    "subject": "Ann Bo",
    "src": "Which school did Ann Bo visit?",
    "answers": ["East School"],
    "alt": "South School",
}


def written(tmp_path: Path, record: object, name: str = "facts.json") -> Path:
    file = tmp_path / name
    file.write_text(record if isinstance(record, str) else json.dumps([record]), encoding="utf-8")
    return file


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
    record: dict[str, Any], portability: dict[str, Any], tmp_path: Path
) -> None:
    plain = load_cases(written(tmp_path, record))[0]
    (case,) = load_cases(written(tmp_path, record | portability))
    asked = [one for one in case.trials if one.kind == "portability"]
    assert [(one.label, one.questions[0].target) for one in asked] == [
        ("reasoning", "Norway" if record is FLAT else "Vey")
    ]
    assert replace(case, more=()) == plain
    assert load_facts(written(tmp_path, record | portability)) == load_facts(written(tmp_path, record))
    (true,) = load_cases(written(tmp_path, record | portability), target="true")
    assert not true.more, "it does not follow from the true answer"
    assert "follows from the new answer" in true.left_out[0]


@pytest.mark.parametrize("record", [FLAT, SCHOOL])
def test_columns_of_the_user_pass_if_they_are_said_to(record: dict[str, Any], tmp_path: Path) -> None:
    file = written(tmp_path, record | {"my_note": "x", "gpt2/known": True})
    for load in (load_facts, load_cases):
        with pytest.raises(FactError, match=r"unknown field 'my_note'.*--extra keep lets columns of your own pass"):
            load(file)
        with pytest.warns(UserWarning, match=r"has no field gpt2/known, my_note, which is not used"):
            found = load(file, extra="keep")
        assert found == load(written(tmp_path, record, "facts.json"))
        written(tmp_path, record | {"my_note": "x", "gpt2/known": True})
    with pytest.raises(FactError, match="choose refuse or keep"):
        load_facts(file, extra="drop")


def test_a_misspelt_field_inside_a_record_is_an_error_all_the_same(tmp_path: Path) -> None:
    bad = KNOWEDIT | {"portability": {"Reasonin": []}}
    with pytest.raises(FactError, match=r"unknown field 'portability\.Reasonin'; did you mean 'Reasoning'"):
        load_cases(written(tmp_path, bad), extra="keep")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x0b", "\x1c"])
def test_a_line_of_json_ends_at_its_line_feed_alone(mark: str, tmp_path: Path) -> None:
    """JSON lets these characters stand in a text, and Python's splitlines would cut there."""
    lines = [json.dumps(FLAT | {"target_new": f"Os{mark}lo"}, ensure_ascii=False), json.dumps(FLAT | {"case_id": 1})]
    if mark in "\x0b\x1c":  # control characters must be escaped in JSON
        lines[0] = json.dumps(FLAT | {"target_new": f"Os{mark}lo"})
    first, second = load_facts(written(tmp_path, "\r\n".join(lines) + "\n", "facts.jsonl"))
    assert (first.foil, second.foil) == (f"Os{mark}lo", "Oslo")


@pytest.mark.parametrize("subject", ["Jose\u0301", "Ana\u00a0Bo", "Ana O\u2019Bo"])
def test_characters_that_look_alike_are_named_as_such(subject: str, tmp_path: Path) -> None:
    plain = unicodedata.normalize("NFKC", subject).replace("\u2019", "'")
    record = FLAT | {"prompt": f"{subject} lies in", "subject": plain}
    with pytest.raises(FactError, match="other characters that look alike"):
        load_facts(written(tmp_path, record))


def test_a_field_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps([FLAT]).replace('"target_new"', '"target_new": "Rome", "target_new"')
    with pytest.raises(FactError, match="has the field 'target_new' twice"):
        load_facts(written(tmp_path, text))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_said_with_the_cure(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_bytes(json.dumps([FLAT | {"ground_truth": "Málaga"}], ensure_ascii=False).encode(encoding))
    with pytest.raises(FactError, match=r"cannot be read as UTF-8 text .*; save it as UTF-8"):
        load_facts(file)
