"""`factscope doctor`, and the one command that holds all others."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from studies.commands import app as common
from studies.commands import doctor

ROOT = Path(__file__).parents[3]


def test_the_doctor_says_what_there_is(run_command: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(doctor, "ROOM", 0)
    done = run_command("factscope", "doctor", "--json")
    said = json.loads(done.stdout)
    assert (done.exit_code, said["wrong"]) == (0, [])
    found = {finding["name"]: finding["value"] for finding in said["findings"]}
    assert {"factscope", "python", "torch", "transformers", "cache", "devices", "threads", "browser"} <= set(found)
    assert found["devices"].startswith("cpu")
    assert run_command("factscope", "doctor").stdout.splitlines()[-1] == "Nothing is wrong."


def test_what_is_wrong_is_a_sentence_and_exit_code_1(run_command: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(doctor, "ROOM", 10**18)
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    done = run_command("factscope", "doctor")
    assert done.exit_code == 1
    wrong = [line for line in done.stdout.splitlines() if line.startswith("Wrong: ")]
    assert len(wrong) == 3
    assert "no-such-package is not installed" in wrong[0]
    assert "FACTSCOPE_CACHE" in wrong[1]
    assert "--out" in wrong[2]
    monkeypatch.undo()
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(doctor, "ROOM", 10**18)
    assert "are free for" in "".join(str(one.wrong) for one in doctor.places())


def test_versions_and_places_are_said_without_torch() -> None:
    code = (
        "import sys; from studies.commands.doctor import versions, places, viewers\n"
        "assert list(versions()) and list(places()) and list(viewers())\n"
        "assert not {'torch', 'transformers', 'plotly', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_another_distributions_package_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "circuits").mkdir()
    (tmp_path / "circuits" / "__init__.py").touch()
    assert common.in_the_way() == []
    start = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; sys.argv[1:] = ['trace', 'x'];"
    code = f"{start} from studies.commands import app; import typer; app.run_app(typer.Typer(), 'factscope')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "`import circuits` finds another distribution's package" in done.stderr


@pytest.mark.parametrize("words", [("trace",), ("trace", "cache"), ("circuit", "find"), ("edit", "apply"), ("cache",)])
def test_one_command_holds_all_of_them(run_command: Any, words: tuple[str, ...]) -> None:
    done = run_command("factscope", *words, "-h")
    assert done.exit_code == 0, done.stderr
    assert f"Usage: factscope {' '.join(words)}" in done.stdout
    short = words if words[0] in ("trace", "circuit", "edit") else ("trace", *words)
    plain = run_command(short[0], *short[1:], "--help").stdout
    assert len(plain.splitlines()) >= len(done.stdout.splitlines())


def test_python_m_factscope_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "factscope", "--version"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout[:9]) == (0, "factscope"), done.stderr


@pytest.mark.parametrize("name", ["factscope", "circuit", "edit", "trace"])
def test_a_command_without_words_shows_its_help(run_command: Any, name: str) -> None:
    done = run_command(name)
    assert "Usage: " in done.stdout + done.stderr
    assert "Example" in done.stdout + done.stderr
