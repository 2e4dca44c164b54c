"""What is no run, no edit, no circuit and no file of facts: every command says so in a sentence, and exits with 2."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factscope.runs import store
from studies.commands import app as common

HEADER = {"kind": "Edit", "schema": store.SCHEMA, "tensors_sha256": "0" * 64, "tensors": {}, "result": {}}
RUNS = (
    "nowhere",
    "empty",
    "a file",
    "empty json",
    "binary",
    "a list",
    "no keys",
    "no tensors",
    "lacks",
    "other",
    "deep",
)
FILES = (
    "nowhere",
    "empty",
    "empty.json",
    "binary.json",
    "half.json",
    "number.json",
    "list.json",
    "fields.json",
    "deep.json",
)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A folder of things that look like runs and files, and are none."""
    place = tmp_path / "bad"
    texts = {
        "empty json": "", "binary": "\0\1\2", "a list": "[1]", "no keys": "{}", "deep": "[" * 100_000,
        "no tensors": json.dumps(HEADER), "lacks": json.dumps(HEADER | {"kind": "CircuitStudy"}),
        "other": json.dumps(HEADER | {"kind": "Nobody", "result": {"requests": None}}),
    }  # fmt: skip
    for name, text in texts.items():
        (place / name).mkdir(parents=True)
        (place / name / store.JSON).write_text(text)
        if name in ("lacks", "other"):
            packed = store.save(store_of(), place / "whole" / name) / store.TENSORS
            (place / name / store.TENSORS).write_bytes(packed.read_bytes())
            sound = json.loads((place / "whole" / name / store.JSON).read_text())["tensors_sha256"]
            (place / name / store.JSON).write_text(text.replace("0" * 64, sound))
    (place / "empty").mkdir()
    files = {"a file": "x", "empty.json": "", "half.json": '[{"prompt": ', "number.json": "7", "list.json": "[1, 2]",
             "fields.json": '[{"a": 1}]', "deep.json": "[" * 100_000}  # fmt: skip
    for name, text in files.items():
        (place / name).write_text(text)
    (place / "binary.json").write_bytes(bytes(range(256)))
    return place


def store_of() -> Any:
    """A result with nothing in it."""
    from factscope.model.readout import Component

    return Component("m1", -1.0, 1, 0.5, 2.0, ())


@pytest.fixture
def refused(run_command: Any, toy: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """refused("edit", "list", ...) fails unless the command ends with 2 and a sentence of its own."""
    monkeypatch.setattr(common, "loader", lambda *_: lambda: toy)

    def run(*arguments: Any) -> None:
        ended = run_command(*arguments)
        said = ended.stderr.strip().splitlines()
        assert ended.exit_code == 2, (arguments, ended.stdout[-300:], ended.stderr[-2000:])
        assert said, arguments
        assert said[-1].startswith(f"{arguments[0]}: "), (arguments, said)
        assert "Traceback" not in ended.stderr

    return run


@pytest.mark.parametrize("name", RUNS)
def test_what_is_no_run(name: str, bad: Path, refused: Callable[..., None]) -> None:
    run = bad / name
    refused("trace", "show", run)
    for verb in (("show", run), ("compare", run, run), ("evaluate", run), ("export", run), ("layers", run)):
        refused("circuit", *verb)
    refused("circuit", "diff", "--edit", run)
    refused("edit", "evaluate", run)
    refused("edit", "export", run, "--out", bad / "model")
    refused("edit", "undo", run)
    refused("edit", "compare", run, run)
    refused("edit", "harness", run, "--tasks", "none")


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_of_facts(name: str, bad: Path, refused: Callable[..., None]) -> None:
    file = bad / name
    refused("trace", "--facts", file)
    refused("circuit", "find", "--facts", file)
    refused("edit", "facts", "check", file)
    refused("edit", "facts", "check", file, "--skip-bad", "--extra", "keep")
    refused("edit", "apply", "--facts", file, "--moments", "identity")
    refused("edit", "bench", file, "--methods", "ft-m")
    refused("edit", "sequence", "--facts", file, "--moments", "identity")
    refused("edit", "layers", file)


@pytest.mark.parametrize("name", [*FILES, "a file"])
def test_what_is_no_circuit_no_config_and_no_stack(name: str, bad: Path, refused: Callable[..., None]) -> None:
    file = bad / name
    refused("circuit", "import", file)
    refused("trace", "Oda Voss lives in", "--config", file)
    (bad / "stack").mkdir()
    if file.is_file():
        (bad / "stack" / "edits.json").write_bytes(file.read_bytes())
        refused("edit", "list", "--runs", bad / "stack")
        refused("edit", "undo", "--runs", bad / "stack")
