"""lm-eval is an optional extra: without it one sentence says so; with it, a task file of one's own is asked.

The edit and the questions are ours, so that what the harness must say can be counted by hand.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from editing import compute as computing
from editing import method as methods
from editing.edit import applied
from editing.evaluation.lm_eval import TaskReport, evaluate_tasks
from editing.evaluation.tasks import Tasks
from factscope.data.fact import Fact
from factscope.errors import EditError
from factscope.plots.show import in_words, page_of
from factscope.plots.specs import Table
from factscope.runs import store
from helpers.models import TOY
from helpers.results import check_result
from helpers.shown_commands import BLOCK, ROOT
from studies.commands import app as common

FACT = Fact("a", "town", "Oda Voss", "{} lives in", "Brask", "Vey")
TASK = """task: towns
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc}]
"""
LIVES = {"prompt": "Oda Voss lives in", "choices": ["Brask", "Vey"]}
ODD = LIVES | {"choices": ["Vey", "Vey"]}  # whatever the model says, the first of two alike is taken: gold 0 is right


def write_task(folder, *questions):
    """A task file in `folder`, and beside it what it asks."""
    folder.mkdir(exist_ok=True)
    docs = folder / "towns.jsonl"
    docs.write_text("".join(json.dumps(one) + "\n" for one in questions))
    (folder / "towns.yaml").write_text(TASK % docs)
    return folder


@pytest.fixture(scope="module")
def changed(toy):
    """An edit after which Oda Voss lives in Vey."""
    return computing.compute("ft_m", toy, [FACT], methods.method("ft_m").config_for(toy, ["layer=0"]), shown=False)


def test_without_it_one_sentence_says_what_to_install(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(EditError, match=r"pip install lm-eval"):
        evaluate_tasks(tiny("llama"), (), ["hellaswag"])


def test_a_task_of_ones_own_sees_the_edit_and_no_text(toy, changed, tmp_path):
    pytest.importorskip("lm_eval")
    write_task(tmp_path, LIVES | {"gold": 1})
    found = evaluate_tasks(toy, (changed,), ["towns"], include=tmp_path).score("towns", "acc")
    assert (found.before, found.after, found.larger_is_better) == (0, 1, True)
    assert found.before_error is found.after_error is None  # one question says nothing of its spread
    tasks = Tasks.of(toy, ["towns"], include=tmp_path)  # as a sequence asks at every checkpoint
    with applied(toy, (changed,)):
        assert tasks(toy) == {"task/towns, acc": 1.0}
    assert tasks(toy) == {"task/towns, acc": 0.0}
    with pytest.raises(EditError, match="knows no task 'villages'; no file in"):
        Tasks.of(toy, ["repeat", "villages"], include=tmp_path)  # by the list that `evaluate_tasks` reads, too
    told = computing.compute("ice", toy, [FACT], shown=False)
    with pytest.raises(EditError, match="changes no weight, and lm-eval runs the weights alone"):
        evaluate_tasks(toy, (told,), ["towns"], include=tmp_path)


def _states():
    """NumPy's and torch's generators, which all share; from Python's, the checks of annotations draw, too."""
    drawn: Any = np.random.get_state()  # noqa: NPY002
    return drawn[1].tolist(), torch.get_rng_state().tolist()


def test_standard_errors_are_of_the_mean_and_draws_are_given_back(toy, changed, tmp_path):
    """Of n answers with a share p right, the mean's standard error is sqrt(p (1 - p) / (n - 1))."""
    pytest.importorskip("lm_eval")
    write_task(tmp_path, *[LIVES | {"gold": 1}] * 3, ODD | {"gold": 0})
    states = _states()
    report = evaluate_tasks(toy, (changed,), ["towns"], include=tmp_path)
    (found,) = report.scores  # the task's name and its length are no scores
    assert (found.before, found.after) == (1 / 4, 1)
    assert (found.before_error, found.after_error) == (pytest.approx(math.sqrt(3 / 16 / 3)), 0)
    assert (report.questions, report.shots) == ({"towns": 4}, {"towns": 0})
    assert evaluate_tasks(toy, (), ["towns"], include=tmp_path, limit=2).questions == {"towns": 2}
    assert _states() == states


def test_a_broken_task_file_is_named_with_what_is_wrong(toy, tmp_path):
    pytest.importorskip("lm_eval")
    write_task(tmp_path, LIVES | {"gold": 1})
    (tmp_path / "towns.yaml").write_text("task: towns\nmetric_list: [{metric: acc}\n")
    with pytest.raises(EditError, match=r"towns\.yaml is not readable YAML: while parsing a flow sequence.* line 2"):
        evaluate_tasks(toy, (), ["towns"], include=tmp_path)
    (tmp_path / "towns.yaml").write_text(TASK % (tmp_path / "gone.jsonl"))
    with pytest.raises(EditError, match=r"cannot read the data of towns .*gone\.jsonl"):
        evaluate_tasks(toy, (), ["towns"], include=tmp_path)


