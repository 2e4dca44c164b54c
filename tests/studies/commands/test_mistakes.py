"""Mistakes that a fresh reader made: each is one sentence and exit code 2, and nothing that was there is changed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from factscope.errors import PromptError, StoreError
from factscope.model.prompts import make_prompt
from studies.commands import app
from studies.commands.command import run_folder
from studies.commands.edit.bench import BenchOptions
from studies.commands.trace import TraceOptions

PROMPT = "[Oda Voss] lives in"


@pytest.fixture
def toy_command(run_command: Any, toy: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`run_command` on the toy, which is not loaded again."""
    monkeypatch.setattr(app, "loader", lambda *_: lambda: toy)
    return run_command


@pytest.fixture
def refused(run_command: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """refused("trace", ...) gives the one sentence that the command ends with; no model is loaded for it."""

    def run(*arguments: Any) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(app, "loader", lambda *_: lambda: pytest.fail("a model was loaded"))
            ended = run_command(*arguments)
        assert ended.exit_code == 2, (arguments, ended.stdout, ended.stderr)
        assert ended.stdout == ""
        assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
        return str(ended.stderr)

    return run


def test_brackets_and_subject_that_disagree(toy: Any) -> None:
    for subject in ("Voss", "lives"):
        with pytest.raises(PromptError, match="mark the subject 'Oda Voss', and --subject names"):
            make_prompt(toy, PROMPT, subject=subject)
    assert make_prompt(toy, "In [1] Oda Voss lives in", subject="Oda Voss").subject == "Oda Voss"


def test_a_folder_of_other_settings_is_not_written_over(tmp_path: Path) -> None:
    suite = tmp_path / "suite.json"
    suite.write_text("[]")
    options = BenchOptions(suite=str(suite), methods="rome,ft-m", limit=2, out=tmp_path / "b1")
    own, other = tmp_path / "own", TraceOptions(prompt=PROMPT, out=options.out)
    with run_folder("edit bench", options, own) as folder:
        (folder / "result.json").write_text("{}")
    with pytest.raises(StoreError, match=r"methods: .rome,ft-m., not .rome..; choose another"):
        run_folder("edit bench", replace(options, methods="rome"), own).__enter__()
    with pytest.raises(StoreError, match=r"command: .edit bench., not .trace."):
        run_folder("trace", other, own).__enter__()
    suite = suite.rename(tmp_path / "moved.json")
    with run_folder("edit bench", replace(options, suite=str(suite), device="cpu", light=True), own):
        pass
    (folder / "config.yaml").unlink()
    with pytest.raises(StoreError, match="holds a run already"):
        run_folder("edit bench", options, own).__enter__()


def test_a_page_is_not_drawn_over_that_of_another_run(toy_command: Any, refused: Callable[..., str]) -> None:
    ended = toy_command("trace", PROMPT, "--samples", "1", "--sites", "mlp", "--out", "one")
    assert ended.exit_code == 0, ended.stderr
    Path("two").mkdir()
    Path("two/result.json").write_text("{}")
    assert "two holds a run already" in refused("trace", "show", "one", "--out", "two")
    assert toy_command("trace", "show", "one", "--out", "three").exit_code == 0
    assert toy_command("trace", "show", "one", "--out", "three").exit_code == 0


def test_an_export_writes_over_nothing(refused: Callable[..., str]) -> None:
    Path("mine").write_text("mine")
    for form in ("json", "graphml", "html"):
        assert "mine is there already" in refused("circuit", "export", "c", "--format", form, "--out", "mine")
    assert Path("mine").read_text() == "mine"
