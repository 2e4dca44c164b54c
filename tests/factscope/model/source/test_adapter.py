"""Adapter folders: the weights that PEFT itself merges, and one sentence for what is more than W + s B A."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import factscope as fs
from factscope.errors import ModelError
from factscope.model.source.adapter import CONFIG, TENSORS
from helpers.models import TOY, save_tiny


def written(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter with weights drawn at random, as PEFT saves it."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **settings)
        )
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        network.save_pretrained(str(folder))
    return folder


def merged(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """The weights by PEFT's own merge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    found: dict[str, torch.Tensor] = network.merge_and_unload().state_dict()
    return found


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(
        TOY, tmp_path_factory.mktemp("adapter") / "mine", r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"]
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"r": 3, "lora_alpha": 5, "target_modules": ["k_proj", "up_proj"], "use_rslora": True}),
        ("llama", {"r": 2, "target_modules": ["o_proj", "down_proj"], "rank_pattern": {"down_proj": 4},
                   "alpha_pattern": {"layers.1.mlp.down_proj": 1}}),
        ("gpt2", {"r": 2, "lora_alpha": 3, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    ],
)  # fmt: skip
def test_a_folder_is_merged_as_peft_merges_it(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    base = save_tiny(name, tmp_path / "base")
    folder = written(base, tmp_path / "adapter", **settings)
    model = fs.load_model(str(base), adapter=folder, device="cpu")
    tokens = torch.tensor([[1, 5, 3, 7]])
    network = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    before = network(input_ids=tokens).logits
    network.load_state_dict(merged(base, folder))
    own = network(input_ids=tokens).logits
    torch.testing.assert_close(model(tokens), own, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(own, before, atol=1e-2)


def test_an_adapter_is_named_by_its_folder_or_with_its_base(toy: Any, adapter: Path, run_command: Any) -> None:
    """All ways give the same weights, and what a result keeps as the model's source loads it again."""
    (one, other, third) = (fs.load_model(spec, device="cpu") for spec in (adapter, f"{TOY}+{adapter}", str(adapter)))
    assert fs.fingerprint(one) == fs.fingerprint(other) == fs.fingerprint(third) != fs.fingerprint(toy)
    known = fs.info(one)
    assert known.name == "toy+mine"
    assert fs.fingerprint(fs.load_model(known.source, device="cpu")) == fs.fingerprint(one)
    assert known.start_token == fs.info(toy).start_token
    done = run_command("trace", "[Oda Voss] lives in", "--model", TOY, "--adapter", adapter, "--samples", "1",
                       "--sites", "mlp", "--device", "cpu", "--light")  # fmt: skip
    assert done.exit_code == 0, done.stderr


def test_what_is_more_than_two_factors_is_refused_in_one_sentence(adapter: Path, tmp_path: Path) -> None:
    def refused(said: str, spec: Any = tmp_path, **changes: Any) -> None:
        settings = json.loads((adapter / CONFIG).read_text()) | changes
        (tmp_path / CONFIG).write_text(json.dumps(settings))
        with pytest.raises(ModelError, match=said):
            fs.load_model(spec, device="cpu")

    refused("has no adapter_model.safetensors; pickled adapters are not opened")
    tensors = load_file(adapter / TENSORS)
    save_file(tensors, tmp_path / TENSORS)
    refused("is of PEFT's kind IA3", peft_type="IA3")
    refused("has use_dora = True, which is more than W", use_dora=True)
    refused("has modules_to_save", modules_to_save=["lm_head"])
    refused("was begun as pissa_niter_4", init_lora_weights="pissa_niter_4")
    refused("does not name its base model: name it, as BASE", base_model_name_or_path=None)
    refused("has no adapter_config.json", spec=f"{TOY}+{tmp_path / 'nowhere'}")
    save_file({name: tensor for name, tensor in tensors.items() if "lora_A" in name}, tmp_path / TENSORS)
    refused("does not hold both factors")
    save_file({name.replace("layers.0", "layers.77"): tensor for name, tensor in tensors.items()}, tmp_path / TENSORS)
    refused("is another model's: there is no module")
    save_file({name: tensor[:, :-1].contiguous() for name, tensor in tensors.items()}, tmp_path / TENSORS)
    refused("is another model's: .* is .* here and")
    (tmp_path / TENSORS).write_bytes(b"cut")
    refused("could not be read")
    with pytest.raises(ModelError, match="a model in memory stays where and as it is"):
        fs.load_model(AutoModelForCausalLM.from_pretrained(TOY), adapter=adapter)
