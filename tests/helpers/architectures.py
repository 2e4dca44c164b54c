"""Every causal family that transformers and TransformerLens both know, as random models small enough for a test.

A `Family` is the name of a transformers configuration and what differs in it from the common sizes: two layers, two
heads, sixteen dimensions. Some families stand here several times, where a setting changes what the blocks compute: a
window shorter than the prompt, a residual stream that attention and MLP read alike, biases under grouped queries.
Nothing here knows what Factscope can do with a family; `tests/factscope/model/test_architectures.py` asks.
"""

import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from helpers.models import TOY

LAYERS, WIDTH = 2, 16
_NAMES: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_COMMON = _NAMES | {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "intermediate_size": 24,
}
_GROUPED = _COMMON | {"num_key_value_heads": 1}
_GPT2 = _NAMES | {"n_positions": 64, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2}
_ROTARY = _GPT2 | {"n_ctx": 64, "rotary_dim": 4, "tie_word_embeddings": False}
_FALCON = _NAMES | {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
_EXPERTS = _GROUPED | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_WINDOW: dict[str, Any] = {"sliding_window": 4}
_LATENT: dict[str, Any] = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
_LATENT |= {"head_dim": 4, "num_key_value_heads": 2}
_STATE: dict[str, Any] = {
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 4,
    "mamba_expand": 2,
}


@dataclass(frozen=True)
class Family:
    """One row of the table."""

    kind: str  # transformers' name, `model_type`
    settings: dict[str, Any] = field(default_factory=dict)


def _family(kind: str, common: dict[str, Any] = _GROUPED, **settings: Any) -> Family:
    return Family(kind, common | settings)


FAMILIES: dict[str, Family] = {
    "gpt2": _family("gpt2", _GPT2),
    "openai-gpt": _family("openai-gpt", _GPT2),
    "gpt_bigcode": _family("gpt_bigcode", _GPT2, multi_query=True),
    "gpt_neo": _family(
        "gpt_neo", _COMMON, num_layers=LAYERS, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=4
    ),
    "gpt_neox": _family("gpt_neox", _COMMON, use_parallel_residual=True, rotary_pct=0.5),
    "gpt_neox sequential": _family("gpt_neox", _COMMON, use_parallel_residual=False),
    "gptj": _family("gptj", _ROTARY),
    "codegen": _family("codegen", _ROTARY, n_head=4),
    "opt": _family("opt", _COMMON, ffn_dim=64, word_embed_proj_dim=WIDTH),
    "opt narrow": _family("opt", _COMMON, ffn_dim=24, word_embed_proj_dim=WIDTH),
    "opt projected": _family("opt", _COMMON, ffn_dim=24, word_embed_proj_dim=8, do_layer_norm_before=False),
    "xglm": _family("xglm", _NAMES, d_model=WIDTH, num_layers=LAYERS, attention_heads=2, ffn_dim=24),
    "bloom": _family("bloom", _NAMES, hidden_size=WIDTH, n_layer=LAYERS, n_head=2),
    "falcon 7b": _family("falcon", _FALCON, multi_query=True, parallel_attn=True, alibi=False, bias=False),
    "falcon 40b": _family("falcon", _FALCON, num_kv_heads=1, new_decoder_architecture=True, alibi=False, bias=False),
    "falcon rw": _family("falcon", _FALCON, multi_query=False, parallel_attn=False, alibi=True, bias=True),
    "mpt": _family("mpt", {}, d_model=WIDTH, n_layers=LAYERS, n_heads=2, expansion_ratio=2, max_seq_len=64),
    "phi": _family("phi", _COMMON, partial_rotary_factor=0.5),
    "phi3": _family("phi3"),
    "llama": _family("llama", tie_word_embeddings=True),
    "llama untied": _family("llama"),
    "llama biased": _family("llama", attention_bias=True, mlp_bias=True),
    "llama wide heads": _family("llama", head_dim=16),
    "mistral": _family("mistral", **_WINDOW),
    "ministral3": _family("ministral3", head_dim=8, **_WINDOW),
    "qwen2": _family("qwen2"),
    "qwen2 window": _family("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": _family("qwen3", head_dim=8),
    "gemma": _family("gemma", head_dim=8),
    "gemma2": _family("gemma2", head_dim=8, final_logit_softcapping=3.0, attn_logit_softcapping=5.0, **_WINDOW),
    "gemma3": _family("gemma3_text", head_dim=8, layer_types=["sliding_attention", "full_attention"], **_WINDOW),
    "gemma4": _family(
        "gemma4_text",
        head_dim=8,
        global_head_dim=8,
        layer_types=["sliding_attention", "full_attention"],
        vocab_size_per_layer_input=600,
        hidden_size_per_layer_input=4,
        **_WINDOW,
    ),
    "vaultgemma": _family("vaultgemma", head_dim=8, **_WINDOW),
    "granite": _family(
        "granite", logits_scaling=4.0, residual_multiplier=0.5, embedding_multiplier=2.0, attention_multiplier=0.3
    ),
    "cohere": _family("cohere", logit_scale=0.25),
    "cohere2": _family("cohere2", head_dim=8, layer_types=["sliding_attention", "full_attention"], **_WINDOW),
    "olmo": _family("olmo", clip_qkv=0.5),
    "olmo2": _family("olmo2"),
    "olmo3": _family("olmo3", **_WINDOW),
    "stablelm": _family("stablelm", partial_rotary_factor=0.5),
    "stablelm parallel": _family("stablelm", partial_rotary_factor=0.5, use_parallel_residual=True, qk_layernorm=True),
    "starcoder2": _family("starcoder2", use_bias=True, **_WINDOW),
    "smollm3": _family("smollm3", no_rope_layers=[1, 0]),
    "exaone4": _family("exaone4", head_dim=8, layer_types=["sliding_attention", "full_attention"], **_WINDOW),
    "glm": _family("glm", head_dim=8),
    "glm4": _family("glm4", head_dim=8),
    "nemotron": _family("nemotron", head_dim=8),
    "arcee": _family("arcee"),
    "apertus": _family("apertus"),
    "bitnet": _family("bitnet"),
    "ernie4_5": _family("ernie4_5", head_dim=8),
    "hunyuan": _family("hunyuan_v1_dense", head_dim=8),
    "jais2": _family("jais2"),
    "nanochat": _family("nanochat"),
    "seed_oss": _family("seed_oss", head_dim=8),
    "modernbert decoder": _family("modernbert-decoder", _COMMON, local_attention=4),
    "youtu": _family("youtu", **_LATENT),
    "hrm_text": _family("hrm_text"),
    "bert": _family("bert", _COMMON, is_decoder=True),
    "bert both ways": _family("bert", _COMMON),
    # Mixtures of experts.
    "mixtral": _family("mixtral", _EXPERTS),
    "olmoe": _family("olmoe", _EXPERTS),
    "flex_olmo": _family("flex_olmo", _EXPERTS),
    "qwen2_moe": _family("qwen2_moe", _EXPERTS, shared_expert_intermediate_size=12),
    "qwen3_moe": _family("qwen3_moe", _EXPERTS, head_dim=8),
    "granitemoe": _family("granitemoe", _EXPERTS),
    "jetmoe": _family("jetmoe", _EXPERTS, kv_channels=8),
    "gpt_oss": _family("gpt_oss", _EXPERTS, head_dim=8, layer_types=["sliding_attention", "full_attention"], **_WINDOW),
    "ernie4_5_moe": _family("ernie4_5_moe", _EXPERTS, moe_num_experts=4, moe_k=2),
    "afmoe": _family("afmoe", _EXPERTS, head_dim=8),
    "laguna": _family("laguna", _EXPERTS, head_dim=8),
    "minimax_m2": _family("minimax_m2", _EXPERTS, head_dim=8),
    "llama4": _family("llama4_text", _EXPERTS, head_dim=8, intermediate_size_mlp=24),
    "deepseek_v2": _family("deepseek_v2", _EXPERTS, n_routed_experts=4, n_shared_experts=1, **_LATENT),
    "deepseek_v3": _family("deepseek_v3", _EXPERTS, n_routed_experts=4, n_group=1, topk_group=1, **_LATENT),
    "deepseek_v4": _family(
        "deepseek_v4", _EXPERTS, n_routed_experts=4, head_dim=8, q_lora_rank=8, o_lora_rank=8, index_head_dim=8
    ),
    "glm4_moe": _family("glm4_moe", _EXPERTS, head_dim=8, n_routed_experts=4),
    "glm4_moe_lite": _family("glm4_moe_lite", _EXPERTS, n_routed_experts=4, **_LATENT),
    # Layers that keep a state instead of attending, alone or beside attention.
    "mamba": _family("mamba", _COMMON),
    "mamba2": _family("mamba2", _COMMON, num_heads=4, head_dim=8, n_groups=1),
    "falcon_mamba": _family("falcon_mamba", _COMMON),
    "falcon_h1": _family("falcon_h1", head_dim=8, mamba_d_ssm=32, **_STATE),
    "rwkv": _family("rwkv", _COMMON),
    "bamba": _family("bamba", attn_layer_indices=[1], **_STATE),
    "granitemoehybrid": _family("granitemoehybrid", _EXPERTS, layer_types=["mamba", "attention"], **_STATE),
    "jamba": _family("jamba", _EXPERTS, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False),
    "lfm2": _family("lfm2", layer_types=["conv", "full_attention"]),
    "lfm2_moe": _family("lfm2_moe", _EXPERTS, layer_types=["conv", "full_attention"]),
    "nemotron_h": _family(
        "nemotron_h", head_dim=8, hybrid_override_pattern="M*", mamba_num_heads=4, mamba_head_dim=8, n_groups=1
    ),
    "olmo_hybrid": _family("olmo_hybrid", layer_types=["linear_attention", "full_attention"]),
    "qwen3_next": _family("qwen3_next", _EXPERTS, head_dim=8, layer_types=["linear_attention", "full_attention"]),
    "qwen3_5": _family("qwen3_5_text", head_dim=8, layer_types=["linear_attention", "full_attention"]),
    "qwen3_5_moe": _family(
        "qwen3_5_moe_text", _EXPERTS, head_dim=8, layer_types=["linear_attention", "full_attention"]
    ),
    "recurrent_gemma": _family("recurrent_gemma", head_dim=8, block_types=["recurrent", "attention"]),
    "zamba2": _family("zamba2", layers_block_type=["mamba", "hybrid"], mamba_d_state=4),
}


@cache
def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TOY)


def save_family(name: str, folder: Path) -> Path:
    """Write the family's random model, with the toy's tokenizer, as a Hugging Face folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family = FAMILIES[name]
    config = type(AutoConfig.for_model(family.kind))(vocab_size=len(_tokenizer()), **family.settings)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # initial weights are too small to tell states apart
            parameter.add_(torch.randn_like(parameter) * 0.1)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def plain(folder: str | Path) -> Any:
    """The model of a folder in plain transformers: what everything is held against."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
