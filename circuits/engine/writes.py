"""What every writer writes, and the hooks and flags by which it is heard.

A graph that is not split gives each query head its own keys and values, while the model shares them within a group: the
batch is then run once for each member of the groups, and each head's result is taken from the run that read its input.
"""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine import beside
from circuits.graph import Graph
from factscope.errors import ModelError
from factscope.model.bridge import Bridge, architecture
from factscope.model.hooks import Hook, apart, flags, hooked
from factscope.model.sites import Site

FLAGS = {"use_attn_result": True, "use_split_qkv_input": True, "use_hook_mlp_in": True}
Mask = Bool[np.ndarray, "writer reader *place"]  # place: the role of a token, or a row and position; mostly none


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
    """Hooks that hand every writer's output to `keep(number, [row, pos, d_model])`, in the order of computation.

    Nodes beside MLPs are not among them: `engine/beside.py` has theirs.
    """
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
    """The flags under which readers and heads can be hooked; what stands beside MLPs is a node, and apart."""
    with apart(model), flags(model, **FLAGS):
        yield


@torch.no_grad()
def writes(model: Bridge, graph: Graph, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "writer row pos d_model"]:
    """What every writer writes in a plain run of `tokens`."""
    seen: dict[int, Tensor] = {}

    def keep(number: int, out: Tensor) -> None:
        seen[number] = out.clone()

    hooks = [*recorders(graph, keep), *beside.hooks(model, graph, tokens, keep)]
    with reading(model), hooked(model, hooks):
        model(tokens.repeat(copies(graph), 1), use_cache=False)
    return torch.stack([seen[number][: len(tokens)] for number in range(len(graph.writers))])


# Share of a reader's input that rounding can make up over thirty layers; SmolLM2 shows 8e-7, 0.025 and 0.053 of it.
SUMMED = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.125}
UNKNOWN = (AttributeError, LookupError, NotImplementedError, RuntimeError, StopIteration, TypeError)  # of foreign parts


def check_sum(model: Bridge, graph: Graph, tokens: Int[Tensor, "row pos"]) -> None:
    """ModelError unless every reader of the model hears the sum of what the writers below it write, and the biases."""
    try:
        worst, where = _off_the_sum(model, graph, tokens[:1].repeat(copies(graph), 1))
    except torch.OutOfMemoryError:
        raise
    except UNKNOWN as trouble:
        raise ModelError(
            f"the blocks of this architecture ({architecture(model)}) cannot be taken apart into heads and MLPs "
            f"({str(trouble)[:100]}), so it has no edge circuits; tracing may work"
        ) from trouble
    if not worst <= SUMMED[next(model.parameters()).dtype]:
        raise ModelError(
            f"on this architecture ({architecture(model)}) the residual stream is not the sum of what heads and MLPs "
            f"write ({where} hears something {worst:.2g} of its size away), so edge circuits would not be exact"
        )


@torch.no_grad()
def _off_the_sum(model: Bridge, graph: Graph, tokens: Int[Tensor, "row pos"]) -> tuple[float, str]:
    """How far the reader that is furthest off is from the sum, as a share of its input's norm, and which it is."""
    own = attention_biases(model)
    biases = torch.stack([torch.zeros_like(own[0]), *own]).cumsum(0)
    stream: list[Tensor] = []  # after each writer
    found: list[tuple[float, str]] = []

    def keep(_: int, out: Tensor) -> None:
        wide = out.float() if out.dtype.itemsize < 4 else out  # half precision would round at every sum
        stream.append(wide + stream[-1] if stream else wide)

    def compared(name: str) -> Callable[[Tensor], None]:
        reader = graph.readers[graph.reader_index[name]]
        after = reader.layer + graph.after_attention(reader)

        def hear(inputs: Tensor) -> None:
            wanted = stream[graph.below(reader) - 1] + biases[after]
            heard = inputs if inputs.dim() == wanted.dim() else inputs.transpose(0, 2).transpose(1, 2)
            found.append((float((heard - wanted).float().norm() / (heard.float().norm() + 1e-12)), name))

        return hear

    hooks: list[Hook] = [*recorders(graph, keep), *beside.hooks(model, graph, tokens, keep)]
    for layer in range(graph.n_layers):
        for kind in "qkv":
            hooks.append((Site(f"{kind}_input", layer), compared(f"a{layer}.h0" + (f".{kind}" if graph.split else ""))))
        hooks.append((Site("mlp_in", layer), compared(f"m{layer}")))
    hooks.append((Site("resid", graph.n_layers - 1), compared("logits")))
    with reading(model), hooked(model, hooks):
        model(tokens, use_cache=False)
    return max(found, key=lambda each: each[0] if each[0] == each[0] else float("inf"))


def attention_biases(model: Bridge) -> list[Tensor]:
    """Each layer's attention output bias, which is always on; zero where there is none."""
    weight = model.unembed.original_component.weight
    zero = weight.new_zeros(int(model.cfg.d_model))
    biases: Iterable[Any] = (getattr(block.attn.o.original_component, "bias", None) for block in model.blocks)
    return [zero if bias is None else bias.detach() for bias in biases]
