"""What others may ask of a loaded model: the attributes that we touch, where it came from, and its device.

`Bridge` is the whole of what Factscope takes of TransformerLens's TransformerBridge, which is passed around as it is. A
version of the library that keeps these attributes is a version that works.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from factscope.errors import ModelError
from factscope.model.source.carried import start_of
from factscope.model.source.registry import Entry, Wheel

TRAINING = "in training mode, in which dropout makes each pass another: call its eval()"


class Bridge(Protocol):
    """A loaded model: TransformerLens's bridge over a Hugging Face model's own modules and weights.

    Its modules carry the original ones as `original_component`. Calling it with tokens gives logits.
    """

    cfg: Any  # sizes, the architecture's name, the flags of hooks.flags
    tokenizer: Any  # the Hugging Face tokenizer
    original_model: Any  # the Hugging Face model, whose modules the bridge has wrapped in place
    adapter: Any  # the architecture's own: what follows the unembedding
    embed: Any
    blocks: Any  # one a layer, with ln1, attn, ln2, mlp
    ln_final: Any
    unembed: Any
    hook_dict: Any  # hook points by name

    def __call__(self, tokens: Tensor, /, **how: Any) -> Any:
        """Logits [row, pos, vocab] of tokens [row, pos]."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters with PyTorch's names."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """All modules, wrappers and hook points among them."""
        ...

    def tl_named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All weights with TransformerLens's names, in its orientation."""
        ...

    def to(self, *where: Any) -> Any:
        """Move the weights, or change their type."""
        ...


@dataclass(frozen=True)
class ModelInfo:
    """Which model this is, as far as we know; travels on the bridge as `model.factscope`."""

    name: str
    source: str
    licence: str
    start_token: str | None
    edit_layers: tuple[int, ...]  # where MEMIT spreads an edit
    edit_layer: int  # where ROME writes


def info(model: Bridge) -> ModelInfo:
    """What is known of `model`; for a bridge that `load` did not make, as much as the bridge itself tells.

    Raises ModelError for what is no bridge, and for one in training mode.
    """
    if not hasattr(model, "cfg") or not hasattr(model, "original_model"):
        raise ModelError(
            f"a {type(model).__name__} is not ready to be asked: give it to fs.load_model(model, tokenizer=...) first"
        )
    if model.original_model.training:
        raise ModelError(f"the model is {TRAINING}")
    known: ModelInfo | None = getattr(model, "factscope", None)
    return known if known is not None else info_of(model, str(model.cfg.model_name), str(model.cfg.model_name), None)


def in_short(model: Bridge) -> str:
    """A model in one line: its name, size, type, place, and what begins a text."""
    cfg, weight = model.cfg, next(model.parameters())
    known = info(model)
    start = known.start_token
    return (
        f"{known.name}: {architecture(model)}, {cfg.n_layers} layers of {cfg.n_heads} heads, width {cfg.d_model}, "
        f"{cfg.d_vocab} tokens, {str(weight.dtype)[6:]} on {weight.device}; a text begins with {start or 'no token'}"
    )


@contextmanager
def without_gradients(model: Bridge) -> Iterator[None]:
    """In the block no weight asks for a gradient; those that did do so again afterwards."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def device(model: Bridge) -> torch.device:
    """Where the model's input goes."""
    found: torch.device = next(model.embed.parameters()).device
    return found


def device_name(model: Bridge) -> str:
    """What the model runs on, in words: cpu, or the name of its GPU; of several devices all, the input's first."""
    places = dict.fromkeys((device(model), *(each.device for each in model.original_model.parameters())))
    return " + ".join(torch.cuda.get_device_name(one) if one.type == "cuda" else one.type for one in places)


def spread(model: Bridge) -> bool:
    """Whether the model lies on several devices."""
    return len({each.device for each in model.original_model.parameters()}) > 1


def device_of(module: Any, like: Tensor) -> torch.device:
    """Where one module's input goes; where `like` is, if the module has no weights."""
    parameter = next(module.parameters(), None)
    return like.device if parameter is None else parameter.device


def run_blocks(model: Bridge, tokens: Tensor, cache: Any = None, keep: bool = False) -> Any:
    """Run `tokens` [row, pos] through all blocks and not through the unembedding, most of a small model's work.

    Args:
        cache: keys and values of what stands before, to go on from.
        keep: whether keys and values are kept; they are `.past_key_values` of what is returned.
    """
    return model.original_model.base_model(input_ids=tokens, past_key_values=cache, use_cache=keep or cache is not None)


def run_up_to(model: Bridge, tokens: Tensor, layer: int) -> None:
    """Run `tokens` [row, pos] through the blocks up to this one, for the hooks that hear them: nothing above runs."""
    if layer + 1 < model.cfg.n_layers:
        model(tokens, use_cache=False, stop_at_layer=layer + 1)
    else:
        run_blocks(model, tokens)


def last_logits(model: Bridge, tokens: Tensor) -> Tensor:
    """The model's own logits at the last position of `tokens` [row, pos]: [row, vocab].

    The unembedding, which looks at one position at a time, runs at the last one alone. Hooks fire, and gradients flow.
    """

    def last(_: Any, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (states[0][:, -1:], *states[1:])

    handle = model.unembed.register_forward_pre_hook(last)
    try:
        logits: Tensor = model(tokens, use_cache=False)[:, -1]
    finally:
        handle.remove()
    return logits


def info_of(model: Bridge, spec: str, place: str, entry: Entry | None) -> ModelInfo:
    """What there is to know of a model when it is loaded: the registry's entry, or what the model itself tells."""
    if entry is not None:
        source = entry.source.requirement if isinstance(entry.source, Wheel) else entry.source
        single = entry.edit_layers[-1] if entry.edit_layer is None else entry.edit_layer
        return ModelInfo(entry.name, source, entry.licence, entry.start_token, entry.edit_layers, single)
    # An unlisted model: what its files say of the start of a document; the middle third for edits.
    layers = model.cfg.n_layers
    name = Path(place).name if Path(place).is_dir() else spec
    start = start_of(Path(place), model.tokenizer)
    third = tuple(range(layers // 6, max(layers // 3, layers // 6 + 1)))
    own = Path(spec).expanduser()
    source = str(own.absolute()) if own.exists() and Path(place).is_dir() else spec  # also found from another folder
    return ModelInfo(name, source, "unknown", start, third, third[-1])


def architecture(model: Bridge) -> str:
    """The architecture's name, for sentences that refuse it."""
    return str(getattr(model.cfg, "architecture", "unknown"))
