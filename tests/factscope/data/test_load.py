"""Where facts come from: a file, a folder, a data set, a file of its repository; and what is not there."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from factscope.data.load import load_facts
from helpers.records import FLAT, RELATION, TWICE, refusal


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


def test_skipping_bad_records_says_how_many_and_why(write):
    path = write([TWICE, FLAT, FLAT, {**FLAT, "case_id": 10}])
    with pytest.warns(UserWarning, match=r"2 of 4 records left out; the first: mine.json, record 0: field 'prompt'"):
        facts = load_facts(path, on_bad="skip", limit=2)
    assert [fact.id for fact in facts] == ["counterfact/8", "counterfact/10"]


def test_a_limit_reads_no_further(write):
    assert len(load_facts(write([FLAT, TWICE]), limit=1)) == 1


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
