"""The gallery's script: it reads the page, computes what is not there, draws the rest again, and takes the picture."""

import importlib.util
import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from factscope.data.load import load_facts
from helpers.browser import needs_chromium
from helpers.commands import COMMANDS
from helpers.models import TOY

ROOT = Path(__file__).parents[2]
FACT = load_facts(TOY / "toy_town.json")[0]
MARKED = FACT.template.replace("{}", f"[{FACT.subject}]")
TRACE = ["trace", MARKED, "--model", str(TOY), "--samples", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "docs" / "gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(script: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one trace of the toy has been computed."""
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "runs").mkdir()
    assert script.page_of("one", TRACE, folder) == folder / "runs" / "one" / "page.html"
    return folder


def test_each_picture_of_the_page_has_the_commands_above_it(script: Any) -> None:
    found = script.shown()
    assert sorted(image.name for image, _ in found) == sorted(
        path.name for path in (ROOT / "docs" / "images" / "gallery").glob("*.png")
    )
    assert all(blocks and words[0] in COMMANDS for _, blocks in found for words in blocks)


def test_what_is_not_there_is_computed_into_the_folder_of_its_name(runs: Path) -> None:
    result = json.loads((runs / "runs" / "one" / "result.json").read_text(encoding="utf-8"))
    assert MARKED.replace("[", "").replace("]", "") in json.dumps(result)
    assert (runs / "runs" / "one" / "plotly.min.js").is_file()  # a light page, many of which share the library


def test_what_is_there_is_drawn_again_without_the_model(
    script: Any, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is computed")

    page = runs / "runs" / "one" / "page.html"
    first = page.read_bytes()
    page.write_text("another version's", encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(script.subprocess, "run", refused)
        assert script.page_of("another name", [*TRACE, "--out", "runs/one"], runs) == page
        with pytest.raises(AssertionError, match="nothing is computed"):
            script.page_of("two", TRACE, runs)
    assert page.read_bytes() == first


@needs_chromium
@pytest.mark.browser
def test_the_list_of_runs_is_made_and_every_picture_has_its_size(
    script: Any, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gallery of one picture of two commands: of the last command's page is the picture, and of no other block."""
    (runs / "gallery.md").write_text(
        "```text\n$ trace x --out runs/one\n$ factscope view runs --file\n```\n\n![Runs](images/gallery/list.png)\n\n"
        "```text\n$ trace never\n```\n\n![Never](images/gallery/never.png)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(script, "HERE", runs)
    monkeypatch.setattr(sys, "argv", ["gallery.py", "--only", "list", "--runs", str(runs)])
    script.main()
    assert "toy" in (runs / "runs" / "index.html").read_text(encoding="utf-8")
    (picture,) = (runs / "images" / "gallery").iterdir()
    size = struct.unpack(">II", picture.read_bytes()[16:24])  # of a PNG's first block
    assert size == (script.WIDE * script.SCALE, script.HIGH * script.SCALE)


def test_without_a_browser_it_ends_in_one_sentence(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["gallery.py"])
    with pytest.raises(SystemExit, match="no chromium or google-chrome"):
        script.main()
