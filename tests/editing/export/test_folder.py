"""What travels with an exported model, and that plain transformers says what the edited model says."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from editing.delta import Delta
from editing.edit import Edit
from editing.export import folder as exporting
from editing.export.folder import export
from factscope.data.fact import Fact
from factscope.data.request import EditRequest
from factscope.errors import StoreError
from factscope.model.bridge import info
from factscope.model.load import load
from factscope.model.weights import fingerprint
from helpers.architectures import plain
from helpers.models import TOY

TOKENS = torch.tensor([[0, 5, 9, 12, 40]])


def some_edit(model: Any) -> Edit:
    generator = torch.Generator().manual_seed(0)
    shape = model.blocks[1].mlp.out.original_component.weight.T.shape
    delta = Delta("blocks.1.mlp.W_out", 0.1 * torch.randn(*shape, generator=generator))
    request = EditRequest.of(Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"))
    return Edit("ft_m", {"layer": 1}, (request,), (delta,), base=fingerprint(model), model="toy", seed=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the toy to change."""
    return Path(shutil.copytree(TOY, tmp_path / "toy"))


@torch.no_grad()
def exported_logits(folder: Path) -> tuple[torch.Tensor, torch.Tensor, Path]:
    """Of the edited model, of its export in plain transformers, and where that is."""
    model = load(str(folder), device="cpu")
    edit = some_edit(model)
    out = export(model, [edit], folder.parent / "edited")
    with edit.applied(model):
        return model(TOKENS), plain(out)(TOKENS).logits, out


def test_a_head_stored_beside_a_tied_configuration_stays_its_own(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] * 2
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    ours, theirs, out = exported_logits(folder)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    saved = load_file(out / "model.safetensors")
    torch.testing.assert_close(saved["lm_head.weight"], 2 * saved["model.embed_tokens.weight"])


def test_generation_tokenizer_chat_template_and_start_token_travel_with_the_weights(folder: Path) -> None:
    from transformers import AutoTokenizer

    settings = {"eos_token_id": [0, 5], "temperature": 0.6, "do_sample": True, "max_new_tokens": 7}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    _, _, out = exported_logits(folder)
    there = json.loads((out / "generation_config.json").read_text())
    assert {name: there[name] for name in settings} == settings
    before, after = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(out)
    assert after.chat_template == before.chat_template
    assert after("Oda Voss").input_ids == before("Oda Voss").input_ids  # no start token that was not there
    assert info(load(str(out), device="cpu")).start_token == "<|endoftext|>"


def test_an_exported_model_keeps_the_start_token_of_the_name_it_was_loaded_by(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from factscope.model import load as loading
    from factscope.model.source.registry import Entry

    entry = Entry("named", str(folder), "none", " Oda", (1, 2))
    monkeypatch.setattr(loading, "REGISTRY", {"named": entry})
    model = load("named", device="cpu")
    out = export(model, [some_edit(model)], folder.parent / "edited")
    assert info(model).start_token == info(load(str(out), device="cpu")).start_token == " Oda"


@pytest.mark.parametrize(
    ("template", "start"),
    [
        ("{{'<|im_start|>' + message['role']}}", "<|endoftext|>"),  # SmolLM2: the token begins a turn of a chat
        ("{{ bos_token }}{{ message['content'] }}", "<|im_start|>"),  # Llama: it begins the text
        (None, "<|im_start|>"),
    ],
)
def test_a_chat_marker_is_no_start_of_a_document(template: str | None, start: str) -> None:
    """So the default model has one start token by its name, from its folder, and as Hugging Face has it."""
    from transformers import AutoTokenizer

    from factscope.model.source.carried import start_of

    tokenizer = AutoTokenizer.from_pretrained(TOY)
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>"})
    tokenizer.chat_template = template
    assert start_of(Path("nowhere"), tokenizer) == start


def test_a_folder_that_does_not_give_the_edited_models_logits_is_not_left_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = exporting.plain_model

    def forgetful(model: Any) -> Any:
        made = own(model)
        made.model.layers[1].mlp.down_proj.weight.data.mul_(1.5)
        return made

    monkeypatch.setattr(exporting, "plain_model", forgetful)
    model = load(str(folder), device="cpu")
    with pytest.raises(StoreError, match="does not give the edited model's logits"):
        export(model, [some_edit(model)], folder.parent / "edited")
    assert not [path for path in folder.parent.iterdir() if "edited" in path.name]