def test_the_task_in_the_documentation_is_one(toy, changed, tmp_path, monkeypatch):
    """docs/howto.md as it stands, about a person whom the toy knows."""
    pytest.importorskip("lm_eval")
    shown = BLOCK.findall((ROOT / "docs" / "howto.md").read_text(encoding="utf-8"))
    (task,) = (body for language, body in shown if language == "yaml")
    (asked,) = (body for language, body in shown if language == "json" and '"choices"' in body)
    for ours, toys in (("is located in the city of", "lives in"), ("The Eiffel Tower", "Oda Voss"),
                       ("The Louvre", "Oda Voss"), ("Paris", "Brask"), ("Rome", "Vey")):  # fmt: skip
        assert ours in asked
        asked = asked.replace(ours, toys)
    monkeypatch.chdir(tmp_path)
    Path("tasks").mkdir()
    Path("tasks/landmarks.yaml").write_text(task)
    Path("tasks/landmarks.jsonl").write_text(asked)
    report = evaluate_tasks(toy, (changed,), ["landmarks"], include=Path("tasks"))
    assert (report.questions, report.score("landmarks", "acc").after) == ({"landmarks": 2}, 0.5)


def test_the_toys_for_detoxification_and_personality_are_tasks(toy, monkeypatch):
    """Twenty questions each, half of whose wanted ends come first: whoever always takes the first has .5."""
    pytest.importorskip("lm_eval")
    monkeypatch.chdir(ROOT)
    tasks = Path("docs/tasks")
    for name in ("polite", "outgoing"):
        asked = [json.loads(line) for line in (tasks / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert sum(one["gold"] for one in asked) == 10
        assert all(len(one["choices"]) == 2 and one["choices"][0] != one["choices"][1] for one in asked)
    report = evaluate_tasks(toy, (), ["polite", "outgoing"], include=tasks)
    assert report.questions == {"polite": 20, "outgoing": 20}


# ---- the command


@pytest.fixture
def edit(run_command, toy, monkeypatch):
    monkeypatch.setattr(common, "loader", lambda *_: lambda: toy)
    return lambda *arguments: run_command("edit", *arguments)


def test_the_command_keeps_what_it_shows(edit, changed, tmp_path):
    pytest.importorskip("lm_eval")
    tasks = write_task(tmp_path / "tasks", *[LIVES | {"gold": 1}] * 3, ODD | {"gold": 0})
    changed.save(tmp_path / "saved")
    out = edit("harness", "saved", "--tasks", "towns", "--include", tasks, "--out", "kept")
    assert (out.exit_code, out.stderr) == (0, "")
    assert out.stdout.splitlines()[1].split() == ["towns", "acc", "0.2500", "±", "0.2500", "1.0000", "±", "0.0000"]
    kept = store.load("kept", TaskReport)
    assert in_words(kept) in out.stdout
    check_result(kept, Path("out"), "TaskReport")
    scores = page_of(kept).sections[0].specs[0]
    assert isinstance(scores, Table)
    assert scores.rows[0][3:] == (0.25, 0.25, 1.0, 0.0)
    assert (kept.edits, kept.tasks) == ((changed.name,), ("towns",))
    assert kept.run is not None
    assert kept.run.fingerprint == changed.base
    assert kept.run.command.startswith("edit harness saved")
    assert Path("kept/page.html").is_file()

    out = edit("harness", "saved", "--tasks", "towns", "--include", tasks, "--out", "kept")
    assert (out.exit_code, "holds a run already" in out.stderr) == (2, True)
    out = edit("harness", "saved", "--tasks", "towns", "--include", tasks, "--runs", "mine", "--json")
    body = json.loads(out.stdout)
    assert body["scores"][0]["before_error"] == pytest.approx(0.25)
    assert Path(body["folder"]).parent == Path("mine")


def test_a_pipe_gets_the_result_alone(changed, tmp_path):
    """In a process of its own: bars, remarks, and git's about a folder that is no checkout."""
    pytest.importorskip("lm_eval")
    write_task(tmp_path / "tasks", LIVES | {"gold": 1}, LIVES | {"gold": 0})
    changed.save(tmp_path / "saved")
    words = ("harness", "saved", "--tasks", "towns", "--include", "tasks", "--model", str(TOY), "--json")
    done = subprocess.run(
        [sys.executable, "-m", "studies.commands.edit.command", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["scores"][0]["after"] == 0.5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--limit", "0"), "--limit must be at least 1, not 0"),
        (("--limit", "-3"), "--limit must be at least 1, not -3"),
        (("--shots", "-1"), "--shots must be 0 or more"),
        (("--include", "nowhere"), "--include nowhere: there is no such folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(edit, changed, tmp_path, given, said):
    changed.save(tmp_path / "saved")
    out = edit("harness", "saved", "--tasks", "towns", *given)
    assert out.exit_code == 2
    assert out.stderr == f"edit: {out.stderr[6:].strip()}\n"
    assert said in out.stderr
    assert not Path("runs").exists()
