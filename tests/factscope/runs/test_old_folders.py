"""Folders of older versions, written here by hand as they were: the version at hand reads them or refuses in words."""

import ast
import hashlib
import json
import math
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from editing.edit import Edit
from editing.solve import corpus, moments
from factscope.data.request import EditRequest
from factscope.errors import EditError, StoreError
from factscope.model.readout import Component
from factscope.model.weights import fingerprint
from factscope.runs import store
from factscope.runs.kinds import named
from studies.edit_effects.result import EditStudy

ROOT = Path(__file__).parents[3]


def old_folder(folder: Path, kind: str, result: dict[str, Any], **tensors: torch.Tensor) -> Path:
    """A run folder of schema 1; tensors are named by their path in the result."""
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    packed = save(named)
    shapes = {name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype)[6:]} for name, tensor in named.items()}
    document = {"kind": kind, "schema": 1, "tensors_sha256": hashlib.sha256(packed).hexdigest(), "tensors": shapes}
    folder.mkdir(parents=True)
    (folder / "result.safetensors").write_bytes(packed)
    (folder / "result.json").write_text(json.dumps(document | {"result": result}))
    return folder


@pytest.mark.parametrize("before", store._KINDS)
def test_a_class_that_was_renamed_is_found_under_its_old_name(before: str, tmp_path: Path) -> None:
    now = make_dataclass(store._KINDS[before], [("number", float)], frozen=True)
    folder = old_folder(tmp_path / "run", before, {"number": 0.5})
    assert store.load(folder, now) == now(0.5)
    with pytest.raises(StoreError, match=f"holds {named(store._KINDS[before])}, not an Other"):
        store.load(folder, make_dataclass("Other", [("number", float)]))


