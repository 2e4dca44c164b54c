"""The commands as guests of a terminal: what is kept, colours, pipes, completion."""

import contextlib
import gc
import importlib
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from factscope.errors import ModelError
from factscope.progress import progress
from helpers.commands import COMMANDS
from helpers.models import TOY
from studies.commands import app

COLOUR = re.compile(rb"\x1b\[[0-9;]*\b(?:3[0-8]|9[0-7])[0-9;]*m")


def _cache(folder: Path, **entries: int) -> Path:
    for name, size in entries.items():
        kind, _, entry = name.partition("_")
        (folder / kind / entry).mkdir(parents=True)
        (folder / kind / entry / "weights").write_bytes(b"0" * size)
        (folder / kind / f"{entry}.lock").touch()
    return folder


def test_the_cache_is_shown_and_cleared_by_kind(run_command: Any, monkeypatch: Any, tmp_path: Path) -> None:
    kept = _cache(tmp_path / "kept", models_small=10, models_large=2_500_000, moments_some=300)
    monkeypatch.setenv("FACTSCOPE_CACHE", str(kept))
    lines = run_command("trace", "cache").stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["models", "models", "moments"]
    assert [line.split()[-1] for line in lines[:-1]] == ["large", "small", "some"]  # the large first, no lock files
    assert lines[-1] == f"2.5 MB in {kept}"
    assert json.loads(run_command("trace", "cache", "--json").stdout)["bytes"] == 2_500_310

    assert "300 B freed" in run_command("trace", "cache", "clear", "moments").stdout
    assert not (kept / "moments").exists()
    assert (kept / "models" / "small" / "weights").exists()
    run_command("trace", "cache", "clear")
    assert json.loads(run_command("trace", "cache", "--json").stdout)["entries"] == []


def test_a_kind_that_is_not_there_is_a_mistake(run_command: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("FACTSCOPE_CACHE", str(_cache(tmp_path / "kept", models_one=1)))
    done = run_command("trace", "cache", "clear", "../elsewhere")
    assert done.exit_code == 2
    assert "models, moments, contexts" in done.stderr
    assert (tmp_path / "kept" / "models" / "one").exists()


def _in_a_terminal(code: str, **environment: str) -> bytes:
    """What a terminal receives from a Python program, on both streams."""
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    settled = {**clean, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, stdin=theirs, env=settled):
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 65536):
                said += part
        except OSError:  # the other end is gone
            pass
    os.close(ours)
    return said


HELP = "import sys; sys.argv = ['edit', '--help']; from studies.commands.edit.command import main; main()"
BAR = """
from factscope.progress import progress, stage
with stage("waiting"), progress("counting", 3) as advance:
    for _ in range(3): advance(1)
print("done")
"""


def test_colours_at_a_terminal_unless_no_color() -> None:
    assert COLOUR.search(_in_a_terminal(HELP))
    assert not COLOUR.search(_in_a_terminal(HELP, NO_COLOR="1"))


def test_a_bar_is_gone_when_the_work_is_done_and_a_stage_before_it() -> None:
    said = _in_a_terminal(BAR, NO_COLOR="1")
    assert b"waiting" in said
    assert said.rindex(b"waiting") < said.index(b"counting")
    after = said[said.rindex(b"counting") :]
    assert b"\x1b[2K" in after  # its line is erased
    assert after.rstrip().endswith(b"done")


