"""What every writer writes, and the hooks and flags by which it is heard.

A graph that is not split gives each query head its own keys and values, while the model shares them within a group: the
batch is then run once for each member of the groups, and each head's result is taken from the run that read its input.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.graph import Graph
from factscope.errors import ModelError
from factscope.model.bridge import Bridge
from factscope.model.hooks import flags, hooked
from factscope.model.sites import Site

FLAGS = {"use_attn_result": True, "use_split_qkv_input": True, "use_hook_mlp_in": True}
Mask = Bool[np.ndarray, "writer reader"]
Hook = tuple[Site, Callable[[Tensor], Tensor | None]]


def copies(graph: Graph) -> int:
    """How often the batch is repeated: once, or once for each member of a key/value group where heads are not split."""
    return 1 if graph.split else graph.group


def own_rows(result: Float[Tensor, "copy_row pos head d_model"], graph: Graph) -> Tensor:
    """Each head's result from the copy that read its own keys and values, given to all copies alike."""
    n = copies(graph)
    if n == 1:
        return result
    by_copy = result.unflatten(0, (n, -1))
    heads = [by_copy[head % n, :, :, head] for head in range(graph.n_heads)]
    return torch.stack(heads, 2).repeat(n, 1, 1, 1)


def recorders(graph: Graph, keep: Callable[[int, Tensor], None]) -> list[Hook]:
    """Hooks that hand every writer's output to `keep(number, [row, pos, d_model])`, in the order of computation."""
    embedded: list[Tensor] = []

    def inputs(resid: Tensor) -> None:
        if graph.positions:
            keep(0, embedded[-1])
            keep(1, resid - embedded[-1])
        else:
            keep(0, resid)

    def heads(layer: int) -> Callable[[Tensor], Tensor | None]:
        def take(result: Tensor) -> Tensor | None:
            chosen = own_rows(result, graph)
            for head in range(graph.n_heads):
                keep(graph.head_writer(layer, head), chosen[:, :, head])
            return chosen if copies(graph) > 1 else None

        return take

    def mlp(layer: int) -> Callable[[Tensor], None]:
        return lambda out: keep(graph.mlp_writer(layer), out)

    hooks: list[Hook] = [(Site("resid_pre", 0), inputs)]
    if graph.positions:
        hooks.insert(0, (Site("embed"), lambda out: embedded.append(out)))
    for layer in range(graph.n_layers):
        hooks += [(Site("head_result", layer), heads(layer)), (Site("mlp", layer), mlp(layer))]
    return hooks


@contextmanager
def reading(model: Bridge) -> Any:
    """The flags under which readers and heads can be hooked."""
    with flags(model, **FLAGS):
        yield


@torch.no_grad()
def writes(model: Bridge, graph: Graph, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "writer row pos d_model"]:
    """What every writer writes in a plain run of `tokens`."""
    seen: dict[int, Tensor] = {}
    with reading(model), hooked(model, recorders(graph, lambda number, out: seen.__setitem__(number, out.clone()))):
        model(tokens.repeat(copies(graph), 1), use_cache=False)
    return torch.stack([seen[number][: len(tokens)] for number in range(len(graph.writers))])


@torch.no_grad()
def check_sum(model: Bridge, graph: Graph, tokens: Int[Tensor, "row pos"]) -> None:
    """ModelError unless the last residual stream is the sum of what the writers write and the attention biases."""
    total: list[Tensor] = []
    last: list[Tensor] = []
    biases = sum(attention_biases(model))

    def keep(_: int, out: Tensor) -> None:
        total[:] = [out + (total[0] if total else biases)]

    with ExitStack() as stack:
        stack.enter_context(reading(model))
        stack.enter_context(hooked(model, recorders(graph, keep)))
        stack.enter_context(hooked(model, [(Site("resid", graph.n_layers - 1), lambda resid: last.append(resid))]))
        model(tokens[:1].repeat(copies(graph), 1), use_cache=False)
    scale = float(last[0].float().norm())
    off = float((total[0] - last[0]).float().norm()) / max(scale, 1e-12)
    if not off <= (1e-4 if last[0].dtype.itemsize >= 4 else 0.05):
        raise ModelError(
            f"on this architecture ({getattr(model.cfg, 'architecture', 'unknown')}) the residual stream is not the "
            f"sum of what heads and MLPs write (off by {off:.2g} of it), so edge circuits would not be exact"
        )


def attention_biases(model: Bridge) -> list[Tensor]:
    """Each layer's attention output bias, which is always on; zero where there is none."""
    zero = torch.zeros_like(next(model.ln_final.parameters()))
    biases: Iterable[Any] = (getattr(block.attn.o.original_component, "bias", None) for block in model.blocks)
    return [zero if bias is None else bias.detach() for bias in biases]
