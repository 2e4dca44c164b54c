"""The notebooks run top to bottom on the trained toy, by the few settings at their top, and look as they should."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

from helpers.browser import needs_chromium, open_page
from helpers.models import TOY

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))
from run import NOTEBOOKS, executed  # noqa: E402  (a folder of notebooks is no package)

TOWN = json.loads((TOY / "toy_town.json").read_text(encoding="utf-8"))
FILE, PROMPT = str(TOY / "toy_town.json"), "[Oda Voss] lives in"
SMALL: dict[str, dict[str, object]] = {
    "01_where": {"PROMPT": PROMPT, "FACTS": FILE, "SAMPLES": 2, "LIMIT": 2},
    "02_which_circuit": {"PROMPT": PROMPT, "SWAP": "Oda Drey", "EDGES": 60},
    "03_what_an_edit_does": {"PROMPT": PROMPT, "TARGET": "Vey", "TOKENS": 256, "STEPS": 3},
    "04_many_edits": {"FACTS": FILE, "N": 2, "EVERY": 1, "TOKENS": 256, "STEPS": 2},
    "05_your_own": {"RELATION": TOWN | {"facts": TOWN["facts"][:5]}, "SAMPLES": 1},
}


def _outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_every_notebook_has_its_small_settings() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(SMALL)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsyncKernelManager]:
    """One process for all notebooks, which imports PyTorch once.

    The toy is too quick for progress to be shown, so that in this kernel it is shown from the first piece on.
    """
    manager, own = AsyncKernelManager(kernel_name="python3"), tmp_path_factory.mktemp("ipython")
    startup = own / "profile_default" / "startup"
    startup.mkdir(parents=True)
    code = "from factscope import progress\nprogress.MOMENT = progress.EVERY = 0\n"
    (startup / "at-once.py").write_text(code, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(own))
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("FACTSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield manager
    if manager.has_kernel:
        run_sync(manager.shutdown_kernel)(now=True)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a reader sees while the cells of a notebook run: texts that are put there, and what comes in their place."""
    seen: list[str] = []
    usual = NotebookClient.process_message

    def watched(client: Any, message: Any, *rest: Any) -> Any:
        if message["msg_type"] in ("display_data", "update_display_data"):
            seen.append(message["content"]["data"].get("text/plain", ""))
        return usual(client, message, *rest)

    monkeypatch.setattr(NotebookClient, "process_message", watched)
    return seen


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_the_toy(path: Path, tmp_path: Path, lines: list[str], kernel: AsyncKernelManager) -> None:
    """It shows results, progress while it works, and no warning but of a sequence that breaks the toy, as it does."""
    done = executed(path, {"MODEL": str(TOY), **SMALL[path.stem]}, tmp_path, kernel)
    said = [line for out in _outputs(done) if out.get("name") == "stderr" for line in out.text.splitlines()]
    assert [line for line in said if "begins to break" not in line and not line.startswith("  ")] == []
    assert any(re.search(r"\w+.*, \d+:\d\d( left)?$", line) for line in lines), lines
    assert lines[-1] == "", "a line of progress is left behind"
    shown = [output for output in _outputs(done) if output.output_type == "execute_result"]
    assert shown, "a notebook that shows nothing"
    assert all("factscope" in output.data.get("text/html", "") for output in shown)
    if path.stem == "01_where":
        _looks_right(done, tmp_path)


def _looks_right(notebook: Any, folder: Path) -> None:
    """Exported and opened in a browser: the pictures are there, and nobody complains."""
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    assert html.count("data:image/svg+xml") >= 5
    page = folder / "notebook.html"
    page.write_text(f"<!doctype html><meta charset='utf-8'><title>A notebook</title>{html}", encoding="utf-8")
    if needs_chromium.args[0]:  # the browser is missing: what was exported was looked at, not how it is drawn
        return
    seen = open_page(page, folder)
    assert seen.console == ()
    assert "Where the answer comes back" in seen.dom


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_fit_to_read(path: Path) -> None:
    """The model is chosen in one place, nothing private is used, outputs are small and from no one's own folder.

    The first cell installs the project where it is missing, and nothing else.
    """
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    installing, *code = code
    assert installing == nbformat.read(NOTEBOOKS[0], as_version=4).cells[1].source
    assert re.search(r'find_spec\("factscope"\) is None:.*\n    %pip install -q \{SOURCE\}$', installing)
    assert code[0].startswith("MODEL = ")
    assert not re.search(r"^MODEL\b", "\n".join(code[1:]), re.MULTILINE)
    assert not re.search(r"import _|\b\w+\._[a-z]", "\n".join(code))
    text = path.read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert not re.search(r"/(?:home|root|Users|tmp)/|site-packages", text)
    kinds = {output.output_type for output in _outputs(notebook)}
    assert "execute_result" in kinds, "saved without its outputs: python notebooks/run.py --save"
    assert "error" not in kinds
