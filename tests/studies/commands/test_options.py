"""Options as dataclasses: the same from flags, from a file and from Python, and each disagreement in a sentence."""

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import factscope as fs
from editing.evaluation.lm_eval import evaluate_tasks
from factscope.runs.workers import Workers
from helpers.models import TOY
from studies.circuit_inputs import TaskOptions
from studies.commands.circuit.diff import diff
from studies.commands.circuit.find import find
from studies.commands.command import config_values
from studies.commands.edit.apply import ApplyOptions, apply
from studies.commands.edit.layers import layers
from studies.commands.edit.moments import moments
from studies.commands.edit.scored.bench import bench
from studies.commands.edit.scored.evaluate import EvaluateOptions, evaluate
from studies.commands.edit.scored.harness import harness
from studies.commands.edit.sequence import SequenceOptions, sequence
from studies.commands.options import OneOf, fields, key, settled
from studies.commands.trace import TraceOptions, show, trace
from studies.layers import LayerConfig

COMMANDS = (trace, show, find, diff, apply, evaluate, bench, sequence, layers, moments)

PROMPT = "[Oda Voss] lives in"


def test_a_run_folder_keeps_options_that_make_the_same_run_again(run_command: Any) -> None:
    flags = ("--model", TOY, "--samples", "1", "--sites", "mlp", "--set", "noise=4")
    first = run_command("trace", PROMPT, *flags, "--out", "one", "--json")
    assert first.exit_code == 0, first.stderr
    again = run_command("trace", "--config", "one/config.yaml", "--out", "two", "--json")
    assert again.exit_code == 0, again.stderr
    one, two = json.loads(first.stdout), json.loads(again.stdout)
    assert one["total_effect"] == two["total_effect"]
    assert Path("one/config.yaml").read_bytes() == Path("two/config.yaml").read_bytes()


def test_options_that_come_to_nothing_leave_those_of_the_run(run_command: Any, tmp_path: Path) -> None:
    flags = ("--facts", TOY / "toy_town.json", "--limit", "1", "--model", TOY, "--sites", "mlp", "--out", "run")
    assert run_command("trace", *flags, "--samples", "1").exit_code == 0
    kept = (tmp_path / "run" / "config.yaml").read_text()
    refused = run_command("trace", *flags, "--samples", "2")
    assert (refused.exit_code, "other settings" in refused.stderr) == (2, True)
    assert (tmp_path / "run" / "config.yaml").read_text() == kept


def test_the_key_is_of_what_decides_the_result() -> None:
    options = TraceOptions(prompt=PROMPT)
    free: dict[str, Any] = {
        "light": True,
        "as_json": True,
        "log": "wandb",
        "device": "cpu",
        "device_map": "auto",
        "workers": 2,
        "ray": "auto",
        "shard": "1/2",
    }
    aside = dataclasses.replace(options, out=Path("x"), **free)
    assert key(aside) == key(options)
    for field in fields(TraceOptions):
        if field.name not in ("out", *free):
            value = {int: 7, bool: not field.default, tuple: ("a=1",)}.get(type(field.default), "other")
            change: dict[str, Any] = {field.name: 7 if field.name == "limit" else value}
            changed = dataclasses.replace(options, **change)
            assert key(changed) != key(options), field.name


def test_a_file_counts_by_what_it_holds(tmp_path: Path) -> None:
    file, moved = tmp_path / "facts.json", tmp_path / "moved.json"
    file.write_text("[1]")
    first = key(TraceOptions(facts=str(file)))
    file.rename(moved)
    assert key(TraceOptions(facts=str(moved))) == first
    moved.write_text("[2]")
    assert key(TraceOptions(facts=str(moved))) != first


def test_yaml_json_and_flags_say_the_same(tmp_path: Path) -> None:
    written = {"command": "trace", "prompt": PROMPT, "samples": 3, "sites": "mlp", "set": {"noise": 4}, "known": True}
    (tmp_path / "a.json").write_text(json.dumps(written))
    (tmp_path / "a.yaml").write_text(
        f"command: trace\nprompt: '{PROMPT}'\nsamples: 3\nsites: mlp\nset: [noise=4]\nknown: true\n"
    )
    values = [config_values(tmp_path / name, "trace", TraceOptions) for name in ("a.json", "a.yaml")]
    assert values[0] == values[1]
    assert values[0]["settings"] == ["noise=4"]
    given: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in values[0].items()}
    made = TraceOptions(**given)
    assert {"samples": 3, "set": ["noise=4"], "known": True}.items() <= settled(made).items()


