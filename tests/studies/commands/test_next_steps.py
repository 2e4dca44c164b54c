"""What may come next is a command line that works as it stands, and only a terminal shows it."""

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import factscope as fs
from factscope.model.source.registry import DEFAULT
from helpers.models import TOY
from helpers.shown_commands import parse
from studies.commands import app
from studies.commands.next_steps import STEPS, next_step
from studies.saved import KINDS
from studies.trace import trace_study

PAGE = Path("runs/a folder/page.html")


def named(kind: str, **fields: Any) -> Any:
    """A value whose class has that name, with no more than a step looks at."""
    return type(kind, (SimpleNamespace,), {})(**fields)


@pytest.fixture(scope="module")
def study(toy: Any) -> Any:
    prompt = fs.prompt(toy, "[Oda Voss] lives in", answer="Brask")
    return trace_study(toy, prompt, fs.TraceConfig(samples=1, sites=("mlp",)), shown=False)


def _report(edits: int, order: str = "single", name: str = "rome") -> Any:
    run = SimpleNamespace(model=DEFAULT, source="a wheel")
    protocol = SimpleNamespace(order=order)
    return SimpleNamespace(edits=("a",) * edits, methods=(name,), protocol=protocol, run=run)


def test_each_step_is_a_command_that_its_program_takes(study: Any) -> None:
    results = [named(kind, report=_report(1)) for kind in STEPS if kind not in ("TraceStudy", "FlowResult")]
    flow = named("FlowResult", prompt=study.trace.prompt, run=study.trace.run)
    assert next_step(flow, PAGE) == next_step(study, PAGE)
    for result in (study, flow, *results):
        line = next_step(result, PAGE)
        assert line is not None
        parse(shlex.split(line))
    assert set(STEPS) <= set(KINDS)


def test_a_step_names_the_run_the_subject_and_a_model_that_is_not_the_usual_one(study: Any) -> None:
    words = shlex.split(str(next_step(study, PAGE)))
    assert words[:5] == ["circuit", "find", "[Oda Voss] lives in", "--answer", "Brask"]
    assert words[-2:] == ["--model", str(TOY)]
    assert next_step(named("EditScores", report=_report(1)), PAGE) == "circuit diff --edit 'runs/a folder'"


def test_where_nothing_is_usual_nothing_is_said() -> None:
    assert next_step(named("EditScores", report=_report(2)), PAGE) is None
    assert next_step(named("EditScores", report=_report(1, "sequence")), PAGE) is None
    for name in ("ice", "serac", "memoir", "a method of somebody's"):  # circuit diff refuses them
        assert next_step(named("EditScores", report=_report(1, name=name)), PAGE) is None
    assert next_step(named("EditScores", report=_report(1, name="grace")), PAGE) is not None
    assert next_step(named("Bench"), PAGE) is None


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_alone_shows_it(study: Any, terminal: bool, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    for as_json in (False, True):
        app.tell_result(study, PAGE, SimpleNamespace(as_json=as_json, log=None))
    assert ("\nNext: circuit find " in capsys.readouterr().out) is terminal
