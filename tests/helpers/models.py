"""Tiny random models of each architecture that matters, where the trained toy lies, and whether one was given back."""

from pathlib import Path
from typing import Any

import torch

TOY = Path(__file__).parents[1] / "toy"


def configs(vocab: int) -> dict[str, Any]:
    from transformers import (
        CohereConfig,
        Gemma2Config,
        Gemma3TextConfig,
        GPT2Config,
        GPTJConfig,
        GPTNeoXConfig,
        GraniteConfig,
        LlamaConfig,
        Olmo2Config,
    )

    common = {"vocab_size": vocab, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    common |= {"max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0}
    return {
        "gpt2": GPT2Config(
            vocab_size=vocab, n_positions=64, n_embd=32, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0
        ),
        "llama": LlamaConfig(**common, intermediate_size=48, num_key_value_heads=2, tie_word_embeddings=True),
        "olmo2": Olmo2Config(**common, intermediate_size=48, num_key_value_heads=2),
        "neox": GPTNeoXConfig(**common, intermediate_size=64, use_parallel_residual=True),
        "gemma3": Gemma3TextConfig(
            **common,
            intermediate_size=48,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=8,
            layer_types=_GEMMA_LAYERS,
        ),
        # What follows the unembedding: a soft cap, two multipliers, a bias.
        "gemma2": Gemma2Config(
            **common, intermediate_size=48, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0
        ),
        "granite": GraniteConfig(**common, intermediate_size=48, num_key_value_heads=2, logits_scaling=4.0),
        "cohere": CohereConfig(**common, intermediate_size=48, num_key_value_heads=2, logit_scale=0.25),
        "gptj": GPTJConfig(
            vocab_size=vocab,
            n_positions=64,
            n_embd=32,
            n_layer=4,
            n_head=4,
            rotary_dim=4,
            bos_token_id=0,
            eos_token_id=0,
        ),
    }


_GEMMA_LAYERS = ["sliding_attention", "full_attention"] * 2


def save_tiny(name: str, folder: Path, layers: int = 4, seed: int = 0) -> Path:
    """Write a random model of one architecture, with the toy's tokenizer, as a Hugging Face folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOY)
    config = configs(len(tokenizer))[name]
    if layers != 4:
        setattr(config, "n_layer" if hasattr(config, "n_layer") else "num_hidden_layers", layers)
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # initial weights are too small to tell states apart
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def hooks_left(model: Any) -> list[str]:
    """Names of hook points that still carry a hook: empty when everything was given back."""
    return sorted(name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks)