def test_a_pipe_gets_no_bar_and_no_escape(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("counting", 2) as advance:
        advance(2)
    assert capfd.readouterr() == ("", "")
    piped = subprocess.run([sys.executable, "-c", HELP], capture_output=True, check=True)
    assert b"\x1b" not in piped.stdout + piped.stderr


def _unread(*command: str) -> subprocess.CompletedProcess[bytes]:
    """A program whose standard output nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run([sys.executable, *command], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)


COMMAND = """
import typer
from studies.commands import app as common
app = typer.Typer(pretty_exceptions_enable=False)
@app.command()
def work():
    {}
common.run_app(app, "work", [])
"""
TABLE = (
    "from studies.commands.edit.scored.compare import show; from factscope.plots.specs import Table; "
    "show(Table('title', ('a', 'b'), (('x', 1),)))"
)


def _working(line: str) -> tuple[str, str]:
    return "-c", COMMAND.format(line)


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "studies.commands.edit.command", "facts", "check", str(TOY / "toy_town.json")),  # typer writes
        ("-c", HELP),  # rich, in typer's hands
        _working(TABLE),  # rich, in ours
        _working("print('x', flush=True)"),  # nobody but Python
    ],
)
def test_a_closed_pipe_is_code_141_and_not_a_word(command: tuple[str, ...]) -> None:
    done = _unread(*command)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_closed_pipe_does_not_hide_other_ends() -> None:
    assert _unread("-m", "studies.commands.edit.command", "facts", "check", "nowhere.json").returncode == 2
    assert _unread(*_working("raise typer.Exit(1)")).returncode == 1
    assert b"ZeroDivisionError" in _unread(*_working("1 / 0")).stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_output_that_is_full_is_one_sentence() -> None:
    arguments = [sys.executable, "-m", "studies.commands.edit.command", "facts", "check", str(TOY / "toy_town.json")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr.decode()) == (
        2, "edit: the output cannot be written (No space left on device)\n"
    )  # fmt: skip


@pytest.mark.parametrize("ended", [None, ModelError("no such model")])
def test_the_garbage_collector_rests_for_a_load_alone(ended: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def load(*_: Any, **__: Any) -> None:
        seen.append(gc.isenabled())
        if ended is not None:
            raise ended

    monkeypatch.setattr("factscope.model.load.load", load)
    with contextlib.suppress(ModelError):
        app.loader("toy", None, "float32")()
    assert (seen, gc.isenabled()) == ([False], True)


@pytest.mark.parametrize("name", ["trace", "circuit", "edit"])
def test_completion_is_there(name: str, run_command: Any) -> None:
    said = run_command(name, "--help").stdout
    assert "--install-completion" in said
    assert "--show-completion" in said


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("trace ", {"show", "cache"}),
        ("trace --met", {"--metric"}),
        ("trace --metric log", {"log_probability", "logit_difference"}),
        ("trace x --facts country_ca", {"country_capital"}),
        ("factscope trace --dtype b", {"bfloat16"}),
        ("factscope d", {"doctor"}),
        ("circuit find x --method ea", {"eap", "eap_ig"}),
        ("edit apply x --method alp", {"alphaedit"}),
        ("edit bench x --protocol zs", {"zsre-memit"}),
        ("edit apply --model smol", {"smollm2"}),
    ],
)
def test_the_shell_completes_words_and_values(line: str, offered: set[str]) -> None:
    name = line.split()[0]
    place = importlib.import_module(COMMANDS[name]).__name__
    words = {f"_{name.upper()}_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    code = f"import sys; sys.argv = [{name!r}]; from {place} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | words, capture_output=True, text=True, check=False
    )
    assert offered <= set(done.stdout.split()), done


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_of_the_output_takes_every_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it lacks is escaped as JSON does, so that --json stays JSON and means the same."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    app._streams()
    said = {"answer": " 東京 é 😀"}
    app.tell(json.dumps(said, ensure_ascii=False))
    sys.stdout.flush()
    shown = raw.getvalue().decode("utf-8" if encoding == "ascii" else encoding)  # of ASCII, click itself makes UTF-8
    assert json.loads(shown) == said


def test_an_argument_that_could_not_be_decoded_is_one_sentence(run_command: Any) -> None:
    ended = run_command("trace", "Caf\udce9 is in")
    assert ended.exit_code == 2
    assert "PYTHONUTF8=1" in ended.stderr


def test_a_mistake_that_quotes_ten_thousand_characters_is_still_a_sentence(run_command: Any) -> None:
    ended = run_command("trace", "show", f"x{'into' * 2500}y")
    assert ended.exit_code == 2
    assert len(ended.stderr) < 1300
    assert " [...] " in ended.stderr
