"""A LoRA adapter folder as PEFT writes it, merged into the weights that it was trained beside: W + s B A.

PEFT itself is not needed: its `adapter_config.json` says how large s is (alpha / r, or alpha / sqrt(r) under
rank-stabilised LoRA; some modules may have another alpha), and its `adapter_model.safetensors` holds A [rank, d_in] and
B [d_out, rank] under the name of each module. Sums are taken in the weight's own type, as PEFT's `merge_and_unload`
takes them.

Scope: LoRA on linear layers (`Linear`, GPT-2's `Conv1D`), with nothing else trained. DoRA, trained biases, embeddings
and whole modules that were saved with it, and PEFT's other methods, are refused: merge them with PEFT first. A model is
named with its adapter as BASE+FOLDER, or by the folder alone, whose configuration names its base.
"""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from factscope.errors import ModelError
from factscope.files import read_json
from factscope.model.bridge import ModelInfo

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
NAME = re.compile(r"\^?[\w.]+")  # of a module, or of its last parts
PLAIN: tuple[Any, ...] = (None, False, "none", [], {})  # what a setting that changes the arithmetic must be
ELSE = ("use_dora", "modules_to_save", "bias", "lora_bias", "trainable_token_indices", "target_parameters",
        "layer_replication", "alora_invocation_tokens")  # fmt: skip
REBASED = ("pissa", "olora", "corda", "loftq", "lora_ga")  # beginnings of a training that change the base weights first


@dataclass(frozen=True, eq=False)
class Adapter:
    """What an adapter adds to which modules."""

    folder: Path
    base: str | None  # the model that it was trained beside, as its configuration names it
    settings: dict[str, Any]
    factors: dict[str, dict[str, Tensor]]  # by module: A [rank, d_in] and B [d_out, rank]

    def scale(self, module: str, rank: int) -> float:
        """How much of B A is added to a module's weight."""
        alphas = self.settings.get("alpha_pattern") or {}
        own = next((key for key in alphas if re.match(rf"(.*\.)?({key})$", module)), None)
        alpha = float(alphas[own] if own is not None else self.settings.get("lora_alpha", 8))
        return alpha / math.sqrt(rank) if self.settings.get("use_rslora") else alpha / rank

    def beside(self, base: ModelInfo, source: str) -> ModelInfo:
        """What is known of the base model, under the name of both; `source` is how the base is loaded again."""
        place = self.folder.absolute()
        return replace(base, name=f"{base.name}+{place.name}", source=f"{source}+{place}")


def parted(spec: str) -> tuple[str | None, Path | None]:
    """The base and the adapter's folder that BASE+FOLDER or a folder names; no folder for any other name."""
    base, plus, behind = spec.partition("+")
    if plus and base and (is_adapter(behind) or not Path(spec).expanduser().exists()):
        return base, Path(behind).expanduser()
    return (None, Path(spec).expanduser()) if is_adapter(spec) else (spec, None)


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    place = Path(folder).expanduser()
    return (place / CONFIG).is_file() and not (place / "config.json").is_file()


def read_adapter(folder: Path) -> Adapter:
    """The adapter of a folder. Raises ModelError for what is none, or changes more than linear layers."""
    settings = _settings(folder)
    if (kind := settings.get("peft_type")) != "LORA":
        raise ModelError(f"the adapter in {folder} is of PEFT's kind {kind}, and LORA alone is merged here")
    for name in ELSE:
        if settings.get(name) not in PLAIN:
            raise ModelError(
                f"the adapter in {folder} has {name} = {settings[name]!r}, which is more than W + s B A: merge it with "
                "PEFT (merge_and_unload, save_pretrained) and give that folder"
            )
    if str(settings.get("init_lora_weights")).lower().startswith(REBASED):
        raise ModelError(
            f"the adapter in {folder} was begun as {settings['init_lora_weights']}, which changes the base's weights, "
            "too: merge it with PEFT (merge_and_unload, save_pretrained) and give that folder"
        )
    _check_alphas(folder, settings)
    if not (folder / TENSORS).is_file():
        raise ModelError(f"{folder} has no {TENSORS}; pickled adapters are not opened, they can run code")
    try:
        tensors = load_file(folder / TENSORS)
    except (SafetensorError, OSError) as trouble:
        raise ModelError(f"{folder / TENSORS} could not be read ({trouble}): the file is broken") from trouble
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if (match := KEY.fullmatch(name)) is None:
            raise ModelError(f"{folder / TENSORS} holds {name}, which is no factor of a linear layer")
        factors.setdefault(match[1], {})[match[2]] = tensor
    if not factors or any(set(pair) != {"A", "B"} for pair in factors.values()):
        raise ModelError(f"{folder / TENSORS} does not hold both factors of each module: the file is incomplete")
    return Adapter(folder, settings.get("base_model_name_or_path") or None, settings, factors)


def _settings(folder: Path) -> dict[str, Any]:
    """What the configuration says. Raises ModelError where there is none, or it is no JSON object."""
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} has no {CONFIG}, so it is no adapter's folder")
    try:
        settings = read_json(folder / CONFIG)
    except (OSError, ValueError) as trouble:
        raise ModelError(f"{folder / CONFIG} is not readable JSON ({trouble})") from trouble
    if not isinstance(settings, dict):
        raise ModelError(f"{folder / CONFIG} holds no object with the settings of an adapter")
    return settings


def _check_alphas(folder: Path, settings: dict[str, Any]) -> None:
    """ModelError unless the alphas are numbers, and those of single modules are under names.

    PEFT takes any regular expression for a name, and one that is made for it takes longer to match than anybody waits.
    """
    alphas = settings.get("alpha_pattern") or {}
    named = alphas if isinstance(alphas, dict) else {str(alphas): None}
    if other := next((key for key in named if not NAME.fullmatch(key)), None):
        raise ModelError(f"the adapter in {folder} has an alpha for {other[:80]!r}, which is no name of a module")
    for said in (settings.get("lora_alpha", 8), *named.values()):
        if isinstance(said, bool) or not isinstance(said, int | float):
            raise ModelError(f"the adapter in {folder} has {str(said)[:80]!r} for an alpha, which is no number")


@torch.no_grad()
def merge(network: Any, adapter: Adapter) -> None:
    """Add the adapter to the weights of a Hugging Face model. Raises ModelError for another model's adapter."""
    for name, pair in adapter.factors.items():
        try:
            module = network.get_submodule(name)
        except AttributeError:
            raise ModelError(f"the adapter in {adapter.folder} is another model's: there is no module {name}") from None
        if not isinstance(module, torch.nn.Linear | Conv1D):
            kind = type(module).__name__
            raise ModelError(f"the adapter in {adapter.folder} changes {name}, a {kind} and no linear layer")
        first, second = (pair[side].to(module.weight) for side in "AB")
        turned = isinstance(module, Conv1D)
        there = (second.shape[0], first.shape[-1]) if not turned else (first.shape[-1], second.shape[0])
        if there != tuple(module.weight.shape) or first.shape[0] != second.shape[-1]:
            raise ModelError(
                f"the adapter in {adapter.folder} is another model's: {name} is {tuple(module.weight.shape)} here and "
                f"{there} there"
            )
        change = (second @ first).T if turned else second @ first
        module.weight += change * adapter.scale(name, len(first))
