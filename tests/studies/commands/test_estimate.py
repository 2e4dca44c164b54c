"""`factscope estimate` says what fits, how long it takes at least, and with which setting the rest would fit."""

import json
import os
from typing import Any

import pytest

SHAPE = "64,2,4,2,128,60000"


def test_what_fits_and_what_does_not_is_told_with_the_setting_that_would(run_command: Any) -> None:
    done = run_command("factscope", "estimate", SHAPE, "--work", "load", "--flops", "1e9", "--memory", "1")
    assert done.exit_code == 0
    head, row = done.stdout.splitlines()
    assert head.startswith("LlamaForCausalLM: 0.00775 billion weights in float32, 2 layers of 64, 4 heads")
    assert row.startswith("load")
    assert row.endswith("s or more")
    said = json.loads(run_command("factscope", "estimate", SHAPE, "--work", "load", "--json").stdout)
    most = said["costs"][0]["bytes_most"]
    tight = str((most - said["model"]["parameters"]) / 1e9)  # half of the weights' bytes less would fit
    *_, remedy = run_command("factscope", "estimate", SHAPE, "--work", "load", "--memory", tight).stdout.splitlines()
    assert remedy.startswith("load needs ")
    assert "--dtype bfloat16 would do" in remedy
    none = run_command("factscope", "estimate", SHAPE, "--work", "load", "--memory", "0.001").stdout
    assert "it takes a device with" in none


def test_a_speed_that_was_measured_while_others_worked_is_told(
    run_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where it is given, not on a machine at rest, and not where the system does not count."""
    line = ("factscope", "estimate", SHAPE, "--work", "load", "--memory", "1")
    for load, given, told in ((8.0, (), True), (8.0, ("--flops", "1e9"), False), (0.0, (), False)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load * os.cpu_count(), 0.0, 0.0))
        assert ("8.0 processes for each core" in run_command(*line, *given).stdout) == told
    monkeypatch.delattr("os.getloadavg")
    assert "each core" not in run_command(*line).stdout


def test_mistakes_are_sentences(run_command: Any) -> None:
    for line, sentence in (
        (("1,2,3",), "a shape is six numbers"),
        ((SHAPE, "--work", "bench"), "'bench' is not counted; choose among load, trace"),
        ((SHAPE, "--memory", "0"), "--memory must be above 0"),
        ((SHAPE, "--device", "abacus"), "there is no device 'abacus'; choose cpu or cuda"),
    ):
        done = run_command("factscope", "estimate", *line)
        assert done.exit_code == 2
        assert sentence in " ".join(done.stderr.split())
