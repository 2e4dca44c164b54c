"""Mistakes that a fresh reader made: each is one sentence and exit code 2, and nothing that was there is changed."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import factscope as fs
from factscope.errors import PromptError, StoreError
from factscope.model.prompts import make_prompt
from factscope.plots.labels import counted
from factscope.runs import store
from studies.commands import app
from studies.commands.command import run_folder
from studies.commands.edit.scored.bench import BenchOptions
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
    suite = Path(shutil.copy(suite, tmp_path / "copy.json"))
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("samples: 1\nsamples: 2", "gives samples twice"),
        ('{"samples": 1, "samples": 2}', "gives samples twice"),
        ("set: {noise: 4, noise: 5}", "gives noise twice"),
        ("lens-norm: 1\nnorm: per-state", "no option"),
        ("prompt: [Oda Voss] lives in", 'put quotes around it: prompt: "[Oda Voss] lives in"'),
        ("prompt: [Oda Voss]", "is a list, because of its [brackets]"),
        ("sites: [mlp, brain]", "no site 'brain'"),
        ("facts: ''", "facts is empty"),
        ("out: ''", "out is empty"),
    ],
)
def test_a_config_that_says_something_else_than_was_meant(refused: Callable[..., str], text: str, words: str) -> None:
    Path("c.yaml").write_text(text)
    prompt = () if text.startswith("prompt") else (PROMPT,)
    assert words in refused("trace", *prompt, "--config", "c.yaml")


def test_a_config_that_is_no_file(refused: Callable[..., str]) -> None:
    Path("run").mkdir()
    assert "run is a folder, and it holds no config.yaml" in refused("trace", "--config", "run")
    Path("run/config.yaml").touch()
    assert "its options are in run/config.yaml" in refused("trace", "--config", "run")
    assert "no.yaml cannot be read: there is no such file" in refused("trace", "--config", "no.yaml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("trace", ""), "PROMPT is empty"),
        (("trace", "--facts", ""), "--facts is empty"),
        (("trace", PROMPT, "--model", ""), "--model is empty"),
        (("trace", PROMPT, "--answer", " "), "--answer is empty"),
        (("trace", PROMPT, "--out", ""), "--out is empty"),
        (("edit", "apply", PROMPT, "--target", ""), "--target is empty"),
        (("edit", "bench", "", "--methods", "ice"), "SUITE is empty"),
        (("circuit", "show", ""), "RUN is empty"),
        (("trace", PROMPT, "--samples", "-3"), "--samples must be at least 1, not -3"),
        (("trace", PROMPT, "--set", "noise=nan"), "not a number"),
        (("circuit", "find", PROMPT, "--threshold", "nan"), "--threshold cannot be 'nan', which is not a number"),
        (("circuit", "find", PROMPT, "--threshold", "-1"), "--threshold must be at least 0"),
        (("circuit", "find", PROMPT, "--edges", "0"), "--edges must be at least 1"),
        (("circuit", "find", PROMPT, "--certify", "nan"), "--certify cannot be"),
        (("edit", "sequence", "--facts", "country_capital", "--every", "0"), "--every must be at least 1"),
        (("edit", "bench", "f", "--methods", "rome,ft-m,rome"), "--methods names rome twice"),
        (("trace", PROMPT, "--sites", "mlp, mlp"), "--sites names mlp twice"),
        (("trace", PROMPT, "--samples", "x"), "--samples cannot be 'x', which is not a whole number"),
        (("edit", "bench", "--methods", "rome"), "missing argument 'SUITE'; see edit bench --help"),
        (("trace", PROMPT, "--smaples", "2"), "--samples"),
        (("trace", "shwo", "runs/e1"), "did you mean trace show?"),
        (("trace", PROMPT, "runs/e1"), "unexpected extra argument"),
        (("trace", "--samples", "2"), "give one of PROMPT and --facts"),
        (("trace", "[] lives in"), "are empty"),
        (("circuit", "find", "[[Oda Voss]] lives in"), "do not match"),
        (("circuit", "diff", PROMPT, "--target", "Vey", "--subject", "Voss"), "--subject names"),
        (("edit", "apply", "[] lives in", "--target", "Vey"), "are empty"),
    ],
)
def test_a_command_line_that_cannot_be_meant(refused: Callable[..., str], arguments: Any, words: str) -> None:
    assert words in refused(*arguments)


def test_the_working_directory_can_be_named(toy_command: Any) -> None:
    ended = toy_command("trace", PROMPT, "--samples", "1", "--sites", "mlp", "--out", ".")
    assert ended.exit_code == 0, ended.stderr
    assert Path("result.json").is_file()


def test_a_call_refuses_what_the_command_line_refuses() -> None:
    for method in (fs.EAP, fs.EAPIG, fs.Exact):
        for bad in ({"edges": -1}, {"edges": 0}, {"threshold": float("nan")}, {"threshold": -1.0}):
            with pytest.raises(fs.UserError, match="at least"):
                method(**bad)
    for threshold in (float("nan"), -1.0):
        with pytest.raises(fs.UserError, match="threshold"):
            fs.ACDC(threshold=threshold)
    with pytest.raises(fs.UserError, match="samples must be at least 1, not -3"):
        fs.TraceConfig(samples=-3)
    with pytest.raises(fs.UserError, match="source of facts is empty"):
        fs.load_facts("")


def test_a_folder_of_another_kind_is_named_in_the_readers_words(refused: Callable[..., str]) -> None:
    Path("e1").mkdir()
    header = {"kind": "Edit", "schema": store.SCHEMA, "tensors_sha256": "", "result": {}}
    Path("e1/result.json").write_text(json.dumps(header))
    said = refused("circuit", "export", "e1")
    assert "e1 holds an edit, not a circuit; trace show e1 draws it" in said


def test_a_foil_is_not_the_models_own_answer(toy: Any) -> None:
    prompt = make_prompt(toy, PROMPT, foil="Brask")
    for metric in ("probability", "logit_difference"):
        with pytest.raises(fs.UserError, match="begin with the same token"):
            fs.trace(toy, prompt, fs.TraceConfig(samples=1, metric=metric, sites=("mlp",)))


def test_the_models_own_answer_is_told(toy_command: Any) -> None:
    quick = ("--samples", "1", "--sites", "mlp")
    assert "the answer is taken to be the model's own, ' Brask'" in toy_command("trace", PROMPT, *quick).stderr
    assert "model's own" not in toy_command("trace", PROMPT, *quick, "--answer", "Brask").stderr


def test_a_file_that_is_no_circuit_is_named(refused: Callable[..., str]) -> None:
    Path("wrong.txt").write_text("nothing")
    assert "wrong.txt" in refused("circuit", "import", "wrong.txt")


def test_workers_that_cannot_be_had_are_told_before_any_work(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = ("trace", "--facts", "country_capital")
    assert "--workers must be at least 1" in refused(*many, "--workers", "0")
    assert "--workers, --ray and --shard belong to --facts" in refused("trace", PROMPT, "--workers", "2")
    assert "there is no Ray cluster at 127.0.0.1:9" in refused(*many, "--ray", "127.0.0.1:9")
    find = ("circuit", "find", PROMPT, "--workers", "2")
    assert "eap_ig scores all edges in a few passes, which nobody need share" in refused(*find)
    assert "each decision of acdc rests on those before it" in refused(*find, "--method", "acdc")
    assert "there is no Ray cluster at 127.0.0.1:9" in refused(*find, "--method", "exact", "--ray", "127.0.0.1:9")
    for table in (("circuit", "table"), ("circuit", "mib"), ("edit", "hops"), ("edit", "survey", "cases.json")):
        assert "there is no Ray cluster at 127.0.0.1:9" in refused(*table, "--ray", "127.0.0.1:9")
    assert "'here' is no address of a cluster" in refused("trace", "flow", *many[1:], "--ray", "here")
    assert "there is no shard 3 of 2: they are 1 to 2" in refused(*many, "--shard", "3/2")
    assert "write the part and how many there are, as 2/4" in refused(*many, "--shard", "two")
    monkeypatch.setitem(sys.modules, "ray", None)
    said = refused("edit", "layers", "country_capital", "--workers", "2")
    assert "several workers need Ray, which is not installed: pip install ray, or" in said


def test_a_model_that_is_not_known_is_said_plainly(run_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = run_command("trace", PROMPT, "--model", "smolm2").stderr
    assert "Hugging Face cannot be reached; did you mean smollm2?" in said
    assert "HF_HUB" not in said


def test_one_is_not_many() -> None:
    assert [counted(number, "fact") for number in (0, 1, 2)] == ["0 facts", "1 fact", "2 facts"]
