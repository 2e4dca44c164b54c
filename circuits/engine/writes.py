"""What every writer writes in a run, at all positions, and the hooks and flags by which it is heard.

What a head writes follows from its values and `factscope.model.parts.writes`, as in the lens.

A graph that is not split gives each query head its own keys and values, while the model shares them within a group: the
batch is then run once for each member of the groups, and each head's result is taken from the run that read its input.
Where keys and values are apart by who attends to them, the batch is run once for each kind of attending token.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine import beside
from circuits.graph import Graph
from factscope.errors import ModelError
from factscope.model.bridge import Bridge, architecture, run_blocks
from factscope.model.hooks import Hook, apart, flags, hooked, put_together
from factscope.model.parts.experts import NO_EXPERTS, Choices, Routing, check_experts, mixtures, repeated
from factscope.model.parts.writes import HeadsOut, expert_writes, heads_out
from factscope.model.sites import Site
from factscope.model.weights import live_weights

FLAGS = {"use_split_qkv_input": True, "use_hook_mlp_in": True}
Mask = Bool[np.ndarray, "writer reader *place"]  # place: the role of a token, or a row and position; mostly none


def copies(graph: Graph) -> int:
    """How often the batch is repeated: once, or once for each member of a key/value group where heads are not split."""
    return 1 if graph.split else graph.group


def own_rows(
    z: Float[Tensor, "copy_row pos head d_head"], graph: Graph, taken: Int[Tensor, "row pos"] | None = None
) -> Tensor:
    """Each head's values from the copy that read its own keys and values, given to all copies alike.

    Args:
        taken: the copy that each token attends in, where the copies' keys and values are those that some tokens read.
    """
    n = copies(graph) if taken is None else len(z) // len(taken)
    if n == 1:
        return z
    by_copy = z.unflatten(0, (n, -1))
    if taken is not None:
        own = by_copy.gather(0, taken[None, :, :, None, None].expand(1, *by_copy.shape[1:]))[0]
    else:
        own = torch.stack([by_copy[head % n, :, :, head] for head in range(graph.n_heads)], 2)
    repeated: Tensor = own.repeat(n, 1, 1, 1)
    return repeated


@dataclass(frozen=True, eq=False)
class Parts:
    """What taking a model apart needs of it, made once for many runs."""

    model: Bridge
    heads: tuple[HeadsOut, ...]
    mixtures: dict[int, Any]  # of experts, by layer

    @classmethod
    def of(cls, model: Bridge) -> "Parts":
        """The parts of `model`; ModelError where what its heads write cannot be told apart."""
        return cls(model, tuple(all_heads_out(model)), mixtures(model))

    def routing(self, choices: Choices | None = None, times: int = 1) -> Routing:
        """For one run, whose experts are chosen as before where there are `choices`; of a batch so many `times`."""
        return Routing(self.mixtures, repeated(choices, times) if choices else None)


def recorders(
    parts: Parts,
    graph: Graph,
    routing: Routing,
    keep: Callable[[int, Tensor], None],
    taken: Int[Tensor, "row pos"] | None = None,
) -> list[Hook]:
    """Hooks that hand every writer's output to `keep(number, [row, pos, d_model])`, in the order of computation.

    `taken` is that of `own_rows`. Nodes beside MLPs are not among them: `engine/beside.py` has theirs.
    """
    embedded: list[Tensor] = []

    def inputs(resid: Tensor) -> None:
        if graph.positions:
            keep(0, embedded[-1])
            keep(1, resid - embedded[-1])
        else:
            keep(0, resid)

    def heads(layer: int) -> Callable[[Tensor], Tensor | None]:
        def take(z: Tensor) -> Tensor | None:
            chosen = own_rows(z, graph, taken)
            written = parts.heads[layer].writes(chosen)
            for head in range(graph.n_heads):
                keep(graph.head_writer(layer, head), written[:, :, head])
            return chosen if chosen is not z else None

        return take

    def mlp(layer: int) -> Callable[[Tensor], None]:
        writers = graph.mlp_writers(layer)

        def take(out: Tensor) -> None:
            each = out[None]
            if layer in routing.mixtures:
                given, whole = routing.given(layer), routing.whole[layer]
                each = expert_writes(parts.model, layer, given, whole, out, graph.shared_expert)
            for number, write in zip(writers, each, strict=True):
                keep(number, write)

        return take

    hooks: list[Hook] = [(Site("resid_pre", 0), inputs)]
    if graph.positions:
        hooks.insert(0, (Site("embed"), lambda out: embedded.append(out)))
    for layer in range(graph.n_layers):
        hooks += [(Site("head", layer), heads(layer)), (Site("mlp", layer), mlp(layer))]
    return hooks


def all_heads_out(model: Bridge) -> list[HeadsOut]:
    """How each layer's heads reach the residual stream; ModelError where that cannot be told head by head."""
    weights, found = live_weights(model), []
    for layer in range(len(model.blocks)):
        made = heads_out(model, layer, weights)
        if made is None:
            raise ModelError(
                f"the attention of this architecture ({architecture(model)}) does not give what each head writes by a "
                "matrix of its own, so it has no edge circuits; tracing may work"
            )
        found.append(made)
    return found


