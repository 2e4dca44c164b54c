"""Whether a checkpoint is what it says, and what runs is what it holds: asked before anything else is done with it.

transformers draws a weight that the files do not have at random, leaves out what it has no place for, and says so in a
warning. Here both are errors that name the tensors. What is then loaded is asked for its logits on a few tokens by
plain transformers, before TransformerLens wraps it, so that the wrapped model can be held against them; and a model
whose logits depend on what comes after is not one that continues texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factscope.errors import ModelError
from factscope.model.agreement import agree

MOST_LAYERS = 10_000  # transformers makes each of them before it looks at the weights
PROBE = 11  # tokens of the row that a model is held against itself on
_DERIVED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")


def check_config(spec: str, config: Any) -> None:
    """ModelError for weights that are quantised, for code that is named, and for another kind of model than we read."""
    how = getattr(config, "quantization_config", None)
    if how:
        method = how.get("quant_method", "") if isinstance(how, Mapping) else getattr(how, "quant_method", "")
        raise ModelError(
            f"{spec} is quantised ({getattr(method, 'value', method) or 'by an unknown method'}), and what is traced "
            "and edited here are plain weights: give the model it was made from, or a .gguf file"
        )
    kernel = getattr(config, "_attn_implementation", None)
    if any("/" in str(one) for one in (kernel.values() if isinstance(kernel, Mapping) else [kernel])):
        raise ModelError(f"{spec} asks for attention by code from elsewhere ({str(kernel)[:80]}), and none is fetched")
    layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise ModelError(f"the config.json of {spec} asks for {layers} layers, more than any model has")
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{spec} ({config.model_type}) is an encoder with a decoder, not a causal language model")


def check_tensors(spec: str, loading: Mapping[str, Any]) -> None:
    """ModelError, with the tensors' names, where the files lack weights of the model or hold weights it has not.

    `loading` is what `from_pretrained(..., output_loading_info=True)` gives. Buffers that a model derives from its
    configuration, which old checkpoints hold, are left out.
    """
    missing = sorted(loading["missing_keys"])
    beyond = sorted(name for name in loading["unexpected_keys"] if not name.endswith(_DERIVED))
    if missing and beyond:
        raise ModelError(
            f"the tensors of {spec} have other names than its config.json asks for: there is {_first(beyond)}, and "
            f"{_first(missing)} is wanted"
        )
    if missing:
        raise ModelError(f"{spec} is not whole: its files do not hold {_first(missing)}")
    if beyond:
        raise ModelError(
            f"the files of {spec} hold {_first(beyond)}, for which its config.json has no place: it describes another "
            "or a smaller model"
        )


def check_finite(spec: str, network: Any) -> None:
    """ModelError for weights that are NaN or infinite."""
    bad = [name for name, parameter in network.named_parameters() if not _finite(parameter)]
    if bad:
        raise ModelError(
            f"{spec} has weights that are not finite (NaN or infinite), in {_first(bad)}: the file is damaged, or its "
            "numbers overflow this dtype"
        )


def _finite(weight: Tensor) -> bool:
    """Whether all numbers are: a sum that is a number has only such, and takes a fraction of the time to be sure."""
    total = weight.detach().sum(dtype=torch.promote_types(weight.dtype, torch.float32))
    return bool(total.isfinite()) or bool(torch.isfinite(weight).all())


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def probe(size: int, device: Any) -> Int[Tensor, "2 pos"]:
    """Two rows of tokens out of a vocabulary of `size`, which differ in the last."""
    row = torch.arange(1, PROBE + 1) * max(1, size // (PROBE + 2)) % size
    other = row.clone()
    other[-1] = 1
    return torch.stack([row, other]).to(device)


@torch.no_grad()
def own_logits(spec: str, network: Any) -> tuple[Tensor, Float[Tensor, "2 pos vocab"]]:
    """Probe tokens and what plain transformers answers; ModelError unless it is finite, and the model causal."""
    table = network.get_input_embeddings().weight
    tokens = probe(table.shape[0], table.device)
    logits = network(input_ids=tokens, use_cache=False).logits
    if not torch.isfinite(logits).all():
        raise ModelError(
            f"the logits of {spec} are not finite (NaN or infinite) in {str(logits.dtype)[6:]}: use float32"
        )
    if not agree(logits[1, :-1], logits[0, :-1]):
        raise ModelError(
            f"{spec} ({network.config.model_type}) reads what comes after a token too, so it is not a causal language "
            "model"
        )
    return tokens, logits
