"""The documentation says what is so: it builds without a warning, its command lines and Python are real, and every
named error stands in its table.
"""

import ast
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import factscope
from editing.method import method, method_names
from factscope.errors import UserError
from helpers.models import TOY
from helpers.shown_commands import (
    BLOCK,
    NAMES,
    OURS,
    PAGES,
    ROOT,
    Shown,
    command,
    every_option,
    parse,
    shown_commands,
    shown_flags,
)

PACKAGES = ("factscope", "tracing", "circuits", "editing", "studies")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    options = ("build", "--strict", "--quiet", "--site-dir", str(built))
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return built


def test_every_page_is_built_and_reached_from_the_first(site: Path) -> None:
    pages = {str(page.relative_to(ROOT / "docs").with_suffix(".html")) for page in (ROOT / "docs").rglob("*.md")}
    pages |= {"benchmarks.html", "contributing.html", "changelog.html"}
    first = (site / "index.html").read_text(encoding="utf-8")
    for page in pages:
        assert (site / page).is_file(), page
        assert f'href="{page}"' in first or page == "index.html", page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_to_a_file_leads_to_one_in_the_repository(page: Path) -> None:
    """As a code host shows the pages; the site's own links are checked by its build."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\[[^\]]*\]\(([^)#\s]+)", text)
    assert [one for one in targets if "://" not in one and not (page.parent / one).exists()] == []


def test_the_site_asks_nothing_of_other_servers(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//', text), page
        assert not re.search(r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="(?:https?:)?//', text), page


@pytest.mark.parametrize("shown", shown_commands(), ids=lambda shown: f"{Path(shown.page).name}: {shown.line}"[:90])
def test_a_shown_command_line_is_one_that_the_command_takes(shown: Shown) -> None:
    parse(shown.words)


def test_command_lines_are_found_where_they_stand() -> None:
    """A harness that finds nothing passes everything."""
    pages = {shown.page for shown in shown_commands()}
    assert {"README.md", "docs/circuits.md", "docs/tutorial.md", "docs/howto.md"} <= pages
    with pytest.raises(Exception, match="No such option"):
        parse(["trace", "x", "--nonsense"])
    with pytest.raises(Exception, match="not a whole number"):
        parse(["edit", "apply", "x", "--limit", "many"])


def test_words_that_people_search_for_stand_on_a_page() -> None:
    """The field's words, beside ours; the site searches the text of these pages."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    words = ("BOS", "prepend_bos", "covariance", "pandas", "DataFrame", "HookedTransformer", "Cite", "BibTeX")
    assert [word for word in words if word not in text] == []
    assert re.findall(r"(?<!\[)\barXiv:? ?\d{4}\.\d+", text) == []  # a paper is a link


def test_every_name_of_the_face_is_described_in_the_reference() -> None:
    """In the pages that the table of the face leads to; and nothing is described that is not there."""
    pages = (ROOT / "docs" / "api").glob("*.md")
    told = {name for page in pages for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.M)}
    for name, place in vars(factscope)["_PLACES"].items():
        module, _, inside = place.partition(":")
        assert {module, f"{module}.{inside}"} & told, f"fs.{name} is described nowhere: add ::: {module} to docs/api"
    assert [name for name in told if not (ROOT / f"{name.replace('.', '/')}.py").is_file() and not _inside(name)] == []


def _inside(name: str) -> bool:
    """Whether it is a package, or something in a module."""
    try:
        importlib.import_module(name)
    except ImportError:
        module, _, last = name.rpartition(".")
        return hasattr(importlib.import_module(module), last)
    return True


def test_a_shown_option_is_an_option_of_some_command() -> None:
    known = every_option() | {"--user-data-dir"}
    for script in (*(ROOT / "benchmarks").glob("*.py"), ROOT / "tests" / "campaigns" / "__main__.py"):
        known |= set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', script.read_text(encoding="utf-8")))
    assert [(page, flag) for page, flag in shown_flags() if flag not in known and page != "benchmarks/README.md"] == []


def _commands(words: str, each: Any = None) -> list[tuple[str, Any]]:
    """(words, command): a command, its sub-commands, and theirs."""
    each = each or command(words)
    inner = getattr(each, "commands", {}).items()
    return [(words, each), *(pair for name, one in inner for pair in _commands(f"{words} {name}", one))]


@pytest.mark.parametrize(("words", "each"), [pair for name in NAMES for pair in _commands(name)], ids=lambda x: str(x))
def test_help_has_examples_that_parse(words: str, each: Any) -> None:
    lines = [line for line in (each.epilog or "").splitlines() if line.split(" ")[0] in NAMES]
    assert lines, f"{words} --help shows no example"
    for line in lines:
        parse(Shown("", line).words)


