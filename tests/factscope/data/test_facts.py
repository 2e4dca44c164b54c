"""Facts: the shipped ones hold together, each public format says what its record says, and every mistake is named."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from factscope.data.fact import Fact, same_text
from factscope.data.load import load_facts
from factscope.data.shipped import find_fact, guess_subject, relations, shipped_subjects
from factscope.errors import FactError

RELATION: dict[str, Any] = {
    "relation": "river_sea",
    "templates": ["{} flows into the", "The mouth of {} is at the"],
    "paraphrases": ["{} ends in the"],
    "facts": [
        {"subject": "Blue Brook", "answer": "North Sea", "aliases": ["German Ocean"]},
        {"subject": "Red Brook", "answer": "Baltic"},
        {"subject": "Old Brook", "answer": "Baltic"},
    ],
}
COUNTERFACT: dict[str, Any] = {
    "case_id": 7,
    "pararel_idx": 1,
    "requested_rewrite": {
        "prompt": "The harbour of {} lies in",
        "relation_id": "P99",
        "target_new": {"str": "Oslo", "id": "Q1"},
        "target_true": {"str": "Lisbon", "id": "Q2"},
        "subject": "the Gull",
    },
    "paraphrase_prompts": ["Long ago. The Gull is moored in"],
    "neighborhood_prompts": ["The Tern lies in", "The Heron lies in"],
    "attribute_prompts": ["The Puffin lies in"],
    "generation_prompts": ["The Gull is"],
}
FLAT: dict[str, Any] = {
    "case_id": 8,
    "prompt": "The Gull, a ship from",
    "subject": "The Gull",
    "target_new": "Oslo",
    "ground_truth": "Lisbon",
    "rephrase_prompt": "The Gull was built in",
    "locality_prompt": "The Tern was built in",
    "locality_ground_truth": "Lisbon",
}
TRACING: dict[str, Any] = {
    "relation": "The home of {} is",
    "relation_prefix": "The home of",
    "relation_suffix": "is",
    "prompt": "The home of Home is",
    "relation_id": "P5",
    "target_true": " Lisbon",
    "target_true_id": "Q2",
    "target_false": " Oslo",
    "target_false_id": "Q1",
    "subject": "Home",
}
KNOWN: dict[str, Any] = {
    "known_id": 3,
    "subject": "the",
    "attribute": "article",
    "template": "Grammar calls the word {} an",
    "prompt": "Grammar calls the word the an example of an",
    "prediction": " article",
    "relation_id": "P31",
}
ZSRE: dict[str, Any] = {
    "subject": "The Gull",
    "src": "Where was The Gull built?",
    "pred": "Rome",
    "rephrase": "In what place was The Gull made?",
    "alt": "Oslo",
    "answers": ["Lisbon", "Lisboa"],
    "loc": "nq question: how many gulls are there",
    "loc_ans": "many",
    "cond": "Rome >> Oslo || Where was The Gull built?",
}
LRE: dict[str, Any] = {
    "name": "bird colour",
    "prompt_templates": ["{} are"],
    "prompt_templates_zs": ["What colour are {}? They are"],
    "properties": {"relation_type": "commonsense"},
    "samples": [
        {"subject": "gulls", "object": "white"},
        {"subject": "gulls", "object": "grey"},
        {"subject": "ravens", "object": "black"},
    ],
}


@pytest.fixture
def write(tmp_path):
    def write(value, name="mine.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return path

    return write


def refusal(source, **options):
    with pytest.raises(FactError) as caught:
        load_facts(source, **options)
    return str(caught.value)


# ---- a fact


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


# ---- the facts that ship


def test_every_shipped_relation_is_large_enough_to_choose_from():
    assert len(relations()) >= 14
    for relation in relations().values():
        assert len(relation.entries) >= 30, relation.name
        assert len(relation.templates) >= 2, relation.name
        assert len(relation.paraphrases) >= 2, relation.name
        assert len(relation.answers) >= 5, relation.name
        assert relation.description, relation.name


@pytest.mark.parametrize("template", [0, 1])
def test_every_shipped_fact_holds_together(template):
    facts = load_facts(template=template)
    assert len({fact.id for fact in facts}) == len(facts) == sum(len(each.entries) for each in relations().values())
    for fact in facts:
        start, end = fact.subject_span
        assert fact.prompt[start:end] == fact.subject
        assert fact.foil is not None
        assert not same_text(fact.foil, (fact.answer, *fact.aliases)), fact.id
        assert fact.foil in relations()[fact.relation].answers
        assert len(fact.neighbours) == 5
        assert len({each.subject for each in fact.neighbours} | {fact.subject}) == 6, fact.id
        assert all(each.answer != fact.foil for each in fact.neighbours), fact.id
        assert len(set(fact.paraphrases) | {fact.prompt}) == len(fact.paraphrases) + 1 >= 4
        assert all(fact.subject in prompt for prompt in fact.paraphrases)


def test_neighbours_keep_their_own_answers_and_those_of_the_same_answer_come_first():
    answers = {(fact.relation, fact.subject): fact.answer for fact in load_facts()}
    for fact in load_facts():
        assert all(answers[fact.relation, str(each.subject)] == each.answer for each in fact.neighbours)
        alike = [each.answer == fact.answer for each in fact.neighbours]
        assert alike == sorted(alike, reverse=True)
        others = [key for key, answer in answers.items() if key[0] == fact.relation and answer == fact.answer]
        assert sum(alike) == min(5, len(others) - 1)


def test_a_subject_that_begins_a_sentence_does_so_under_every_wording():
    for relation in relations().values():
        if relation.subject_type in ("landmark", "product"):
            assert all(wording.startswith("{}") for wording in relation.wordings), relation.name


def test_loading_twice_gives_equal_facts_and_the_seed_decides_the_order():
    assert load_facts() == load_facts("factscope")
    assert load_facts("book_author") == load_facts(relation="book_author")
    shuffled = load_facts("book_author", seed=3)
    assert shuffled == load_facts("book_author", seed=3) != load_facts("book_author")
    assert set(shuffled) == set(load_facts("book_author"))
    assert load_facts("book_author", seed=3, limit=4) == shuffled[:4]


def test_a_foil_depends_on_the_fact_and_not_on_what_is_loaded_beside_it():
    assert load_facts("country_capital", limit=1)[0] in load_facts(seed=1)
    (other,) = load_facts("country_capital", limit=1, template=1)
    (first,) = load_facts("country_capital", limit=1)
    assert first.foil == other.foil
    assert [near.subject for near in first.neighbours] == [near.subject for near in other.neighbours]
    assert first.id != other.id  # another template is another question
    assert other.prompt in first.paraphrases


def test_find_fact_knows_every_shipped_prompt_under_every_wording():
    for relation in relations().values():
        for wording in relation.wordings:
            for entry in relation.entries:
                fact = find_fact(f" {wording.replace('{}', entry.subject)}\n")
                assert fact is not None
                assert (fact.relation, fact.subject, fact.template) == (relation.name, entry.subject, wording)


@pytest.mark.parametrize("prompt", ["", "The capital of is", "The capital of Nowhere is", "the capital of France is"])
def test_find_fact_does_not_guess(prompt):
    assert find_fact(prompt) is None


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("Everyone likes France because", "France"),
        ("In the shade of the Eiffel Tower stands", "the Eiffel Tower"),
        ("Eiffel Tower is in", "Eiffel Tower"),
        ("Is it hot in Spain or in France?", "France"),  # names before words, then the longest
        ("The Last Supper and The Scream", "The Last Supper"),
        ("Frances likes hotels and", None),  # whole words only
        ("", None),
    ],
)
def test_guess_subject_takes_names_first_then_the_longest(prompt, subject):
    span = guess_subject(prompt)
    assert (prompt[slice(*span)] if span else None) == subject


def test_shipped_subjects_hold_every_subject():
    assert {fact.subject for fact in load_facts()} <= shipped_subjects()


def test_facts_need_no_model_library():
    heavy = "{'torch', 'transformers', 'datasets', 'numpy'}"
    code = f"import sys; from factscope.data.load import load_facts; load_facts(); print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


# ---- the formats


def test_a_relation_file_is_read_as_our_own_are(write):
    blue, red, old = load_facts(write(RELATION))
    assert blue.id.startswith("river_sea/blue-brook-")
    assert (blue.prompt, blue.answer) == ("Blue Brook flows into the", "North Sea")
    assert (blue.aliases, blue.foil, blue.source) == (("German Ocean",), "Baltic", "mine.json")
    assert blue.paraphrases == ("The mouth of Blue Brook is at the", "Blue Brook ends in the")
    assert [each.subject for each in red.neighbours] == ["Old Brook"]  # Blue Brook's answer is the foil
    assert load_facts(write(RELATION), template=1)[2].prompt == "The mouth of Old Brook is at the"
    assert old.foil == "North Sea"


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


def test_known_facts_take_the_prompt_and_let_the_template_place_the_subject(write):
    (fact,) = load_facts(write([KNOWN]))
    assert fact.template == "Grammar calls the word {} an example of an"  # the first "the" is not the subject
    assert (fact.prompt, fact.answer, fact.foil, fact.relation) == (KNOWN["prompt"], "article", None, "P31")


def test_zsre_in_mends_form(write):
    fact, without = load_facts(write([ZSRE, {**ZSRE, "alt": "lisboa"}]))
    assert (fact.prompt, fact.template) == (ZSRE["src"], "Where was {} built?")
    assert (fact.answer, fact.aliases, fact.foil) == ("Lisbon", ("Lisboa",), "Oslo")
    assert fact.neighbours[0].answer == "many"
    assert without.foil is None  # an alternative that is true cannot be a foil


def test_lre_asks_with_the_zero_shot_templates_and_joins_samples_of_one_subject(write):
    gulls, ravens = load_facts(write(LRE))
    assert (gulls.id.rsplit("-", 1)[0], gulls.prompt) == ("bird_colour/gulls", "What colour are gulls? They are")
    assert (gulls.answer, gulls.aliases, gulls.foil) == ("white", ("grey",), "black")
    assert ravens.paraphrases == ("ravens are",)
    without = {name: value for name, value in LRE.items() if name != "prompt_templates_zs"}
    assert load_facts(write(without))[0].prompt == "gulls are"


def test_a_fact_survives_being_written_field_by_field(write):
    facts = load_facts("country_capital", limit=5)
    lines = "\n".join(json.dumps(asdict(fact)) for fact in facts)
    assert load_facts(write(lines + "\n", "saved.jsonl")) == facts


def test_a_folder_is_all_its_files_in_order_of_name(write):
    write([FLAT], "box/b/flat.json")
    folder = write(RELATION, "box/a.json").parent
    facts = load_facts(folder)
    assert [fact.source for fact in facts] == ["a.json"] * 3 + ["b/flat.json"]


def test_a_data_set_comes_from_the_hub_and_is_asked_for_its_split(monkeypatch):
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return [FLAT]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (fact,) = load_facts("someone/something", split="test")
    assert (asked, fact.source) == ([("someone/something", "test")], "someone/something")


def test_a_data_set_that_cannot_be_loaded_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refusal("someone/something")
    assert "someone/something:path/in/repo.json" in message
    assert "\n" not in message


def test_one_file_of_a_data_set_is_read_like_a_file_here(monkeypatch, write):
    asked = []

    def hf_hub_download(name, file, repo_type):
        asked.append((name, file, repo_type))
        return str(write([FLAT, TWICE], f"cache/{file}"))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    source = "someone/some.thing:benchmark/one/test all.json"
    (fact,) = load_facts(source, limit=1)
    assert asked == [("someone/some.thing", "benchmark/one/test all.json", "dataset")]
    assert replace(fact, source="mine.json") == load_facts(write([FLAT]))[0]
    assert fact.source == source
    assert refusal(source).startswith(f"{source}, record 1: field 'prompt'")
    assert "names no .json or .jsonl file" in refusal("someone/something:data.csv")
    assert "names no .json or .jsonl file" in refusal("someone/something:")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LocalEntryNotFoundError("no network\nat all"), "the Hub cannot be reached, and it is not in the cache here"),
        (EntryNotFoundError("404\n"), "there is no such file; did you mean 'box/one.json'?"),
        (OSError("the disk\nis full"), "the disk is full"),
    ],
)
def test_a_file_that_cannot_be_fetched_is_one_sentence(monkeypatch, run_command, error, said):
    def hf_hub_download(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_, **__: ["box/one.json", "box/one.csv", "README"])
    source = "someone/something:box/ones.json"
    assert (
        refusal(source) == f"box/ones.json of the Hugging Face data set someone/something could not be fetched: {said}"
    )
    out = run_command("edit", "facts", "check", source)
    assert (out.exit_code, len(out.stderr.splitlines())) == (2, 1)


# ---- where the subject is


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


TWICE = {**FLAT, "case_id": 9, "prompt": "The Gull and The Gull, ships from"}


def test_a_subject_that_stands_twice_or_nowhere_is_refused_by_file_record_and_field(write):
    message = refusal(write([FLAT, TWICE]))
    assert "mine.json, record 1: field 'prompt' has the subject 'The Gull' 2 times" in message
    message = refusal(write([{**ZSRE, "subject": "The Tern"}]))
    assert "mine.json, record 0: field 'src' does not contain the subject 'The Tern'" in message


def test_skipping_bad_records_says_how_many_and_why(write):
    path = write([TWICE, FLAT, FLAT, {**FLAT, "case_id": 10}])
    with pytest.warns(UserWarning, match=r"2 of 4 records left out; the first: mine.json, record 0: field 'prompt'"):
        facts = load_facts(path, on_bad="skip", limit=2)
    assert [fact.id for fact in facts] == ["counterfact/8", "counterfact/10"]


def test_a_limit_reads_no_further(write):
    assert len(load_facts(write([FLAT, TWICE]), limit=1)) == 1


# ---- what goes wrong, by name


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


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "mine.json").write_bytes(b"\xff\xfe\x00")
    assert "mine.json: cannot be read as UTF-8" in refusal(tmp_path / "mine.json")


@pytest.mark.parametrize(
    ("source", "options", "seen"),
    [
        ("country_captial", {}, "did you mean 'country_capital'"),
        (None, {"relation": "country_captial"}, "did you mean 'country_capital'"),
        ("missing.json", {}, "missing.json: there is no such file"),
        ("some/where/else/missing", {}, "there is no such file or folder"),
        ("book_author", {"template": 9}, "templates 0 to 1, and 9 was asked for"),
        (None, {"limit": 0}, "limit is 0"),
        (None, {"on_bad": "ignore"}, "on_bad is 'ignore'"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(source, options, seen):
    assert seen in refusal(source, **options)


def test_a_template_cannot_be_chosen_where_records_have_one_prompt(write):
    assert "one prompt per record" in refusal(write([FLAT]), template=1)


def test_an_empty_folder_is_refused(tmp_path):
    assert "no .json or .jsonl file" in refusal(tmp_path)
