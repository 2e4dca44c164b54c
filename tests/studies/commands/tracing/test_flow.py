"""`trace flow` as a person uses it: lines and a page, and one sentence for every mistake."""

import json
from pathlib import Path
from typing import Any

import pytest

from factscope.data.load import load_facts
from helpers.models import TOY

QUICK = ("--model", str(TOY), "--device", "cpu", "--set", "nulls=2")
FACT = load_facts(TOY / "toy_town.json")[0]
MARKED = FACT.template.replace("{}", f"[{FACT.subject}]")


def test_one_prompt_prints_its_lines_and_is_drawn_again(run_command: Any) -> None:
    ended = run_command("trace", "flow", MARKED, *QUICK, "--out", "run")
    assert ended.exit_code == 0, ended.stderr
    lines = ended.stdout.strip().splitlines()
    assert lines[0].startswith(f"{FACT.answer}: probability 0.9")
    assert lines[1].startswith("Without attention of the last token to ")
    assert " in layer " in lines[1]  # a window of one layer
    assert "layers" not in lines[1]
    assert "-0%" not in ended.stdout
    assert lines[-1] == "Page: run/page.html"
    page = Path("run/page.html").read_bytes()
    assert run_command("trace", "show", "run").exit_code == 0
    assert Path("run/page.html").read_bytes() == page


def test_json_is_for_programs_and_an_answer_may_be_long(run_command: Any) -> None:
    ended = run_command(
        "trace", "flow", MARKED, *QUICK, "--json", "--answer", "Vey Brask", "--sources", "subject,relation",
        "--attributes", "Vey,Brask", "--window", "2",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.stderr
    assert "by its first" not in ended.stderr
    said = json.loads(ended.stdout)
    assert said["window"] == 2
    assert {one["source"] for one in said["knockouts"]} == {"subject", "relation"}
    assert said["attributes"] == ["Vey", "Brask"]


def test_many_facts_go_on_and_are_averaged(run_command: Any) -> None:
    arguments = ("flow", "--facts", TOY / "toy_town.json", "--limit", "3", "--known", *QUICK)
    ended = run_command("trace", *arguments)
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout.startswith("3 facts, 0 skipped: probability 0.9")
    assert run_command("trace", *arguments).stdout == ended.stdout


def test_text_of_a_prompt_is_text_on_the_page(run_command: Any) -> None:
    ended = run_command("trace", "flow", "[<script>alert(1)</script>] lives in", *QUICK, "--out", "run")
    assert ended.exit_code == 0, ended.stderr
    assert "<script>alert(1)" not in Path("run/page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give one of PROMPT and --facts, not nothing"),
        ((MARKED, "--facts", "country_capital"), "give one of PROMPT and --facts"),
        ((MARKED, "--known"), "without --facts there is nothing for --known"),
        (("--facts", "country_capital", "--answer", "Paris"), "--subject and --answer belong to a single PROMPT"),
        ((MARKED, "--window", "9"), "a window of 9 layers is larger than the model, which has 4"),
        ((MARKED, "--window", "0"), "window must be at least 1"),
        ((MARKED, "--sources", "object"), "there is no source 'object'"),
        (("[Oda] lives in", "--start", "none", "--sources", "start token"), "there is nothing to knock out"),
        ((MARKED, "--attributes", "7"), "none of the attributes 7 is a word"),
    ],
)
def test_a_mistake_is_one_sentence(run_command: Any, arguments: tuple[str, ...], words: str) -> None:
    ended = run_command("trace", "flow", *arguments, *QUICK)
    assert ended.exit_code == 2
    assert words in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not Path("runs").exists() or not list(Path("runs").iterdir())
