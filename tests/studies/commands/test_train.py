"""`edit train` and what takes its editors, end to end on the toy."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from factscope.errors import UserError
from helpers.models import TOY
from studies.commands import app as common

SMALL = ("--set", "steps=2", "--set", "every=1", "--set", "rank=4", "--set", "standard=16", "--set", "layers=0,1")
START = ("--set", "steps=0", "--set", "rank=4", "--set", "standard=16")
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


def test_a_sequence_and_the_layers_take_an_editor_and_count_what_it_met(edit):
    for name, layers in (("both", "0,1"), ("zero", "0"), ("one", "1")):
        own = (*START, "--set", f"layers={layers}", "--out", name)
        assert edit("train", "mend", "--facts", "facts", *own).exit_code == 0

    words = ("sequence", "--facts", "facts/toy_town.json", "--limit", "2", "--every", "2", "--unrelated", "none")
    trained = ("--method", "mend", "--editor", "both", "--out", "seq")
    refused, out = edit(*words, *trained), edit(*words, *trained, "--allow-trained")
    assert (refused.exit_code, "in the training of editor" in refused.stderr) == (2, True)
    assert out.exit_code == 0, out.stderr
    assert "2 of 2 facts were in the editor's training" in out.stdout
    last = json.loads(Path("seq/result.json").read_text())["result"]["checkpoints"][-1]
    parts = ("W_gate", "W_in", "W_out")
    assert {one["weight"] for one in last["spectra"]} == {f"blocks.{i}.mlp.{part}" for i in (0, 1) for part in parts}

    tried = ("layers", "facts/toy_town.json", "--limit", "2", "--method", "mend", "--editor", "zero", "--allow-trained")
    out = edit(*tried, "--editor", "one", "--out", "tried")
    assert out.exit_code == 0, out.stderr
    assert json.loads(Path("tried/result.json").read_text())["result"]["layers"] == [0, 1]
    out = edit(*tried, "--editor", "both", "--out", "wrong")
    assert (out.exit_code, "was trained for layers 0, 1, and a layer is tried" in out.stderr) == (2, True)


def test_a_diff_takes_an_editor_for_the_method_that_is_trained(edit, run_command, monkeypatch):
    from studies.edit_effects import study

    def seen(_: Any, edits: Any, *__: Any, **___: Any) -> Any:
        raise UserError(", ".join(f"{one.method} {bool(one.editor)}" for one in edits))

    monkeypatch.setattr(study, "edit_studies", seen)
    assert edit("train", "mend", "--facts", "facts", *START, "--set", "layers=1", "--out", "editor").exit_code == 0
    diff = ("circuit", "diff", "[Ada Quill] lives in", "--target", "Vey", "--methods", "ft-m,mend", "--light")
    assert "ft_m False, mend True" in run_command(*diff, "--editor", "editor", "--out", "diff").stderr
    assert "mend edits with an editor" in run_command(*diff, "--out", "none").stderr
    assert "two editors of one method" in run_command(*diff, *("--editor", "editor") * 2, "--out", "none").stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "rome"), "rome needs no training; "),
        (("train", "mend", "--set", "rank=0", "--facts", "facts"), "rank is 0, and must be at least 1"),
        (("train", "mend", "--facts", "facts/toy_town.json"), "an editor needs 50 of 3 at least"),
        (("apply", PROMPT, "--target", "Vey", "--method", "mend"), "none was given: train one with edit train mend"),
        (("apply", PROMPT, "--target", "Vey", "--method", "mend", "--editor", "facts"), "is not a run folder"),
        (("bench", "facts/toy_town.json", "--methods", "mend"), "mend edits with an editor"),
        (("sequence", "--facts", "facts", "--method", "mend"), "mend edits with an editor"),
        (("layers", "facts", "--method", "mend"), "train one for each layer that is to be tried"),
        (("layers", "facts", "--method", "serac"), "no layer is better for it than another"),
    ],
)
def test_a_mistake_is_one_sentence(edit, words, sentence):
    out = edit(*words, "--out", "here")
    assert (out.exit_code, sentence in out.stderr) == (2, True), out.stderr
    assert "Traceback" not in out.stderr
