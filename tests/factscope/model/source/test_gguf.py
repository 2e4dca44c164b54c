"""A model that comes quantised, in a GGUF file: its weights are what the format says, and an edit is made of them.

The file is written here: a random Llama whose matrices are in seven formats. What three of them mean is written down
here once more, from ggml's own description; the others are held against the `gguf` package.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Format
from transformers import LlamaConfig, LlamaForCausalLM

import factscope as fs
from helpers.models import TOY

HEADS, WIDTH, INNER, LAYERS = 4, 64, 256, 2  # rows of 64 hold two blocks of 32 weights, rows of 256 one of the K kind
FORMATS = {
    "attn_q": Format.Q8_0, "attn_k": Format.Q4_0, "attn_v": Format.Q4_1, "attn_output": Format.Q5_0,
    "ffn_gate": Format.F16, "ffn_up": Format.Q5_1, "ffn_down": Format.Q6_K,
}  # fmt: skip
NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


def by_hand(data: np.ndarray, kind: Format) -> np.ndarray:
    """Blocks of 32 weights, row by row: a scale in half precision (Q4_1: and a least value), then the codes."""
    size = {Format.Q8_0: 34, Format.Q4_0: 18, Format.Q4_1: 20}[kind]
    rows = data.reshape(data.shape[0], -1, size)
    scale = rows[..., :2].copy().view(np.float16).astype(np.float32)
    if kind is Format.Q8_0:
        return (scale * rows[..., 2:].view(np.int8)).reshape(len(data), -1)
    packed = rows[..., size - 16 :]
    codes = np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.float32)  # low halves first
    least = rows[..., 2:4].copy().view(np.float16).astype(np.float32) if kind is Format.Q4_1 else -8 * scale
    return (scale * codes + least).reshape(len(data), -1)


def packed(rows: int, columns: int, kind: Format, draw: np.random.Generator) -> np.ndarray:
    """Random weights in a format, some hundredths large."""
    if kind is not Format.Q6_K:
        drawn: np.ndarray = gguf.quantize(draw.normal(0, 0.1, (rows, columns)).astype(np.float32), kind)
        return drawn
    blocks = draw.integers(0, 256, (rows * columns // 256, 210), dtype=np.uint8)  # any codes, any 8-bit scales
    blocks[:, 208:] = np.array([2e-5], np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def rotated(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys as transformers has them: GGUF has the two halves of each head in turns."""
    each = weight.reshape(heads, -1, 2, weight.shape[-1])
    return np.concatenate([each[:, :, 0], each[:, :, 1]], axis=1).reshape(weight.shape)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A GGUF file with the toy's tokenizer, and what its matrices are under transformers' names."""
    file, draw = tmp_path_factory.mktemp("gguf") / "tiny.gguf", np.random.default_rng(0)
    tokenizer = json.loads((TOY / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    words = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS // 2)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3] + [1] * (len(words) - 1))  # the first controls, the others are text
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    weights: dict[str, np.ndarray] = {}

    def add(name: str, rows: int, columns: int, kind: Format, ours: str) -> None:
        data = packed(rows, columns, kind, draw)
        writer.add_tensor(name, data, raw_dtype=kind)
        read = by_hand if kind in (Format.Q8_0, Format.Q4_0, Format.Q4_1) else gguf.dequantize
        weights[ours] = read(data, kind)

    add("token_embd.weight", len(words), WIDTH, Format.Q8_0, "model.embed_tokens.weight")
    for layer in range(LAYERS):
        for name, kind in FORMATS.items():
            rows = INNER if name in ("ffn_gate", "ffn_up") else WIDTH // 2 if name in ("attn_k", "attn_v") else WIDTH
            ours = f"model.layers.{layer}.{NAMES[name]}.weight"
            add(f"blk.{layer}.{name}.weight", rows, INNER if name == "ffn_down" else WIDTH, kind, ours)
            if name in ("attn_q", "attn_k"):
                weights[ours] = rotated(weights[ours], HEADS // (2 if name == "attn_k" else 1))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file, weights


@pytest.fixture(scope="module")
def model(written: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACTSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return fs.load_model(str(written[0]), device="cpu")


def test_its_weights_are_what_the_format_says(written: tuple[Path, dict[str, np.ndarray]], model: Any) -> None:
    """And the model is plain transformers' own with these weights, in float32."""
    _, weights = written
    assert all(parameter.dtype is torch.float32 for parameter in model.original_model.parameters())
    config = LlamaConfig(
        vocab_size=len(weights["model.embed_tokens.weight"]), hidden_size=WIDTH, intermediate_size=INNER,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=HEADS // 2, rms_norm_eps=1e-6,
        max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    plain = LlamaForCausalLM(config).eval()
    missing = plain.load_state_dict({name: torch.from_numpy(one.copy()) for name, one in weights.items()}, strict=False)
    assert all(name.endswith(("norm.weight", "lm_head.weight")) for name in missing.missing_keys)
    assert not missing.unexpected_keys
    tokens = torch.arange(1, 12)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), plain(tokens).logits, atol=1e-5, rtol=1e-5)  # float32, two layers
    own = fs.plain_model(model).state_dict()
    assert {name for name, one in weights.items() if not torch.from_numpy(one).equal(own[name])} == set()


def test_it_is_edited_as_any_other_and_the_file_stays(written: tuple[Path, Any], model: Any) -> None:
    """An edit is of the float32 weights; there is no way back into the file's formats, and none is tried."""
    file, _ = written
    before = hashlib.sha256(file.read_bytes()).digest()
    request = fs.EditRequest("Oda Voss lives in", "Oda Voss", "Vey")
    whole = fs.fingerprint(model)
    edit = fs.edit(model, request, "rome", settings={"layer": 0, "steps": 2}, moments="identity")
    with edit.applied(model):
        assert fs.fingerprint(model) != whole
    assert fs.fingerprint(model) == whole
    assert hashlib.sha256(file.read_bytes()).digest() == before
