"""The package as a user gets it: a wheel that has everything the code reads, and that runs far from the checkout.

The wheel is built from a copy of the sources (nothing is left in the checkout), with the setuptools that is installed,
and put into an empty folder that stands before everything else on the path; its dependencies are those of this
environment. So nothing here needs the network.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from factscope import __version__

ROOT = Path(__file__).parents[2]
PACKAGES = ("factscope", "tracing", "circuits", "editing", "studies")
PIP = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--no-cache-dir")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources, made = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", made)
    subprocess.run([*PIP, "wheel", *options, sources], check=True, capture_output=True, cwd=made)
    return next(made.glob("factscope-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", place, wheel], check=True, cwd=place)
    return place


def _run(installed: Path, folder: Path, *command: str | Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "FACTSCOPE_CACHE": str(folder / "cache")}
    ended = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert held == ours
    assert {f"{package}/py.typed" for package in PACKAGES} <= held


def test_the_top_level_names_are_five(wheel: Path) -> None:
    """What an installation puts beside other packages; another distribution's files of these names are in the way."""
    names = [Path(name).parts for name in zipfile.ZipFile(wheel).namelist()]
    assert {parts[0] for parts in names} == {*PACKAGES, f"factscope-{__version__}.dist-info"}
    listed = zipfile.ZipFile(wheel).read(f"factscope-{__version__}.dist-info/top_level.txt").decode().split()
    assert sorted(listed) == sorted(PACKAGES)


def test_the_version_is_written_in_one_place(wheel: Path) -> None:
    assert wheel.name.split("-")[1] == __version__
    assert __version__ not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_commands_start(installed: Path, tmp_path: Path) -> None:
    for name in ("trace", "circuit", "edit"):
        assert _run(installed, tmp_path, installed / "bin" / name, "--version").split() == ["factscope", __version__]
        assert "Usage" in _run(installed, tmp_path, installed / "bin" / name, "--help")


def test_a_trace_far_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    """Code, shipped facts, style sheet and scripts all come from the installed folder."""
    where = "import factscope, studies; print(factscope.__file__, studies.__file__)"
    assert all(Path(file).is_relative_to(installed) for file in _run(installed, tmp_path, "-c", where).split())
    shutil.copytree(ROOT / "tests" / "toy", tmp_path / "toy", ignore=shutil.ignore_patterns("*.py"))
    options = ("--model", tmp_path / "toy", "--samples", "1", "--sites", "mlp", "--device", "cpu", "--out", "run")
    said = _run(installed, tmp_path, installed / "bin" / "trace", "[Oda Voss] lives in", *options)
    assert "Brask: probability" in said
    assert "Plotly" in (tmp_path / "run" / "page.html").read_text(encoding="utf-8")
