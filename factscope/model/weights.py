"""The weights that run: reached by TransformerLens's names, and told apart by a fingerprint."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from factscope.errors import ModelError
from factscope.model.bridge import Bridge, architecture
from factscope.model.hooks import standing

MLP_OUT = "mlp.W_out"  # the down-projection, where facts are edited
PROJECTIONS = {  # the matrices of a block: the kinds of sites that each reads and writes
    "attn.W_Q": ("q_read", "q_write"),
    "attn.W_K": ("k_read", "k_write"),
    "attn.W_V": ("v_read", "v_write"),
    "attn.W_O": ("o_read", "o_write"),
    "mlp.W_gate": ("mlp_read", "mlp_gate"),
    "mlp.W_in": ("mlp_read", "mlp_up"),
    MLP_OUT: ("mlp_hidden", "mlp_write"),
}


@dataclass(frozen=True, order=True)
class WeightName:
    """The name of a block's weight, in TransformerLens's words: `blocks.6.mlp.W_out` is `WeightName(6, MLP_OUT)`."""

    layer: int
    part: str

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{self.part}"

    @classmethod
    def of(cls, name: str) -> "WeightName":
        """The name read back; ValueError if it is not a block's."""
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if found is None:
            raise ValueError(f"{name!r} is not the name of a weight in a block")
        return cls(int(found[1]), found[2])


def down_projection(layer: int) -> str:
    """The name of a layer's down-projection."""
    return str(WeightName(layer, MLP_OUT))


def key_width(model: Bridge, layer: int | None = None) -> int:
    """How many numbers the down-projection of a layer reads, or the widest of all; the configuration may not say it."""
    layers = range(len(model.blocks)) if layer is None else (layer,)
    outs = [getattr(getattr(model.blocks[i], "mlp", None), "out", None) for i in layers]
    weights = [out.original_component.weight for out in outs if out is not None]
    if not weights:
        raise ModelError(f"this model ({architecture(model)}) has no MLP with a down-projection")
    return max(int(weight.numel() // model.cfg.d_model) for weight in weights)


def live_weights(model: Bridge) -> dict[str, Tensor]:
    """The tensors that a write reaches, by TransformerLens name and in its orientation, [d_in, d_out] for MLPs.

    TransformerLens's own list also holds copies (keys and values repeated for grouped queries) and zeros for biases
    that the model does not have; writing there changes nothing. Here they are left out, and under grouped queries
    `W_K` and `W_V` are the native [kv_head, d_model, d_head] views, `b_K` and `b_V` those [kv_head, d_head]. A fused
    query-key-value weight, which TransformerLens splits into copies that it then runs, appears as those.
    """
    running = dict(_running(model))
    layout = tuple((name, tuple(tensor.shape), tensor.stride()) for name, tensor in running.items())
    known = _VIEWS.get(model)
    if known is None or known[0] != layout:
        known = _VIEWS[model] = (layout, _views(model, running))
    return {name: view.of(running[view.parameter].detach()) for name, view in known[1].items()}


def holder_of(model: Bridge, name: str) -> torch.nn.Parameter:
    """The parameter in which the weight of this name lies; ModelError where the model has none."""
    running = dict(_running(model))
    if name not in live_weights(model):
        raise ModelError(f"this model ({architecture(model)}) has no weight {name}")
    found = running[_VIEWS[model][1][name].parameter]
    assert isinstance(found, torch.nn.Parameter)
    return found


@dataclass(frozen=True)
class _View:
    """How a weight lies in the storage of a parameter.

    TransformerLens's list is asked for it once for each model: whenever it is made, it repeats the keys and values of
    grouped queries in all layers, gigabytes in a large model.
    """

    parameter: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, parameter: Tensor) -> Tensor:
        return parameter.as_strided(self.shape, self.stride, self.offset)


_VIEWS: WeakKeyDictionary[Any, tuple[Any, dict[str, _View]]] = WeakKeyDictionary()


def _views(model: Bridge, running: dict[str, Tensor]) -> dict[str, _View]:
    """Where each weight lies that `live_weights` names."""
    owner = {storage_of(tensor): name for name, tensor in running.items()}
    found = {}
    for name, tensor in model.tl_named_parameters():
        parameter = owner.get(storage_of(tensor))
        if parameter is not None:
            found[name] = _View(parameter, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())
    for layer, block in enumerate(model.blocks):
        for letter in "kv":
            name = str(WeightName(layer, f"attn.W_{letter.upper()}"))
            part = getattr(getattr(block, "attn", None), letter, None)
            matrix, bias = (getattr(getattr(part, "original_component", None), of, None) for of in ("weight", "bias"))
            if name not in found and isinstance(matrix, torch.nn.Parameter):
                heads = matrix.shape[0] // model.cfg.d_head
                native = {name: matrix.data.view(heads, model.cfg.d_head, -1).transpose(1, 2)}
                if isinstance(bias, torch.nn.Parameter):
                    native[name.replace("W_", "b_")] = bias.data.view(heads, model.cfg.d_head)
                for own, view in native.items():
                    parameter = owner[storage_of(view)]
                    found[own] = _View(parameter, int(view.storage_offset()), tuple(view.shape), view.stride())
    return found


def as_matrix(name: str, weight: Tensor) -> Tensor:
    """A weight as the matrix [d_in, d_out] that it multiplies with: the heads of attention's side by side.

    W_Q, W_K and W_V [head, d_model, d_head] become [d_model, head d_head], W_O [head, d_head, d_model] becomes
    [head d_head, d_model]; every other weight stays as it is.
    """
    if weight.ndim != 3 or ".attn.W_" not in name:
        return weight
    if name.endswith("W_O"):
        return weight.reshape(-1, weight.shape[2])
    return weight.transpose(0, 1).reshape(weight.shape[1], -1)


def from_matrix(name: str, matrix: Tensor, like: Tensor) -> Tensor:
    """What `as_matrix` was given, of the shape of `like`."""
    if like.ndim != 3 or ".attn.W_" not in name:
        return matrix
    if name.endswith("W_O"):
        return matrix.reshape(like.shape)
    return matrix.reshape(like.shape[1], len(like), -1).transpose(0, 1)


def fingerprint(model: Bridge) -> str:
    """SHA-256 over every running weight's name, shape, type and bytes and what stands beside them: 64 hex digits.

    Two models agree in it exactly if they compute with the same numbers; an edit changes it and undoing the edit
    brings it back. Weights are hashed once, and again when their sums have changed (`_sums`). A model without numbers
    (factscope/model/weightless.py) has `NO_NUMBERS`.
    """
    if model in WEIGHTLESS:
        return NO_NUMBERS
    running = sorted(_running(model).items())
    state = "".join([standing(model), *(f"{name} {_kind(tensor)} {_sums(tensor)}" for name, tensor in running)])
    known = _FINGERPRINTS.setdefault(model, {})
    if state not in known:
        digest = hashlib.sha256()
        for name, tensor in running:
            digest.update(f"{name} {_kind(tensor)}".encode())
            digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().data)
        digest.update(standing(model).encode())
        while len(known) >= STATES:
            del known[next(iter(known))]
        known[state] = digest.hexdigest()
    return known[state]


