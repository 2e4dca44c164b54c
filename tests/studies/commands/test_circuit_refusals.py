"""What circuits and knockouts cannot be asked: one sentence, exit code 2, before any work; and the same from Python."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import factscope as fs
from factscope.errors import ModelError, UserError
from factscope.model.hooks import hooked
from factscope.model.sites import Site
from factscope.runs import store
from helpers.models import TOY
from studies.circuit import CircuitStudy
from studies.commands import app

TEXT, UNKNOWN = "[Oda Voss] lives in", "Mira"
ASKED = (TEXT, "--swap", "Mira Drey", "--model", TOY)
CUT = (TEXT, "--method", "eap", "--edges", 20, "--model", TOY)


@pytest.fixture(scope="module")
def study(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a circuit of the toy, and beside it one whose graph is of a model with a layer less."""
    found = fs.find_circuit(toy, fs.prompt(toy, TEXT), fs.EAP(edges=20), swap="Mira Drey")
    folder = tmp_path_factory.mktemp("runs")
    store.save(CircuitStudy(found), folder / "own")
    graph = replace(found.graph, n_layers=found.graph.n_layers - 1)
    sizes = slice(len(graph.writers)), slice(len(graph.readers))
    other = replace(found, graph=graph, **{name: getattr(found, name)[sizes] for name in ("kept", "scores", "tested")},
                    examples=None, stability=None)  # fmt: skip
    store.save(CircuitStudy(other), folder / "other")
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("circuit", "find", *CUT, "--answer", UNKNOWN), "does not know this"),
        (("circuit", "find", *CUT, "--answer", UNKNOWN, "--by-role"), "does not know this"),
        (("circuit", "patch", *ASKED, "--answer", UNKNOWN), "does not know this"),
        (("circuit", "scorers", *ASKED, "--answer", UNKNOWN), "does not know this"),
        (("circuit", "find", *CUT, "--ablation", "counterfactual"), "no shipped subject can stand for"),
        (("circuit", "find", *CUT, "--by-role", "--ablation", "counterfactual"), "other subject"),
        (("circuit", "patch", TEXT, "--model", TOY), "no shipped subject can stand for"),
        (("circuit", "evaluate", "other", "--model", TOY), "these edges are of another model"),
        (("circuit", "patch", *ASKED, "--from", "a7.h9"), "no sender 'a7.h9'"),
        (("circuit", "patch", *ASKED, "--to", "a1.h9.q"), "no receiver 'a1.h9.q'"),
        (
            ("trace", "flow", TEXT, "--model", TOY, "--start", "none", "--sources", "start token"),
            "nothing to knock out",
        ),
        (("trace", "flow", TEXT, "--model", TOY, "--sources", "object"), "there is no source 'object'"),
    ],
)
def test_a_command_refuses_in_one_sentence(
    run_command: Any, toy: Any, study: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[Any, ...], words: str
) -> None:
    monkeypatch.setattr(app, "loader", lambda *_: lambda: toy)
    shutil.copytree(study / "other", "other")
    ended = run_command(*arguments, *(() if "evaluate" in arguments else ("--out", "no")))
    assert (ended.exit_code, words in ended.stderr) == (2, True), ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.strip().splitlines()[-1].startswith(f"{arguments[0]}: ")
    assert not Path("no").exists()


def _find(toy: Any, **how: Any) -> None:
    fs.find_circuit(toy, fs.prompt(toy, TEXT, answer=how.pop("answer", "Brask")), fs.EAP(edges=20), **how)


def _evaluate(toy: Any, run: Path) -> None:
    fs.evaluate_circuit(toy, store.load(run, CircuitStudy).circuit)


def _patch(toy: Any, *names: str) -> None:
    pair = fs.prompt(toy, TEXT, answer="Brask"), fs.prompt(toy, "[Mira Drey] lives in", answer="Vey")
    fs.path_patch(toy, fs.Task(pair[:1], "nll", "counterfactual", pair[1:]), *((name,) for name in names))


def _flow(toy: Any, **how: Any) -> None:
    fs.flow(toy, fs.prompt(toy, TEXT, start="none"), fs.FlowConfig(**how))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (lambda toy, _: _find(toy, answer=UNKNOWN), r"does not know this .*: .* is at rank \d+ .* where it says"),
        (lambda toy, _: fs.by_role_prompt(toy, TEXT, answer=UNKNOWN), r"is at rank \d+ .* where it says"),
        (
            lambda toy, study: fs.evaluate_circuit(toy, store.load(study / "other", CircuitStudy).circuit),
            "another model",
        ),
        (lambda toy, _: _patch(toy, "a7.h9"), "no sender 'a7.h9'"),
        (lambda toy, _: _patch(toy, "m0", "a1.h9.q"), "no receiver 'a1.h9.q'"),
        (lambda toy, _: _flow(toy, sources=("start token",)), "nothing to knock out"),
        (lambda toy, _: _flow(toy, targets=()), "a knockout of nothing"),
    ],
)
def test_python_refuses_in_one_sentence(toy: Any, study: Path, asked: Callable[[Any, Path], None], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        asked(toy, study)
    assert "\n" not in str(refused.value)


def test_heads_that_do_not_add_up_are_refused_before_a_search(
    run_command: Any, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer whose attention adds more than its heads write: from the command and from Python."""
    monkeypatch.setattr(app, "loader", lambda *_: lambda: toy)
    with hooked(toy, [(Site("attn", 0), lambda out: 1.1 * out)]):
        ended = run_command("circuit", "find", *CUT, "--swap", "Mira Drey", "--out", "no")
        with pytest.raises(ModelError, match="is not the sum of what heads and MLPs write"):
            _find(toy, swap="Mira Drey")
    assert (ended.exit_code, "edge circuits would not be exact" in ended.stderr) == (2, True), ended.stderr
    assert not Path("no").exists()