@contextmanager
def reading(model: Bridge, routing: Routing = NO_EXPERTS) -> Any:
    """The flags under which readers can be hooked, and the run's routing; what stands beside MLPs is apart, a node."""
    with apart(model), flags(model, **FLAGS), routing.installed():
        yield


@torch.no_grad()
def writes(model: Bridge, graph: Graph, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "writer row pos d_model"]:
    """What every writer writes in a plain run of `tokens`."""
    seen: dict[int, Tensor] = {}
    parts = Parts.of(model)
    routing = parts.routing()

    def keep(number: int, out: Tensor) -> None:
        seen[number] = out.clone()

    hooks = [*recorders(parts, graph, routing, keep), *beside.hooks(model, graph, tokens, keep)]
    with reading(model, routing), hooked(model, hooks):
        run_blocks(model, tokens.repeat(copies(graph), 1))
    return torch.stack([seen[number][: len(tokens)] for number in range(len(graph.writers))])


# Share of a reader's input that rounding can make up over thirty layers; SmolLM2 shows 8e-7, 0.025 and 0.053 of it.
SUMMED = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.125}
UNKNOWN = (AttributeError, LookupError, NotImplementedError, RuntimeError, StopIteration, TypeError)  # of foreign parts

_SUMS: WeakKeyDictionary[Any, tuple[int, set[Graph]]] = WeakKeyDictionary()  # how it is put together; what is proven


def check_sum(model: Bridge, graph: Graph, tokens: Int[Tensor, "row pos"]) -> None:
    """ModelError unless every reader of the model hears the sum of what the writers below it write, and the biases.

    How the parts are joined is the same for every prompt and whatever the weights are, so it is proven once for a
    graph, on the first prompt that is asked about, and again where other modules or hooks make up the model.
    """
    now = put_together(model)
    then, proven = _SUMS.get(model, (now, set()))
    if then == now and graph in proven:
        return
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
    _SUMS[model] = now, {graph, *(proven if then == now else ())}


@torch.no_grad()
def _off_the_sum(model: Bridge, graph: Graph, tokens: Int[Tensor, "row pos"]) -> tuple[float, str]:
    """How far the reader that is furthest off is from the sum, as a share of its input's norm, and which it is."""
    parts, own = Parts.of(model), attention_biases(model)
    routing = parts.routing()
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

    hooks: list[Hook] = [*recorders(parts, graph, routing, keep), *beside.hooks(model, graph, tokens, keep)]
    for layer in range(graph.n_layers):
        for kind in "qkv":
            hooks.append((Site(f"{kind}_input", layer), compared(f"a{layer}.h0" + (f".{kind}" if graph.split else ""))))
        hooks.append((Site("mlp_in", layer), compared(f"m{layer}")))
    hooks.append((Site("resid", graph.n_layers - 1), compared("logits")))
    with reading(model, routing), hooked(model, hooks):
        run_blocks(model, tokens)
    check_experts(model, routing)
    return max(found, key=lambda each: each[0] if each[0] == each[0] else float("inf"))


def attention_biases(model: Bridge) -> list[Tensor]:
    """What each layer's attention adds whatever its heads do, its output bias; zero where there is none."""
    zero = model.unembed.original_component.weight.new_zeros(int(model.cfg.d_model))
    return [zero if made.bias is None else made.bias.to(zero) for made in all_heads_out(model)]