NO_NUMBERS = "0" * 64
WEIGHTLESS: WeakSet[Any] = WeakSet()  # models without numbers
STATES = 8  # of one model's weights, whose fingerprints are remembered
_FINGERPRINTS: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def _sums(tensor: Tensor) -> str:
    """A digest of the sums of a weight's bits along its rows and along its columns, as whole numbers modulo 2^64.

    Read at the speed of the memory, several times faster than SHA-256 and on a GPU without a copy; any one number that
    changes, and any two that change places, change a sum.
    """
    flat = tensor.detach().contiguous().reshape(-1)
    rows = flat.reshape(tensor.shape[0], -1) if tensor.ndim > 1 else flat[None]
    size, offset = rows.shape[1] * rows.element_size(), rows.storage_offset() * rows.element_size()
    word = next(kind for kind in WORDS if size % kind.itemsize == 0 and offset % kind.itemsize == 0)
    bits = rows.view(word)
    sums = torch.cat([bits.sum(0, dtype=torch.int64), bits.sum(1, dtype=torch.int64)]).cpu()
    return hashlib.sha256(sums.numpy().data).hexdigest()


WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def _running(model: Bridge) -> dict[str, Tensor]:
    """Parameters that take part in the forward pass, once each even where tied (embedding and unembedding), by name.

    Names are built anew only where other parameters stand in the modules than before: most of the time is theirs.
    """
    modules = model.original_model.modules()
    every = [parameter for module in modules for parameter in module._parameters.values() if parameter is not None]
    lying = tuple((id(each), storage_of(each), each.storage_offset(), tuple(each.shape)) for each in every)
    known = _RUNNING.get(model)
    if known is None or known[0] != lying:
        known = _RUNNING[model] = (lying, _named(model, {id(each): place for place, each in enumerate(every)}))
    return {name: every[place] for name, place in known[1].items()}


_RUNNING: WeakKeyDictionary[Any, tuple[Any, dict[str, int]]] = WeakKeyDictionary()


def _named(model: Bridge, places: dict[int, int]) -> dict[str, int]:
    """Where each running parameter stands among all, by its name; `places` by the parameters' identity."""
    running: dict[str, int] = {}
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    for name, parameter in sorted(model.named_parameters()):
        key = (storage_of(parameter), int(parameter.storage_offset()), tuple(parameter.shape))
        if ".qkv." not in name and key not in seen:  # the fused weight is only a source for the split ones that run
            seen.add(key)
            running[name] = places[id(parameter)]
    return running


def storage_of(tensor: Tensor) -> int:
    """What tells the memory of one tensor from another's."""
    return int(tensor.untyped_storage()._cdata)
