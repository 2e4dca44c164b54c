"""A GGUF file that is no whole model is told from one that is by its header, in one sentence, before any work."""

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Format
from transformers import GPT2Config, GPT2LMHeadModel

from factscope.errors import ModelError
from factscope.model.load import load
from factscope.model.source.gguf_header import check_gguf, read_header
from helpers.models import TOY

WORDS = ("<s>", "a", "b")


def write(file: Path, *, architecture: str = "llama", tokenizer: bool = True, **pairs: str | int) -> Path:
    """Two tensors in two formats, and whatever else the file says of itself."""
    writer = gguf.GGUFWriter(file, architecture)
    for key, value in pairs.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint16)(key.replace("__", "."), value)
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(list(WORDS))
    writer.add_tensor("token_embd.weight", np.ones((3, 64), np.float32))
    drawn = gguf.quantize(np.ones((3, 64), np.float32), Format.Q4_0)
    writer.add_tensor("output.weight", drawn, raw_dtype=Format.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_the_header_is_what_was_written_and_every_shorter_file_is_refused(tmp_path: Path) -> None:
    """Wherever a download stops, the file is refused; whole, it is as long as its header asks for, but for padding."""
    file = write(tmp_path / "m.gguf", llama__context_length=64)
    header = read_header(file)
    assert header.tensors == 2
    assert header.said["general.architecture"] == "llama"
    assert header.said["llama.context_length"] == 64
    assert header.said["tokenizer.ggml.tokens"] == len(WORDS)
    whole = file.read_bytes()
    assert header.size <= len(whole) < header.size + 32
    check_gguf(file)
    for size in range(header.size):
        (tmp_path / "part.gguf").write_bytes(whole[:size])
        with pytest.raises(ModelError, match="cut short"):
            check_gguf(tmp_path / "part.gguf")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: write(file, split__count=2, split__no=0), "one of 2 parts"),
        (lambda file: write(file, general__type="adapter", tokenizer=False), "LoRA"),
        (lambda file: write(file, general__type="mmproj", tokenizer=False), "vision part"),
        (lambda file: write(file, architecture="clip", tokenizer=False), "vision part"),
        (lambda file: write(file, general__type="imatrix"), "imatrix"),
        (lambda file: write(file, tokenizer=False), "no tokenizer"),
        (lambda file: write(file, architecture="rwkv7"), "architecture rwkv7"),
        (lambda file: file.write_bytes(b"PK\x03\x04" * 9), "another format"),
        (lambda file: file.mkdir(), "there is no file"),
        (lambda file: file.with_suffix(".bin"), "there is no file"),
    ],
)
def test_what_is_no_model_is_told_by_what_it_is(
    make: Callable[[Path], object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "cache"))
    make(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match=words) as told:
        load(str(tmp_path / "m.gguf"), device="cpu")
    assert "\n" not in str(told.value)


def test_a_folder_with_a_gguf_file_alone_names_the_file(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match=r"give the GGUF file in it, .*m\.gguf"):
        load(str(tmp_path), device="cpu")


def test_a_gpt2_of_another_length_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The length of the context is in the file; the logits are those of the model that was written."""
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "cache"))
    tokenizer = json.loads((TOY / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    words = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=48, vocab_size=len(words))
    plain = GPT2LMHeadModel(config).eval()
    file = tmp_path / "tiny.GGUF"
    writer = gguf.GGUFWriter(file, "gpt2")
    writer.add_context_length(48)
    writer.add_block_count(2)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, 2)
    for name, weight in plain.state_dict().items():
        if name != "lm_head.weight":  # it is the embedding
            across = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))  # GPT-2's are [in out]
            there = names.get_name(name, try_suffixes=(".weight", ".bias"))
            writer.add_tensor(there, np.ascontiguousarray((weight.T if across else weight).numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = load(str(file), device="cpu")
    tokens = torch.arange(1, 12)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), plain(tokens).logits, atol=1e-5, rtol=1e-5)  # float32, two layers
