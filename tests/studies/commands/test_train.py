"""`edit train` and what takes its editors, end to end on the toy."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.models import TOY
from studies.commands import app as common

SMALL = ("--set", "steps=2", "--set", "every=1", "--set", "rank=4", "--set", "standard=16", "--set", "layers=0,1")
PROMPT = "[Oda Voss] lives in"


@pytest.fixture
def edit(run_command: Any, toy: Any, monkeypatch: Any, tmp_path: Any) -> Any:
    """The command on the toy, with a folder of all its facts."""
    (tmp_path / "facts").mkdir()
    for name in ("town", "trade", "tongue"):
        shutil.copy(TOY / f"toy_{name}.json", tmp_path / "facts")
    monkeypatch.setattr(common, "loader", lambda *_: lambda: toy)
    return lambda command, *words: run_command("edit", command, *words, "--light")


def test_an_editor_is_trained_saved_shown_and_edits_what_it_never_met(edit, run_command):
    out = edit("train", "mend", "--facts", "facts", *SMALL, "--out", "editor", "--json")
    assert out.exit_code == 0, out.stderr
    body = json.loads(out.stdout)
    assert body["facts"] == {"trained": 60, "validation": 6, "held-out subjects": 6, "new relations": 0}
    assert "held-out subjects" in run_command("edit", "show", "editor").stdout

    asked = ("--method", "mend", "--editor", "editor", "--json")
    made = edit("apply", "[Ada Quill] lives in", "--target", "Vey", *asked, "--out", "one")
    assert made.exit_code == 0, made.stderr
    saved = json.loads(Path("one/result.json").read_text())["result"]
    assert saved["editor"].startswith(body["editor"])
    assert "0 of 1 facts were in the editor's training" in saved["notes"]

    refused = edit("apply", PROMPT, "--target", "Vey", *asked, "--out", "two")
    allowed = edit("apply", PROMPT, "--target", "Vey", *asked, "--allow-trained", "--out", "two")
    met = "facts were in the training of editor" in refused.stderr
    assert (refused.exit_code, allowed.exit_code) == (2 if met else 0, 0), allowed.stderr

    bench = ("bench", "facts/toy_town.json", "--methods", "mend,ice", "--limit", "6", "--moments", "identity")
    out = edit(*bench, "--editor", "editor")
    assert (out.exit_code, "facts were in the training of editor" in out.stderr) == (2, True)
    out = edit(*bench, "--editor", "editor", "--allow-trained")
    assert out.exit_code == 0, out.stderr
    assert "of 6 facts were in the editor's training" in out.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "rome"), "rome needs no training; "),
        (("train", "mend", "--set", "rank=0", "--facts", "facts"), "rank, batch and every must be at least 1"),
        (("train", "mend", "--facts", "facts/toy_town.json"), "an editor needs 50 of 3 at least"),
        (("apply", PROMPT, "--target", "Vey", "--method", "mend"), "none was given: train one with edit train mend"),
        (("apply", PROMPT, "--target", "Vey", "--method", "mend", "--editor", "facts"), "is not a run folder"),
        (("bench", "facts/toy_town.json", "--methods", "mend"), "mend edits with an editor"),
    ],
)
def test_a_mistake_is_one_sentence(edit, words, sentence):
    out = edit(*words, "--out", "here")
    assert (out.exit_code, sentence in out.stderr) == (2, True), out.stderr
    assert "Traceback" not in out.stderr
