"""Who may import whom, read from the source: the arrows of the architecture."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY = {
    "factscope": set(),
    "tracing": {"factscope"},
    "circuits": {"factscope"},
    "editing": {"factscope"},
    "studies": {"factscope", "tracing", "circuits", "editing"},
}


def _imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("package", MAY)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        others = {name.split(".")[0] for name in _imports(file)} & set(MAY)
        assert others <= MAY[package] | {package}, f"{file.relative_to(ROOT)} imports {others}"


def test_each_library_is_spoken_to_in_one_place() -> None:
    allowed = {
        "plotly": {"factscope/plots"},
        "transformer_lens": {
            "factscope/model/load.py",
            "factscope/model/sites.py",
            "factscope/model/hooks.py",
            "factscope/model/forward/partial.py",
        },
    }
    for package in MAY:
        for file in (ROOT / package).rglob("*.py"):
            name = str(file.relative_to(ROOT))
            for library, places in allowed.items():
                if library in {i.split(".")[0] for i in _imports(file)}:
                    assert any(name.startswith(place) for place in places), f"{name} imports {library}"


def test_nothing_is_unpickled_and_no_foreign_code_is_run() -> None:
    for package in MAY:
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert "pickle" not in _imports(file), file
            assert "torch.load(" not in text, file
            assert "trust_remote_code=True" not in text, file