def test_the_new_names_are_classes_of_ours() -> None:
    packages = ("factscope", "tracing", "circuits", "editing", "studies")
    files = [file for package in packages for file in (ROOT / package).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    assert set(store._KINDS.values()) <= {node.name for node in nodes if isinstance(node, ast.ClassDef)}


def test_a_component_of_an_old_circuit_reads_as_the_lens_has_it(tmp_path: Path) -> None:
    body = {"name": "m3", "direct": 0.25, "rank": 4, "probability": 0.125, "top_tokens": [" Paris", " Rome"]}
    found = store.load(old_folder(tmp_path / "run", "Component", body), Component)
    assert (found.name, found.rank, found.direct_effect, found.top) == ("m3", 4, 0.25, (" Paris", " Rome"))
    assert found.log_probability == pytest.approx(math.log(0.125))
    assert math.isnan(found.entropy)
    again = store.load(store.save(found, tmp_path / "again"), Component)
    assert (again.direct_effect, math.isnan(again.entropy)) == (0.25, True)


def test_an_old_edit_loads_under_the_name_that_it_had(tmp_path: Path) -> None:
    """Its digest is of what schema 1 wrote; the deltas go where they went."""
    fact: dict[str, Any] = {"id": "prompt/Oda Voss", "relation": "prompt", "subject": "Oda Voss"}
    fact |= {"template": "{} lives in", "answer": "Brask", "foil": "Vey", "source": "prompt"}
    fact |= {"aliases": [], "paraphrases": [], "neighbours": []}
    weight, right, left = "blocks.1.mlp.W_out", torch.ones(1, 4), torch.full((6, 1), 0.5)
    said = ["hand", {}, [fact], "base", 0, [], "none", [], [], [weight]]
    hashed = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for part in (left, right):
        hashed.update(part.reshape(-1).view(torch.uint8).numpy().tobytes())
    hashed.update(b"-")
    delta = {"weight": weight, "right": {"$tensor": "deltas.0.right"}, "left": {"$tensor": "deltas.0.left"}}
    body: dict[str, Any] = {
        "method": "hand",
        "config": {},
        "facts": [fact],
        "deltas": [delta | {"keep": None}],
        "base": "base",
    }
    body |= {"model": "toy", "seed": 0, "digest": hashed.hexdigest()}
    folder = old_folder(tmp_path / "run", "Edit", body, deltas__0__right=right, deltas__0__left=left)
    edit = Edit.load(folder)
    assert edit.digest == hashed.hexdigest()
    assert torch.equal(edit.deltas[0].dense(torch.float32), left @ right)


def test_what_cannot_be_read_any_more_says_how_to_make_it_again(tmp_path: Path) -> None:
    now = make_dataclass("Gone", [("number", float)])
    run = {"command": "trace 'The sea is in' --samples 3"}
    folder = old_folder(tmp_path / "run", "Gone", {"number": {"run": run}, "numbr": 1.0})
    with pytest.raises(StoreError, match=r"older Factscope.*no field numbr.*with: trace 'The sea is in' --samples 3"):
        store.load(folder, now)
    folder = old_folder(tmp_path / "other", "Gone", {})
    with pytest.raises(StoreError, match=r"lacks number.*make it again in another folder; or read it with the version"):
        store.load(folder, now)


def test_a_folder_of_a_newer_version_asks_for_the_newer_version(tmp_path: Path) -> None:
    folder = store.save(Component("m1", -1.0, 1, 0.5, 2.0, ()), tmp_path / "run")
    document = json.loads((folder / "result.json").read_text())
    assert document["schema"] == store.SCHEMA
    (folder / "result.json").write_text(json.dumps(document | {"schema": store.SCHEMA + 1}))
    with pytest.raises(StoreError, match="newer Factscope, so update this one"):
        store.load(folder, Component)


@pytest.mark.parametrize("answer", ["Brask", "..."])
def test_an_old_study_of_an_edit_asks_what_it_asked(answer: str, tmp_path: Path) -> None:
    """It held a fact whose foil was the target, and "..." where the old answer was not known."""
    fact: dict[str, Any] = {"id": "prompt/Oda Voss", "relation": "prompt", "subject": "Oda Voss", "source": "prompt"}
    fact |= {"template": "{} lives in", "answer": answer, "foil": "Vey"}
    fact |= {"aliases": [], "paraphrases": ["The home of Oda Voss is"], "neighbours": []}
    now = EditStudy.upgraded({"fact": fact, "method": "rome"})
    assert set(now) == {"request", "method"}
    asked = store.load(old_folder(tmp_path / "run", "EditRequest", now["request"]), EditRequest)
    assert (asked.prompt, asked.target, asked.id) == ("Oda Voss lives in", "Vey", "prompt/Oda Voss")
    assert (asked.old, asked.paraphrases) == ((answer, ("The home of Oda Voss is",)) if answer != "..." else (None, ()))
    assert EditStudy.upgraded(now) == now, "what is as it should be stays"


def test_an_old_study_that_lacks_what_is_shown_now_says_how_to_make_it_again(tmp_path: Path) -> None:
    run = {"command": "circuit diff '[Oda Voss] lives in' --target Vey"}
    folder = old_folder(tmp_path / "run", "EditStudy", {"request": {}, "before": {}, "run": run})
    with pytest.raises(StoreError, match=r"older Factscope.*with: circuit diff .*; or read it with the version"):
        store.load(folder, EditStudy)


@pytest.mark.parametrize("counted", [200, 201])
def test_old_second_moments_load_or_are_collected_again(counted: int, tiny: Any, tmp_path: Path) -> None:
    """Of a folder that names no content, those of the model's own text are taken if the settings are the same.

    Older versions counted more keys than were asked for, and left a part of their text out: that is another text.
    """
    model = tiny("gpt2")
    matrix = torch.eye(model.cfg.d_mlp)
    config: dict[str, Any] = {"source": "self", "tokens": 200, "document": 20, "rows": 4, "seed": 0, "start": "auto"}
    body: dict[str, Any] = {"matrices": {"1": {"$tensor": "matrices.1"}}, "tokens": counted, "left_out": 12}
    body |= {"base": fingerprint(model), "model": "tiny", "corpus": "c" * 64, "config": config}
    body |= {"changes": {"1": [0.2, 0.1]}, "conditions": {"1": 1.0}}
    old_folder(tmp_path / "kept" / "done", "Moments", body, matrices__1=matrix)
    same = corpus.Config("self", tokens=200, document=20, rows=4, prior=0.0)  # C as it was counted
    found = moments.collect(model, [1], same, folder=tmp_path / "kept", shown=False)
    assert torch.equal(found.of(1), matrix.double()) == (counted == 200)
    assert found.tokens == 200
    with pytest.raises(EditError, match="choose another folder with --out"):
        moments.collect(model, [1], replace(same, seed=1), folder=tmp_path / "kept", shown=False)
    with pytest.raises(EditError, match="choose another folder with --out"):
        moments.collect(model, [1], replace(same, prior=None), folder=tmp_path / "kept", shown=False)