def test_every_command_that_writes_a_page_stands_in_the_gallery_and_every_picture_is_small() -> None:
    text = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    drawing = [words for words, each in _commands("factscope") if any("--light" in one.opts for one in each.params)]
    others = ("show", "export", "merge")  # of pages that are there, and of other work
    names = [words.removeprefix("factscope ") for words in drawing if words.split()[-1] not in others]
    names = [name.replace("trace trace", "trace") for name in names]
    assert len(names) > 20
    assert [name for name in names if not re.search(rf"(^\$ |`){name}\b", text, re.MULTILINE)] == []
    shown = set(re.findall(r"images/gallery/([\w-]+\.png)", text))
    there = {one.name: one.stat().st_size for one in (ROOT / "docs" / "images" / "gallery").iterdir()}
    assert shown == set(there)
    assert max(there.values()) < 150_000


# What needs no model, and so is run as it stands; {} is the folder of a saved edit.
RUN = {("edit", "list"), ("trace", "cache"), ("trace", "--help"), ("circuit", "--help"), ("edit", "--help")}


def test_shown_commands_that_need_no_model_run(run_command: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "cache"))
    shown = {tuple(one.words) for one in shown_commands()} | RUN
    for words in sorted(words for words in shown if tuple(words[:2]) in RUN and words[0] in NAMES):
        assert run_command(*words).exit_code == 0, words


def _traces() -> list[Shown]:
    """Shown traces of a prompt, one for each set of flags; the model is the toy in any case."""
    found: dict[tuple[str, ...], Shown] = {}
    for one in shown_commands():
        words = one.words
        if "--model" in words:
            del words[words.index("--model") : words.index("--model") + 2]
        if OURS.match(words[0])[1] == "trace" and " " in " ".join(words[1:2]):  # type: ignore[index]
            found.setdefault(tuple(words[2:]), one)
    return list(found.values())


@pytest.mark.parametrize("shown", _traces(), ids=lambda shown: f"{Path(shown.page).name}: {shown.line}"[:90])
def test_a_shown_trace_runs_on_the_toy(shown: Shown, run_command: Any, toy: Any, monkeypatch: Any) -> None:
    """The same flags about a person whom the toy knows."""
    monkeypatch.setattr("studies.commands.app.loader", lambda *_: lambda: toy)
    words = ["[Oda Voss] lives in", *shown.words[2:]]
    for flag, value in (("--answer", "Brask"), ("--foil", "Vey"), ("--samples", "1")):
        if flag in words:
            words[words.index(flag) + 1] = value
    for flag, value in (("--samples", "1"), ("--sites", "mlp")):
        words += [] if flag in words else [flag, value]
    done = run_command("trace", *words)
    assert done.exit_code == 0, done.stderr
    assert "Page: " in done.stdout


TOWN = str(TOY / "toy_town.json")
STAND_INS = {
    "--facts": TOWN, "--answer": "Brask", "--foil": "Vey", "--target": "Vey", "--edges": "60",
    "--limit": "2", "--every": "1", "--layer": "1,2", "--threshold": "1",
}  # fmt: skip
# What makes a line quick on the toy, where it does not say so itself.
QUICK = {
    "trace flow": {"--set": "nulls=1"},
    "trace patchscope": {"--words": "2", "--target": "[Oda] lives in"},
    "circuit find": {},
    "circuit diff": {
        "--samples": "1", "--nulls": "1", "--value-nulls": "0", "--again": "0", "--neighbours": "0", "--edges": "60",
        "--moments": "identity",
    },
    "edit apply": {"--moments": "identity"},
    "edit sequence": {"--moments": "identity", "--unrelated": "none", "--text": str(ROOT / "LICENSE")},
    "edit bench": {"--moments": "identity"},
    "edit layers": {"--moments": "identity", "--layer": "1,2"},
}  # fmt: skip


def _first(name: str) -> Shown:
    """The first shown line of a sub-command that says what it works on."""
    for one in shown_commands():
        words = one.words
        if OURS.match(words[0]) and [Path(words[0]).name, *words[1:2]] == name.split():
            found = parse(words).params
            if any(found.get(key) for key in ("prompt", "facts", "suite")):
                return one
    raise AssertionError(f"no page shows {name}")


@pytest.mark.parametrize("name", QUICK)
def test_a_shown_line_of_each_command_runs_on_the_toy(name: str, run_command: Any) -> None:
    """The same flags about people whom the toy knows, with few of everything."""
    shown = _first(name).words
    words = ["[Oda Voss] lives in" if " " in word else word for word in shown[1:]]
    if not words[1].startswith(("[", "--")):
        words[1] = TOWN  # a file of facts
    for flag, value in STAND_INS.items():
        if flag in words:
            words[words.index(flag) + 1] = value
    for flag, value in (QUICK[name] | {"--model": str(TOY), "--device": "cpu", "--out": "kept"}).items():
        words += [] if flag in words else [flag, value]
    done = run_command(Path(shown[0]).name, *words)
    assert done.exit_code == 0, done.stderr
    assert "Page: " in done.stdout
    assert "kept" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shown_python_is_python_and_imports_what_there_is(page: Path) -> None:
    for language, body in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert [name.name for name in node.names if not hasattr(module, name.name)] == [], node.module


