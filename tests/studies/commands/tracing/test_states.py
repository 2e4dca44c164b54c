"""`trace patchscope`, `trace relation` and `trace lens` as a person uses them: lines, a page, and clear mistakes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from factscope.data.load import load_facts
from helpers.models import TOY
from tracing.states import tuned_lens
from tracing.states.tuned_lens import TunedConfig

ON_TOY = ("--model", str(TOY), "--device", "cpu")
FACT = load_facts(TOY / "toy_town.json")[0]
MARKED = FACT.template.replace("{}", f"[{FACT.subject}]")


def test_a_state_is_read_by_another_prompt_and_drawn_again(run_command: Any) -> None:
    target = ("--target", "[Oda] lives in", "--words", "2", "--others", "Oda Voss")
    ended = run_command("trace", "patchscope", MARKED, *target, *ON_TOY, "--out", "run")
    assert ended.exit_code == 0, ended.stderr
    lines = ended.stdout.strip().splitlines()
    assert lines[0].startswith("State of the subject's last token")
    assert lines[-1] == "Page: run/page.html"
    page = Path("run/page.html").read_bytes()
    assert run_command("trace", "show", "run").exit_code == 0
    assert Path("run/page.html").read_bytes() == page
    said = json.loads(run_command("trace", "patchscope", MARKED, *target, *ON_TOY, "--json").stdout)
    assert said["others"] == ["Oda Voss"]
    assert len(said["texts"]) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give a PROMPT"),
        ((MARKED, "--target", "nothing"), "has no [placeholder]"),
        ((MARKED, "--into", "9"), "there is no layer 9 to write into; the model has 0 to 3"),
        ((MARKED, "--words", "0"), "tokens must be 1 or more"),
        ((MARKED, "--position", "verb"), "there is no position 'verb'"),
    ],
)
def test_a_mistake_of_a_patchscope_is_one_sentence(run_command: Any, arguments: tuple[str, ...], words: str) -> None:
    ended = run_command("trace", "patchscope", *arguments, *ON_TOY)
    assert ended.exit_code == 2
    assert words in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_a_relation_is_a_map(run_command: Any) -> None:
    facts = ("--facts", TOY / "toy_town.json", "--examples", "2", "--layer", "0", "--limit", "4")
    ended = run_command(
        "trace", "relation", *facts, "--set", "choice=3", "--set", "demonstrations=false", *ON_TOY, "--out", "run"
    )
    assert ended.exit_code == 0, ended.stderr
    lines = ended.stdout.strip().splitlines()
    assert lines[0].startswith(
        "toy_town: a map from the subject's state after layer 0 says the model's own first token"
    )
    page = Path("run/page.html").read_bytes()
    assert run_command("trace", "show", "run").exit_code == 0
    assert Path("run/page.html").read_bytes() == page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --facts"),
        (("--facts", TOY / "toy_town.json", "--layer", "3"), "choose among 0 to 2"),
        (("--facts", TOY / "toy_town.json", "--examples", "0"), "examples must be 1 or more"),
        (("--facts", TOY / "toy_town.json", "--limit", "1"), "limit must be 2 or more"),
    ],
)
def test_a_mistake_of_a_relation_is_one_sentence(run_command: Any, arguments: tuple[str, ...], words: str) -> None:
    ended = run_command("trace", "relation", *arguments, *ON_TOY)
    assert ended.exit_code == 2
    assert words in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_lenses_read_a_prompt(run_command: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(tuned_lens, "TunedConfig", partial(TunedConfig, documents=4, held_out=1, length=8, steps=1))
    few = ("--texts", "1", "--set", "held_out=1", "--set", "length=8", "--answer", FACT.answer, "--tuned")
    ended = run_command("trace", "lens", MARKED, *few, *ON_TOY, "--out", "run")
    assert ended.exit_code == 0, ended.stderr
    lines = ended.stdout.strip().splitlines()
    assert lines[0].startswith(f"logit lens: {FACT.answer} is first from ")
    assert lines[1].startswith(f"Jacobian lens: {FACT.answer} is first from ")
    assert lines[2].startswith(f"tuned lens: {FACT.answer} ")
    assert lines[5].startswith("On held-out documents the tuned lens is nearer to the model than the logit lens in ")
    page = Path("run/page.html").read_bytes()
    assert run_command("trace", "show", "run").exit_code == 0
    assert Path("run/page.html").read_bytes() == page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give a PROMPT"),
        ((MARKED, "--texts", "0"), "texts must be 1 or more"),
        ((MARKED, "--set", "length=100"), "longer than the model reads"),
    ],
)
def test_a_mistake_of_a_lens_is_one_sentence(run_command: Any, arguments: tuple[str, ...], words: str) -> None:
    ended = run_command("trace", "lens", *arguments, *ON_TOY)
    assert ended.exit_code == 2
    assert words in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
