"""A model held in half precision computes in float32, one block at a time: the numbers of its float32 copy, without it.

Every half-precision number is a float32 number, so a block whose weights are widened just before it runs computes what
the whole model in float32 would, bit for bit, and forgets the wide weights right after. The embedding and the
unembedding are such parts, too. What a backward pass needs of wide weights is widened again when its turn comes. So the
most that is added to the model's own memory is its largest part in float32, where a copy of the whole adds all of it.

The weights that are named stay wide for the length of the `with`, so that what is written into them is not rounded;
afterwards every weight is the very tensor that it was, unless something else was written there: then it is rounded.

*Scope*: for work that runs a model's modules, whole or block by block. What reads the weights of a block that does not
run finds them as they are held.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from factscope.model.bridge import Bridge
from factscope.model.weights import holder_of

WIDE = torch.float32


@contextmanager
def widened(model: Bridge, named: Collection[str] = ()) -> Iterator[None]:
    """In the block, the model computes in float32; the weights of these TransformerLens names are float32, too."""
    configured, kept = model.cfg.dtype, _kept(model, named)
    running, handles = _Running(), list[Any]()
    try:
        for parameter in kept:
            parameter.data = parameter.data.to(WIDE)
        model.cfg.dtype = WIDE
        for part in parts_of(model):
            handles += running.watch(part)
        with torch.autograd.graph.saved_tensors_hooks(running.packed, running.unpacked):
            yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, saved in kept.items():
            parameter.data = saved if torch.equal(parameter.data, saved.to(WIDE)) else parameter.data.to(saved.dtype)
        model.cfg.dtype = configured


def parts_of(model: Bridge) -> list[nn.Module]:
    """What is widened together: the blocks, and beside them the outermost modules that hold numbers and no block."""
    blocks = {id(block) for block in model.blocks}

    def outermost(module: nn.Module) -> Iterator[nn.Module]:
        if id(module) in blocks or not any(id(one) in blocks for one in module.modules()):
            if any(_narrow(one) for one in (*module.parameters(), *module.buffers())):
                yield module
        else:
            for child in module.children():
                yield from outermost(child)

    return list(outermost(model.original_model))


def most_added(model: Bridge, named: Collection[str] = ()) -> int:
    """Bytes that `widened` adds to the model's memory at most, activations apart."""
    sizes = [sum(WIDE.itemsize * one.numel() for one in part.parameters() if _narrow(one)) for part in parts_of(model)]
    return max(sizes, default=0) + sum(
        (WIDE.itemsize - one.element_size()) * one.numel() for one in _kept(model, named)
    )


def _kept(model: Bridge, named: Collection[str]) -> dict[nn.Parameter, Tensor]:
    """The parameters that hold these weights, and what is in them."""
    return {parameter: parameter.data for parameter in (holder_of(model, name) for name in named) if _narrow(parameter)}


def _narrow(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.dtype.is_floating_point and parameter.dtype.itemsize < WIDE.itemsize


@dataclass(eq=False)
class _Running:
    """The parts that run at the moment: their narrow parameters, and which wide storage stands for which of them."""

    places: dict[int, list[tuple[dict[str, Any], str, Tensor]]] = field(default_factory=dict)  # by the part's id
    wide: dict[int, Tensor] = field(default_factory=dict)

    def watch(self, part: nn.Module) -> list[Any]:
        """Widen the part whenever it runs, also where it breaks off."""
        first: Callable[..., None] = lambda module, _: self.begin(module)  # noqa: E731
        last: Callable[..., None] = lambda module, *_: self.end(module)  # noqa: E731
        return [part.register_forward_pre_hook(first, prepend=True), part.register_forward_hook(last, always_call=True)]

    def begin(self, part: nn.Module) -> None:
        """Put wide tensors in the place of the narrow ones."""
        places = self.places[id(part)] = []
        for module in part.modules():
            held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for names in held:
                for name, narrow in names.items():
                    if narrow is not None and _narrow(narrow):
                        wide = narrow.detach().to(WIDE)
                        self.wide[int(wide.untyped_storage()._cdata)] = narrow
                        places.append((names, name, narrow))
                        is_parameter = isinstance(narrow, nn.Parameter)
                        names[name] = nn.Parameter(wide, requires_grad=False) if is_parameter else wide

    def end(self, part: nn.Module) -> None:
        """Put the narrow ones back."""
        for names, name, narrow in self.places.pop(id(part), ()):
            del self.wide[int(names[name].untyped_storage()._cdata)]
            names[name] = narrow

    def packed(self, tensor: Tensor) -> Any:
        """What a backward pass keeps: of a wide weight, where it lies in the narrow one."""
        narrow = self.wide.get(int(tensor.untyped_storage()._cdata))
        if narrow is None:
            return tensor
        return narrow, tensor.shape, tensor.stride(), tensor.storage_offset()

    def unpacked(self, kept: Any) -> Tensor:
        """The tensor again."""
        if isinstance(kept, Tensor):
            return kept
        narrow, shape, stride, offset = kept
        wide: Tensor = narrow.detach().to(WIDE).as_strided(shape, stride, offset)
        return wide
