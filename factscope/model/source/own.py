"""A model that is in memory already: what it may be, and in one sentence why not.

A Hugging Face model comes with its tokenizer, and is wrapped where it is: its weights are shared, not copied, its
attention is computed step by step (`eager`), and its weights ask for no gradient from then on. A model in training mode
is refused rather than put into another: whose it is may be in the middle of a training. A PEFT model is copied and its
adapters merged into the copy, since weights and adapter together are what speaks. A TransformerLens bridge is taken as
it is, once its weights are raw.
"""

import copy
from typing import Any

from factscope.errors import ModelError
from factscope.model.bridge import TRAINING
from factscope.model.source.checkpoint import check_config, check_finite

LEAST = 0.9  # of a model's rows of embeddings that its own tokenizer names; models are padded by some per cent


def name_of(model: Any) -> str:
    """What sentences call a model in memory: where it was loaded from, else its class."""
    config = getattr(model, "config", None)
    return str(getattr(config, "_name_or_path", "") or type(model).__name__)


def is_bridge(model: Any) -> bool:
    """Whether TransformerLens has wrapped it already."""
    return all(hasattr(model, part) for part in ("original_model", "adapter", "cfg", "tl_named_parameters"))


def check_bridge(model: Any) -> None:
    """ModelError for a bridge that cannot be used as it is: folded weights, no tokenizer."""
    if getattr(model, "compatibility_mode", False):
        raise ModelError(
            "this bridge is in TransformerLens's compatibility mode, whose weights are folded; what is traced and "
            "edited here are raw weights: boot it again without enable_compatibility_mode()"
        )
    if getattr(model, "tokenizer", None) is None:
        raise ModelError("this bridge has no tokenizer, so no text reaches it: boot it with tokenizer=...")
    if model.original_model.training:
        raise ModelError(f"{name_of(model.original_model)} is {TRAINING}")


def plain(model: Any) -> Any:
    """The Hugging Face model to wrap: the model itself, or a copy with its PEFT adapters merged.

    Raises ModelError for what is none, or is wrapped already.
    """
    from transformers import PreTrainedModel

    names = [cls.__name__ for cls in type(model).__mro__]
    if "PeftModel" in names:
        return copy.deepcopy(model).merge_and_unload(safe_merge=True).eval()
    if any(name.startswith("Hooked") for name in names):
        raise ModelError(
            f"a {names[0]} has folded, centred weights of its own; give the Hugging Face model that it was made from, "
            "or a TransformerBridge"
        )
    if not isinstance(model, PreTrainedModel):
        article = "an" if names[0][0].lower() in "aeiou" else "a"
        raise ModelError(
            f"{article} {names[0]} is no model that can be loaded: give a name, a folder, a Hugging Face model with "
            "its tokenizer, a PEFT model, or a TransformerBridge"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(
            f"{name_of(model)} has adapters between its weights; give the PeftModel, or merge them into the weights"
        )
    if any("_original_component" in name for name, _ in model.named_modules()):
        raise ModelError(f"{name_of(model)} is inside a bridge already: use the bridge that wraps it")
    return model


def check_again(model: Any, tokenizer: Any, other: Any) -> None:
    """ModelError for a model that is held with `tokenizer` and cannot be used with `other`, the one given now, or None.

    Two tokenizers are alike if their words, their special tokens and their chat template are.
    """
    check(model, tokenizer if other is None else other)
    told = [(one.get_vocab(), one.bos_token, one.eos_token, one.chat_template) for one in (tokenizer, other) if one]
    if told[-1] != told[0]:
        raise ModelError(
            f"{name_of(model)} is loaded already, with another tokenizer: load the model again for this one"
        )


def check(model: Any, tokenizer: Any) -> None:
    """ModelError for a model or a tokenizer that cannot be used: training, devices, quantised, another vocabulary."""
    from transformers import PreTrainedTokenizerBase

    name = name_of(model)
    if tokenizer is None:
        raise ModelError(f"{name} has no tokenizer with it; give the model's own: load_model(model, tokenizer=...)")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"the tokenizer is a {type(tokenizer).__name__}, where one of transformers is needed, as "
            "AutoTokenizer.from_pretrained gives it"
        )
    if model.training:
        raise ModelError(f"{name} is {TRAINING}")
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if devices == ["meta"]:
        raise ModelError(f"{name} has no weights in memory yet (they are on the meta device); load them first")
    if len(devices) > 1 and getattr(model, "hf_device_map", None) is None:
        raise ModelError(f"{name} is on {' and '.join(devices)}; move it to one device first")
    check_config(name, model.config)
    packed = [part for part, module in model.named_modules() if _packed(module)]
    if packed:
        raise ModelError(
            f"{name} is quantised ({packed[0]} has no weights of floating point), and what is traced and edited here "
            "are plain weights: give the model it was made from, or a .gguf file"
        )
    check_finite(name, model)
    words, rows = len(tokenizer), model.get_input_embeddings().weight.shape[0]
    if not LEAST * rows <= words <= rows:
        raise ModelError(
            f"the tokenizer has {words} tokens and {name} has {rows}: it is another model's; give the model's own"
        )


def _packed(module: Any) -> bool:
    """Whether a module's weight is no tensor of floating point: packed away by a quantiser."""
    weight = getattr(module, "weight", None)
    return callable(weight) or (weight is not None and hasattr(weight, "dtype") and not weight.is_floating_point())
