"""The shape of the house, read from the source: who may import whom, and how much a folder or a function may hold.

Imports count wherever they stand: in a function's body and under TYPE_CHECKING as at the top of a file. Only
`factscope/__init__.py` (and `__main__`, which starts the command) may look up, from within a function; so the two stand
outside the graph of modules, and a test of their own holds them to that.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parents[2]
MAY = {
    "factscope": set(),
    "tracing": {"factscope"},
    "circuits": {"factscope"},
    "editing": {"factscope"},
    "studies": {"factscope", "tracing", "circuits", "editing"},
}
FACE = ("factscope", "factscope.__main__")

# The floors of the ground floor: a room imports from the floors below its own, and from nothing beside it.
FLOORS = (
    {"errors", "arguments", "statistics", "settings", "catalogue", "files", "cache", "progress", "versions"},
    {"data"},
    {"model"},
    {"runs", "plots"},
    {"results"},
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

MOST_FILES = 12  # in one folder, beside its __init__
MOST_LINES = 60  # of one function, with its docstring
MOST_PARAMETERS = 8  # of one public function, beside self


@cache
def _modules() -> dict[str, Path]:
    """Every module of the packages, by its dotted name; a package by its own name."""
    files = [file for package in MAY for file in sorted((ROOT / package).rglob("*.py"))]
    parts = [(file.relative_to(ROOT).with_suffix("").parts, file) for file in files]
    return {".".join(part[:-1] if part[-1] == "__init__" else part): file for part, file in parts}


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _imports(file: Path) -> frozenset[str]:
    """What a file imports; of `from x import y`, the module `x.y` where there is one, else `x`."""
    found = set()
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in _modules() else node.module for name in inside}
    return frozenset(found)


def _arrows() -> list[tuple[str, str]]:
    """From each module to each of ours that it imports; the face, which may look up, has no arrows here."""
    return [
        (name, other)
        for name, file in _modules().items()
        for other in sorted(_imports(file) & set(_modules()))
        if name not in FACE and other not in FACE
    ]


def _functions(file: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Each function with its dotted name: classes and outer functions come before it."""

    def inside(node: ast.AST, before: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            within = before
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                within = f"{before}{child.name}."
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield within[:-1], child
            yield from inside(child, within)

    return inside(_tree(file), "")


@pytest.mark.parametrize("package", MAY)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    for name, file in _modules().items():
        if name.split(".")[0] == package and name not in FACE:
            others = {other.split(".")[0] for other in _imports(file)} & set(MAY)
            assert others <= MAY[package] | {package}, f"{name} imports {others}"


def test_the_face_looks_up_only_when_it_is_asked() -> None:
    for name in set(FACE) & set(_modules()):
        at_once = ast.Module([node for node in _tree(_modules()[name]).body if not isinstance(node, ast.If)], [])
        for node in at_once.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [other for other in names if other.split(".")[0] in MAY], f"{name} imports {names} at once"


def test_the_ground_floor_is_built_on_floors() -> None:
    for name, other in _arrows():
        rooms = [module.split(".")[1] for module in (name, other) if module.startswith("factscope.")]
        if len(rooms) == 2 and rooms[0] != rooms[1]:
            assert FLOOR[rooms[0]] > FLOOR[rooms[1]] or FLOOR[rooms[0]] == 0 == FLOOR[rooms[1]], f"{name} -> {other}"


def test_what_computes_knows_no_page() -> None:
    for name, other in _arrows():
        if ".pages" in other:
            assert ".pages" in name or name.startswith("studies."), f"{name} -> {other}"


def test_there_is_no_circle() -> None:
    graph: networkx.DiGraph = networkx.DiGraph(_arrows())
    circles = [sorted(ring) for ring in networkx.strongly_connected_components(graph) if len(ring) > 1]
    assert circles == []
    assert list(networkx.nodes_with_selfloops(graph)) == []


def test_the_arrows_are_read_where_they_hide(tmp_path: Path) -> None:
    """The check itself: an import in a body, under TYPE_CHECKING, and of a module by `from`."""
    file = tmp_path / "hidden.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from factscope.model import load\n"
        "def f():\n    import editing.edit\n    from factscope.errors import UserError\n"
    )
    assert _imports(file) == {"typing", "factscope.model.load", "editing.edit", "factscope.errors"}


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    for folder in {file.parent for file in _modules().values()}:
        files = [file.name for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(files) <= MOST_FILES, f"{folder.relative_to(ROOT)} has {len(files)} files"


def test_a_function_can_be_read_without_scrolling() -> None:
    long = {
        f"{file.relative_to(ROOT)}::{name}": length
        for file in _modules().values()
        for name, node in _functions(file)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MOST_LINES
    }
    assert not long


def test_a_public_function_can_be_called_from_memory() -> None:
    wide = {}
    for file in _modules().values():
        for name, node in _functions(file):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            takes = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
            if takes > MOST_PARAMETERS and not any(part.startswith("_") for part in name.split(".")):
                wide[f"{file.relative_to(ROOT)}::{name}"] = takes
    assert not wide


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
    for file in _modules().values():
        name = str(file.relative_to(ROOT))
        for library, places in allowed.items():
            if library in {other.split(".")[0] for other in _imports(file)}:
                assert any(name.startswith(place) for place in places), f"{name} imports {library}"


def test_nothing_is_unpickled_and_no_foreign_code_is_run() -> None:
    for file in _modules().values():
        text = file.read_text(encoding="utf-8")
        assert "pickle" not in _imports(file), file
        assert "torch.load(" not in text, file
        assert "trust_remote_code=True" not in text, file
