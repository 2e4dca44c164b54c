"""What an edit beside the weights or a trained editor cannot do: one sentence, exit code 2, and nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editing.compute import compute
from editing.edit import Edit
from editing.method import method
from editing.requests import request
from helpers.editors import editor_of
from studies.commands import app as common
from studies.commands.edit.saved.stack import put_on

PROMPT = "[Oda Voss] lives in"
QUICK: dict[str, dict[str, Any]] = {"grace": {"reach": 0.15}, "melo": {"steps": 30}, "memoe": {"steps": 1}}


@pytest.fixture
def refused(run_command: Any, toy: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """refused("apply", ...) -> the one sentence of a command that ends with 2."""
    monkeypatch.setattr(common, "loader", lambda *_: lambda: toy)

    def run(*arguments: Any) -> str:
        ended = (
            run_command("edit", *arguments, "--light") if arguments[0] == "apply" else run_command("edit", *arguments)
        )
        assert ended.exit_code == 2, (arguments, ended.stdout[-300:], ended.stderr[-2000:])
        assert "Traceback" not in ended.stderr
        said: str = ended.stderr.strip().splitlines()[-1]
        assert said.startswith("edit: ")
        return said

    return run


def kept(model: Any, name: str, folder: str, target: str = "Vey") -> Edit:
    """An edit of the prompt, saved."""
    spec = method(name)
    edit = compute(spec, model, [request(model, PROMPT, target)], spec.config_for(model, QUICK[name]), shown=False)
    edit.save(folder)
    return edit


@pytest.mark.parametrize("name", ["grace", "melo"])
def test_one_key_is_asked_for_two_targets(toy: Any, refused: Any, name: str) -> None:
    one, two = kept(toy, name, "one"), kept(toy, name, "two", target="Lunholm")
    said = refused("evaluate", "one", "two", "--order", "together")
    both = [f"{edit.name} ({edit.requests[0]})" for edit in (one, two)]
    assert f"the edits {both[0]} and {both[1]} exclude each other: one key" in said
    assert "one key is asked for two targets, 'Vey' and 'Lunholm': take one of the edits out" in said


def test_an_anchor_opens_everywhere(refused: Any) -> None:
    said = refused(
        "apply", "[the] town of Vey is", "--answer", "Brask", "--target", "Vey", "--method", "memoe", "--out", "x"
    )
    assert "would open nearly everywhere: mark a longer subject" in said
    assert not Path("x").exists()


def test_what_plain_transformers_cannot_run_is_not_exported(toy: Any, refused: Any) -> None:
    kept(toy, "melo", "one")
    for how in ((), ("--peft",)):
        said = refused("export", "one", *how, "--out", "model")
        assert "stands beside the weights" in said
    assert not Path("model").exists()


@pytest.mark.parametrize("below", ["grace", "memoe"])
def test_a_method_that_runs_parts_of_prompts_does_not_build_on_a_bypass(toy: Any, refused: Any, below: str) -> None:
    kept(toy, below, "runs/one")
    put_on(Path("runs"), Path("runs/one"), ())
    said = refused("apply", "[Mira Drey] speaks", "--target", "Norrish", "--method", "ft-m", "--stack", "--out", "x")
    assert "ft_m runs parts of them: take it out first" in said


def test_an_editor_is_of_another_model_and_there_is_none(tiny: Any, refused: Any) -> None:
    editor = editor_of(tiny("llama"), "mend")
    assert editor is not None
    editor.save("editor")
    asked = ("apply", PROMPT, "--target", "Vey", "--method", "mend", "--out", "x")
    assert "and this model has" in refused(*asked, "--editor", "editor")
    assert "none was given: train one with edit train mend" in refused(*asked)
    assert "grace is not trained, so it takes no editor" in refused(
        *asked[:4], "--method", "grace", "--editor", "editor"
    )
