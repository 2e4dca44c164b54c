"""What was proven is taken for proven where nothing changed that it depends on, and nowhere else."""

from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch

from factscope.errors import ModelError
from factscope.model import proofs
from factscope.model.agreement import require
from factscope.model.hooks import hooked
from factscope.model.load import load
from factscope.model.sites import Site
from helpers.models import save_tiny

Proofs = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder; whatever is proven of it is worth a file, in a cache of its own."""
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(proofs, "WORTH", 0.0)
    return save_tiny("gpt2", tmp_path / "model")


def proven(model: Any, verb: str = "moved") -> bool:
    """Whether a proof was carried out, now."""
    done: list[int] = []
    require(model, verb, lambda: done.append(1))
    return bool(done)


def fresh(folder: Path) -> Any:
    return load(str(folder), device="cpu")


def test_a_proof_holds_for_the_next_command(folder: Path) -> None:
    assert proven(fresh(folder))
    assert not proven(fresh(folder))
    assert proven(fresh(folder), "turned")


@pytest.mark.parametrize("change", ["weights", "configuration", "forward", "dtype", "library"])
def test_whatever_changes_is_proven_anew(folder: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    assert proven(fresh(folder))
    model = load(str(folder), device="cpu", dtype="float64") if change == "dtype" else fresh(folder)
    network = model.original_model
    if change == "weights":
        with torch.no_grad():
            next(network.parameters())[0] += 1
    elif change == "configuration":
        network.config.layer_norm_epsilon = 0.5
    elif change == "forward":
        part = model.blocks[0].mlp
        part.forward = MethodType(lambda _, x: 2 * x, part)
    elif change == "library":
        monkeypatch.setattr(proofs, "versions", lambda: {"torch": "99"})
    assert proven(model)


def test_what_stands_beside_the_modules_is_proven_each_time(folder: Path) -> None:
    for _ in range(2):
        model = fresh(folder)
        with hooked(model, [(Site("resid", 0), lambda x: x + 1)]):
            assert proven(model)
            model(torch.tensor([[1, 2]]), use_cache=False)  # a hook that nothing passes is an error
        plain = fresh(folder)
        handle = plain.original_model.register_forward_hook(lambda *_: None)
        assert proven(plain)
        handle.remove()


def test_a_model_in_memory_is_proven_each_time(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for _ in range(2):
        network, words = (kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
        assert proven(load(network.eval(), tokenizer=words))


def test_a_refusal_is_not_kept(folder: Path) -> None:
    def broken() -> None:
        raise ModelError("it is broken")

    with pytest.raises(ModelError, match="it is broken"):
        require(fresh(folder), "moved", broken)
    assert proven(fresh(folder))


def test_a_quick_proof_is_no_file_and_a_cache_that_is_not_there_no_trouble(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs, "WORTH", 60.0)
    assert proven(fresh(folder))
    assert not (tmp_path / "cache" / proofs.FOLDER).exists()
    monkeypatch.setattr(proofs, "WORTH", 0.0)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "file"))
    assert proven(fresh(folder))
