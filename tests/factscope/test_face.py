"""The face: `import factscope` brings every call that a researcher needs, and nothing else until one is used."""

import ast
import inspect
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import factscope as fs
from factscope.errors import StoreError
from factscope.plots.show import SHOWN
from helpers.shown_commands import BLOCK, PAGES, ROOT
from studies.saved import KINDS

PACKAGES = {"factscope", "tracing", "circuits", "editing", "studies"}
PLACES: dict[str, str] = vars(fs)["_PLACES"]


def test_the_face_costs_nothing_until_it_is_used() -> None:
    code = (
        "import sys, time; began = time.perf_counter(); import factscope; spent = time.perf_counter() - began; "
        "print(spent, sorted({'torch', 'numpy', 'typer', 'rich'} & set(sys.modules)), len(dir(factscope)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    spent, heavy, names = ended.stdout.split(" ", 2)[0], *ended.stdout.split(" ", 1)[1].rsplit(" ", 1)
    assert float(spent) < 0.1
    assert heavy == "[]"
    assert int(names) == len(fs.__all__)


def test_editors_see_the_names_that_there_are() -> None:
    """`__init__.pyi` and the table name the same things at the same places."""
    stub = ast.parse((ROOT / "factscope" / "__init__.pyi").read_text(encoding="utf-8"))
    seen = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in ast.walk(stub)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    listed = next(node.value for node in stub.body if isinstance(node, ast.Assign))
    assert seen == PLACES
    assert sorted(ast.literal_eval(listed)) == sorted(fs.__all__)


def test_every_name_of_the_face_leads_somewhere() -> None:
    for name in PLACES:
        found = getattr(fs, name)
        assert inspect.isclass(found) or callable(found), name
        assert inspect.getdoc(found), f"{name} says nothing about itself"
    assert set(dir(fs)) == set(fs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tracer'"):
        fs.tracer  # type: ignore[attr-defined]  # noqa: B018


def test_no_name_of_the_face_hides_a_module() -> None:
    """`factscope.model` is a package whoever was imported first."""
    inside = {path.stem for path in (ROOT / "factscope").iterdir()}
    assert not inside & set(PLACES)


def _shown_python() -> list[tuple[str, str]]:
    """(where it stands, code): the Python of README and docs, and of every notebook."""
    found = [
        (str(page.relative_to(ROOT)), body)
        for page in PAGES
        for language, body in BLOCK.findall(page.read_text(encoding="utf-8"))
        if language == "python"
    ]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        found.append((path.name, re.sub(r"^( *)%pip .*$", r"\1pass", code, flags=re.MULTILINE)))  # IPython's own line
    return found


@pytest.mark.parametrize(("place", "code"), _shown_python(), ids=lambda one: one[:30] if "\n" not in one else "")
def test_what_is_shown_to_a_user_uses_the_face_alone(place: str, code: str) -> None:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert str(node.module).split(".")[0] not in PACKAGES, f"{place} imports {node.module}"
        elif isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.split(".")[0] in PACKAGES]
            assert all((alias.name, alias.asname) == ("factscope", "fs") for alias in ours), place
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fs":
            assert node.attr in fs.__all__, f"{place} uses fs.{node.attr}"
    text = re.sub(r"\s", "", code)
    assert not any(f"import{name}" in text for name in PACKAGES - {"factscope"})


def test_a_folder_says_itself_what_it_holds(toy: Any, tmp_path: Path) -> None:
    """Every result that shows itself has its class in the table; one is saved and read back without naming it."""
    for _name, module in KINDS.items():
        __import__(module)
    assert {kind.__name__ for kind in SHOWN} <= set(KINDS)
    seen = fs.lens(toy, fs.prompt(toy, "[Oda Voss] lives in"))
    again = fs.load(fs.save(seen, tmp_path / "lens"))
    assert type(again) is fs.LensResult
    assert again.rank.equal(seen.rank)
    assert "Plotly" in fs.write_page(again, tmp_path / "lens" / "page.html").read_text(encoding="utf-8")
    header = tmp_path / "lens" / "result.json"
    header.write_text(header.read_text(encoding="utf-8").replace('"LensResult"', '"Poem"'), encoding="utf-8")
    with pytest.raises(StoreError, match="holds a Poem"):
        fs.load(tmp_path / "lens")


def test_rome_is_rome_unless_the_identity_is_asked_for(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Second moments are collected where nobody names them, and taken from the cache at the next edit."""
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path))
    asked = fs.request(toy, "[Oda Voss] lives in", "Vey")
    few, how = fs.MomentsConfig(tokens=512, rows=4), {"steps": 2}
    edit = fs.edit(toy, asked, "rome", settings=how, moments=few)
    assert edit.moments.startswith("self text")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fs.edit(toy, [asked], "rome", settings=how, moments=fs.moments(toy, config=few)).digest == edit.digest
        plain = fs.edit(toy, asked, "rome", settings=how, moments="identity")
    assert plain.moments == "identity"
    assert plain.digest != edit.digest
    assert fs.edit(toy, asked, "ft_m", settings=how).moments == "none"
    held = fs.edit(toy, asked, "rome", settings=how | {"restrain.mode": "linear"}, moments=few, restrain="prune")
    with pytest.raises(fs.UserError, match=r"restrain\.mode is a setting of a restraint, and none was asked for"):
        fs.edit(toy, asked, "rome", settings=how | {"restrain.mode": "linear"}, moments=few)
    assert "linear" in " ".join(held.restraints)
    assert fs.load(fs.save(edit, tmp_path / "edit")).digest == edit.digest


def test_whoever_asks_about_a_prompt_takes_its_text(toy: Any) -> None:
    text = "[Oda Voss] lives in"
    prompt = fs.prompt(toy, text)
    asked: tuple[Callable[[Any], Any], ...] = (
        partial(fs.trace, toy, config=fs.TraceConfig(samples=1)),
        partial(fs.flow, toy),
        partial(fs.lens, toy),
        partial(fs.neurons, toy),
        partial(fs.patchscope, toy, config=fs.PatchscopeConfig(target=text, tokens=1)),
    )
    for call in asked:
        assert call(text).prompt == call(prompt).prompt
        assert call(text).prompt.tokens == prompt.tokens


def test_a_circuit_is_cut_as_the_command_cuts_it(toy: Any) -> None:
    """To another subject, for edges that are scored; where none is known that fits, to zero, and that is said."""
    prompt = fs.prompt(toy, "[Oda Voss] lives in", answer="Brask")
    circuit = fs.find_circuit(toy, prompt, fs.EAPIG(edges=100), swap="Oda Drey")
    assert (circuit.method, circuit.task.ablation) == ("eap_ig", "counterfactual")
    assert circuit.task.prompts[0].tokens == prompt.tokens
    assert circuit.faithfulness > 0.5
    with pytest.warns(UserWarning, match="edges are cut to zero"):
        assert fs.find_circuit(toy, prompt, fs.EAPIG(edges=100)).task.ablation == "zero"


def test_the_edited_model_writes_and_is_given_back(toy: Any) -> None:
    """What plain transformers writes with the edit in; brackets are text; nothing is left of the edit."""
    edit = fs.edit(toy, fs.request(toy, "[Oda Voss] lives in", "Vey"), "ft_m", settings={"steps": 20})
    prompt = fs.prompt(toy, "[Oda Voss] lives in", answer="Brask")
    assert fs.generate(toy, prompt, tokens=3).split()[0] == "Brask"
    written = fs.generate(toy, "Oda Voss lives in", edits=[edit], tokens=4)
    assert written.split()[0] == "Vey"
    with edit.applied(toy):
        plain = fs.plain_model(toy)
    ids = torch.tensor([prompt.tokens])
    whole = plain.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
    assert toy.tokenizer.decode(whole, skip_special_tokens=True) == written
    with pytest.raises(fs.UserError, match="a text of 0 tokens cannot be written"):
        fs.generate(toy, prompt, tokens=0)


def test_an_edit_of_one_fact_says_what_the_model_says_now(toy: Any, tmp_path: Path) -> None:
    """In its repr, also on top of another edit; it is saved with the edit, and its digest knows nothing of it."""
    how: dict[str, Any] = {"settings": {"layer": 0}, "moments": "identity"}
    edit = fs.edit(toy, fs.request(toy, "[Oda Voss] lives in", "Vey"), **how)
    assert "␣Vey" in repr(edit)
    assert "Scores of one fact" in repr(edit)
    again = fs.load(fs.save(edit, tmp_path))
    assert (repr(again), again.digest) == (repr(edit), edit.digest)
    report = fs.evaluate(toy, [edit])
    assert [row.after for row in report.rows] == [row.after for row in edit.rows]
    assert repr(report) in repr(edit)
    with edit.applied(toy):
        second = fs.edit(toy, fs.request(toy, "[Oda Voss] lives in", "Dorn"), "ft_m", settings={"steps": 5})
    assert second.rows[0].before.top == " Vey"
    facts = fs.load_facts(ROOT / "tests" / "toy" / "toy_town.json")[:2]
    two = fs.edit(toy, facts, "memit", settings={"steps": 1}, moments="identity")
    assert two.rows == ()