def test_none_is_a_word_in_a_config_file_and_null_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("facts: country_capital\nunrelated: none\ntasks: null\n")
    values = config_values(tmp_path / "a.yaml", "edit sequence", SequenceOptions)
    assert values == {"facts": "country_capital", "unrelated": "none"}


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        ("sampels: 3", (), "no option 'sampels'; did you mean samples?"),
        ("command: edit apply\ntarget: Rome", (), "a config of `edit apply`, not of `trace`"),
        ("samples: many", (), "samples cannot be 'many', which is not a whole number"),
        ("samples: 2.5", (), "samples cannot be 2.5, which is not a whole number"),
        ("known: 1", (), "which is not true or false"),
        ("metric: speed", (), "no metric 'speed'"),
        ("samples: 3", ("--samples", "4"), "--samples is 4 on the command line and 3 in"),
        ("- samples", (), "holds no options"),
        ("samples: [", (), "neither YAML nor JSON"),
        ("start: no", (), "start cannot be False, which is not a text"),
    ],
)
def test_a_bad_config_is_one_sentence_and_exit_code_2(
    run_command: Any, tmp_path: Path, text: str, flags: tuple[str, ...], words: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    done = run_command("trace", PROMPT, "--config", "c.yaml", *flags)
    assert done.exit_code == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert run_command("trace", PROMPT, "--config", "nowhere.yaml").stderr.count("cannot be read") == 1


def test_the_same_value_in_file_and_flag_is_no_disagreement(run_command: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("metric: log-probability\nsites: brain\n")
    done = run_command("trace", PROMPT, "--config", "c.yaml", "--metric", "LOG_PROBABILITY")
    assert "no site 'brain'" in done.stderr


def test_values_are_known_however_they_are_spelt() -> None:
    known = OneOf("method", ("r_rome", "ft_m"))
    assert [known(text) for text in ("r-rome", "R_Rome", " FT-M ")] == ["r_rome", "r_rome", "ft_m"]


def test_an_old_name_of_a_flag_works_and_says_the_new_one(run_command: Any) -> None:
    done = run_command("circuit", "find", "--facts", TOY / "nowhere.json", "--examples", "3", "--model", TOY)
    assert "Note: --examples is now --limit." in done.stderr
    done = run_command("circuit", "find", "--facts", "x", "--examples", "3", "--limit", "4")
    assert (done.exit_code, "the two differ" in done.stderr) == (2, True)


def test_the_default_noise_is_romes() -> None:
    from tracing.causal import Config

    assert TraceOptions().seed == Config().seed == 0
    assert Config().stream == 1


def test_one_default_for_one_name() -> None:
    """Of seed, device, start and the like, over all commands; lm-eval's own seed stays."""
    every = {each.name: each.options for each in COMMANDS if not each.name.endswith("harness")}
    for name in ("seed", "device", "start", "light", "out", "moments", "tokens"):
        found = {
            field.default
            for options in every.values()
            for field in fields(options)
            if field.name == name and not (name == "start" and options is EvaluateOptions)
        }
        assert len(found) == 1, (name, found)


def test_choices_are_completed() -> None:
    for field in fields(ApplyOptions):
        if field.name in ("model", "method", "facts", "dtype", "restrain"):
            assert field.look.autocompletion("") != [], field.name
    method = next(field for field in fields(ApplyOptions) if field.name == "method")
    assert method.look.autocompletion("alp") == ["alphaedit"]


def test_a_method_of_another_package_is_a_value_like_ours(monkeypatch: Any) -> None:
    from importlib.metadata import EntryPoint

    theirs = EntryPoint("my-method", "elsewhere:METHOD", "factscope.methods")
    monkeypatch.setattr("factscope.catalogue.entry_points", lambda group: [theirs] if "methods" in group else [])
    method = next(field for field in fields(ApplyOptions) if field.name == "method")
    assert method.look.parser("MY-Method") == "my_method"  # as the catalogue spells it
    assert "my_method" in method.look.autocompletion("my")


@pytest.mark.parametrize(
    ("command", "calls"),
    [
        (find, (fs.find_circuit, TaskOptions)),
        (diff, (fs.DiffConfig,)),
        (sequence, (fs.SequenceConfig,)),
        (apply, (fs.edit,)),
        (layers, (LayerConfig,)),
        (moments, (fs.MomentsConfig,)),
        (trace, (fs.TraceConfig,)),
        (harness, (evaluate_tasks,)),
    ],
)
def test_what_is_not_said_means_the_same_in_python_and_at_a_terminal(command: Any, calls: tuple[Any, ...]) -> None:
    """An option that is left open (None, or empty) is decided by the call; any other has the call's own default."""
    said = {field.name: field.default for field in dataclasses.fields(command.options)}
    for call in calls:
        usual = {name: each.default for name, each in inspect.signature(call).parameters.items()}
        usual = {name: getattr(value, "name", value) for name, value in usual.items()}  # a circuit method by its name
        usual |= {name: value.count for name, value in usual.items() if isinstance(value, Workers)}
        both = {name for name in said.keys() & usual.keys() if said[name] not in (None, ()) and name != "moments"}
        both -= {name for name in both if dataclasses.MISSING is said[name] or usual[name] is inspect.Parameter.empty}
        assert both, call
        assert {name: said[name] for name in both} == {name: usual[name] for name in both}, call
