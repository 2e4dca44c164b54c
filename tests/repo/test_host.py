"""What a code host reads: its workflows call what exists, the citation names what we use, files end as they should."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))  # but config.yml
MOST_BYTES = 1024 * 1024  # of one file, as the hook for commits has it


def _read(file: Path) -> dict[Any, Any]:
    read = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert isinstance(read, dict)
    return read


def _steps(file: Path) -> list[dict[str, Any]]:
    return [step for job in _read(file)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_calls_what_exists(file: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    markers = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for run in (step["run"] for step in _steps(file) if "run" in step):
        for target in re.findall(r"\bmake ([a-z]+)", run):
            assert target in targets, run
        for path in re.findall(r"\btests/\S+", run):
            assert (ROOT / path).is_file(), run
        for marks in re.findall(r'-m "([^"]+)"', run):
            for mark in set(re.findall(r"[a-z_]+", marks)) - {"and", "not", "or"}:
                assert f'"{mark}: ' in markers, run


def test_the_quick_suite_runs_on_every_python_that_is_promised() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = {name.rpartition(" ")[2] for name in project["classifiers"] if re.search(r":: 3\.\d+$", name)}
    rows = _read(ROOT / ".github" / "workflows" / "checks.yml")["jobs"]["quick"]["strategy"]["matrix"]["include"]
    assert {row["python"] for row in rows} == promised
    assert project["requires-python"] == f">={min(promised, key=lambda name: int(name.split('.')[1]))}"


def test_a_release_is_built_without_a_password() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert "secrets." not in text
    assert "id-token: write" in text


def test_a_template_asks_for_what_a_reader_needs() -> None:
    assert {file.stem for file in TEMPLATES} == {"bug", "number_disagrees_with_a_paper", "add_a_method"}
    for file in TEMPLATES:
        asked = _read(file)
        assert {"name", "description", "body"} <= set(asked), file
        names = [part["id"] for part in asked["body"]]
        assert len(set(names)) == len(names), file
        assert any(part.get("validations", {}).get("required") for part in asked["body"]), file


def test_the_citation_names_papers_that_the_concepts_explain() -> None:
    cited = _read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert "version" not in cited  # it is written in factscope/__init__.py alone
    concepts = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    for paper in cited["references"]:
        (identifier,) = paper["identifiers"]
        assert identifier["value"].removeprefix("arXiv:") in concepts, paper["title"]
        assert paper["authors"][0]["family-names"] in concepts, paper["title"]


def test_files_are_small_and_end_in_one_line_break() -> None:
    """As the hooks for commits leave them; what git lists, or without git what is there."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    for name in filter(None, listed):
        file = ROOT / name
        if not file.is_file():  # deleted, and not yet committed
            continue
        content = file.read_bytes()
        assert len(content) <= MOST_BYTES, name
        if file.suffix not in (".png", ".safetensors") and not name.startswith("tests/toy/") and content:
            assert re.search(rb"[^\n]\n\Z", content), name
            if file.suffix != ".ipynb":
                assert not re.search(rb"[ \t]+$", content, re.MULTILINE), name