def test_the_map_of_the_code_names_folders_and_files_that_there_are() -> None:
    """Paths in the table "Where does X go", and the folders of the map."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## Where does X go")[2].partition("## How we write")[0]
    named = set(re.findall(r"`((?:factscope|tracing|circuits|editing|studies|tests)/[^`]*)`", table))
    assert len(named) > 15
    top = ROOT
    for line in text.partition("## The map")[2].split("```")[1].splitlines():
        for word in re.findall(r"^ *([\w./ ]+?)(?:  |$)", line):
            top = top if line.startswith(" ") else ROOT / word.split()[0]
            for name in (one.strip("/") for one in word.split() if one.endswith(("/", ".py"))):
                assert top.name == name or any(top.rglob(name)), line
    assert [path for path in named if not (ROOT / path).exists()] == []


def _user_errors() -> dict[str, str]:
    """Every subclass of UserError in the packages, and its module."""
    for package in PACKAGES:
        for found in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            importlib.import_module(found.name)
    waiting: list[type] = [UserError]
    errors: dict[str, str] = {}
    while waiting:
        one = waiting.pop()
        errors[one.__name__] = one.__module__
        waiting += one.__subclasses__()
    return {name: module for name, module in errors.items() if module.split(".")[0] in PACKAGES}


def test_every_named_error_stands_in_the_table_with_its_module() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|", text, re.MULTILINE))
    assert listed == _user_errors()


def test_exit_codes_are_as_documented(run_command: Any) -> None:
    assert run_command("trace", "--version").exit_code == 0
    assert run_command("trace").exit_code == 2  # a mistake of the user's
    assert run_command("trace", "x", "--model", TOY, "--nonsense").exit_code == 2


MORE = "fs.moments(model, config=fs.MomentsConfig(tokens=2048, prior=0.0))"  # a usual edit of the toy hears no subject
OTHERS = ("Oda Drey", "Mira Drey", "Ilse Senn", "Pello Hallin", "Ilse Voss", "Oda Tavi", "Oda Hallin", "Pello Senn")


@pytest.fixture(scope="module")
def ten_calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What docs/python.md leaves behind, run as it stands about a person whom the toy knows."""
    shown = [body for language, body in BLOCK.findall((ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
             if language == "python"]  # fmt: skip
    code = "\n".join(shown)
    for ours, toys in (
        ("smollm2", str(TOY)), ("[The Eiffel Tower] is located in the city of", "[Oda Voss] lives in"),
        ("Paris", "Brask"), ("Rome", "Vey"), ("country_capital", str(TOY / "toy_town.json")), ("limit=10", "limit=2"),
        ("PatchscopeConfig(", "PatchscopeConfig('Mira [Oda] lives in', "),  # one that fits
        ('request, "rome")', f'request, "rome", moments={MORE})'),
        ("find_circuit(model, prompt)", f"find_circuit(model, prompt, others={OTHERS})"), ("samples=4", "samples=1"),
    ):  # fmt: skip
        assert ours in code
        code = code.replace(ours, toys)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("ten-calls"))
        patch.setenv("FACTSCOPE_CACHE", str(Path.cwd() / "cache"))
        exec(code, names)
        yield names


def test_the_ten_calls_run_on_the_toy(ten_calls: dict[str, Any]) -> None:
    """Each as it is shown, and each gives what its comment says."""
    prompt, traced = ten_calls["prompt"], ten_calls["traced"]
    assert prompt.subject == "Oda Voss"
    assert len(ten_calls["facts"]) == 2
    assert traced.total_effect > 0
    assert traced.grid("mlp").effect.shape[1] == len(prompt.tokens)
    assert len(ten_calls["mean"].facts) == 2
    assert ten_calls["seen"].rank.shape[1] == len(prompt.tokens)
    assert ten_calls["report"].score("ES").value == 1
    assert ten_calls["edit"].moments.startswith("self text")
    assert (traced.predicted.strip(), ten_calls["after"].predicted.strip()) == ("Brask", "Vey")
    assert ten_calls["again"].kept.equal(ten_calls["circuit"].kept)
    assert Path("runs/mine/page.html").is_file()
    assert ten_calls["bench"].score("ft_m", "reliability").n == 2


def test_the_circuit_of_the_docs_does_what_the_model_does(ten_calls: dict[str, Any]) -> None:
    """Cut to zero, the same call finds a circuit that is worse than none; the defaults are the command's."""
    assert ten_calls["circuit"].faithfulness > 0.5
    assert ten_calls["study"].evaluation is not None
    assert ten_calls["study"].roles is not None


def test_every_method_has_its_row_among_the_editors() -> None:
    text = (ROOT / "docs" / "editors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", text.split("## Measured")[0], re.M)
    assert sorted(name for name, _ in rows) == sorted(method_names())
    for name, row in rows:
        spec = method(name)
        said = [spec.about, spec.all_needs, spec.good_for, spec.not_for]
        assert row.replace("`", "").replace("--set ", "").split(" | ")[:4] == said, name
