"""One backward pass for all edges: the loss's gradient at every reader's input, anywhere between clean and ablated.

Gradients are wanted at inputs, not weights, so the embedding's output is the one tensor that asks for them; everything
below is free of bookkeeping. Points between clean and ablated are rows of one batch.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine import beside
from circuits.engine.reference import Reference
from circuits.engine.room import points_at_once
from circuits.engine.writes import attention_biases, own_rows, reading, recorders, writes
from circuits.graph import Graph, Reader
from factscope.model.bridge import last_logits
from factscope.model.forward.onednn import thin_products
from factscope.model.hooks import Hook, hooked
from factscope.model.sites import Site

ROWS = 8  # rows of one backward pass, or fewer where they find no room; memory grows with them, speed hardly
THIN = 24  # tokens of a pass from which on `thin_products` gains more than it costs
READERS = 64  # of one product of scores; with fewer, less is multiplied for edges that there are not


Moved = Literal["inputs", "heads", "mlp"]


@dataclass(frozen=True)
class Point:
    """Where gradients are taken: `site` writes `share` of its clean and the rest of its ablated output.

    `site` is "inputs" (embeddings), "heads" or "mlp" of `layer`; share 1 is the clean run. No gradient flows back
    through the heads and the MLP of the layer `dropped`; what they write stays.
    """

    share: float = 1.0
    site: Moved = "inputs"
    layer: int = 0
    dropped: int | None = None

    def __post_init__(self) -> None:
        if self.site not in get_args(Moved):
            raise ValueError(f"gradients are taken at {', '.join(get_args(Moved))}, not at {self.site!r}")


def clean_writes(reference: Reference) -> Float[Tensor, "writer row pos d_model"]:
    """What the writers write in the clean run."""
    return writes(reference.model, reference.graph, reference.task.tokens(reference.model))


def clean_run(
    reference: Reference,
) -> tuple[Float[Tensor, "writer row pos d_model"], Float[Tensor, "reader *kind row pos d_model"]]:
    """What `clean_writes` and `mean_gradient` at the clean point give, by one forward pass instead of two."""
    _points(reference)  # finds room for one
    written: dict[int, Tensor] = {}

    def keep(number: int, out: Tensor) -> None:
        written[number] = out.detach().clone()

    gradient = _gradient(reference, None, "inputs", 0, None, [1.0], keep)
    n = gradient.shape[-3]  # of all copies the first
    return torch.stack([written[number][:n] for number in range(len(reference.graph.writers))]), gradient


def mean_gradient(
    reference: Reference, points: Sequence[Point], clean: Float[Tensor, "writer row pos d_model"]
) -> Float[Tensor, "reader *kind row pos d_model"]:
    """Gradient of the loss at every reader's input, averaged over the points; rows add up to the mean over prompts.

    Where the reference has kinds of attending tokens, there is one gradient for each: a key's or value's is what comes
    back from the tokens of that kind alone. Over the kinds they sum to the gradient at the input.
    """
    chunk = _points(reference)
    total: Tensor | None = None
    for site in dict.fromkeys((point.site, point.layer, point.dropped) for point in points):
        shares = [point.share for point in points if (point.site, point.layer, point.dropped) == site]
        for first in range(0, len(shares), chunk):
            part = _gradient(reference, clean, *site, shares[first : first + chunk])
            total = part if total is None else total + part
    assert total is not None
    return total / len(points)


def _points(reference: Reference) -> int:
    """At how many points gradients are taken in one pass."""
    rows, copies = len(reference.task.prompts), reference.copies
    most = max(1, ROWS // (rows * copies))
    return points_at_once(reference.model, reference.graph, rows, reference.task.n_positions, copies, most)


def example_scores(
    reference: Reference, gradient: Float[Tensor, "reader row pos d_model"], clean: Tensor
) -> Float[Tensor, "example writer reader"]:
    """First-order rise of each prompt's own loss when an edge is cut: (ablated - clean) times the gradient.

    Zero where there is no edge; float64. The mean over the examples is the rise of the task's loss. Float32 is
    multiplied as it is, for gradients of another order of sums differ by far more.
    """
    wide = torch.float32 if clean.dtype.itemsize < 4 else clean.dtype
    change, gradient = (reference.replacement - clean).to(wide), gradient.to(wide)
    graph, n = reference.graph, clean.shape[1]
    scores = change.new_zeros(n, len(graph.writers), len(graph.readers), dtype=torch.float64)
    for first in range(0, len(graph.readers), READERS):  # they hear the writers below the last of them
        some = slice(first, min(first + READERS, len(graph.readers)))
        below = graph.below(graph.readers[some.stop - 1])
        for row in range(n):
            scores[row, :below, some] = change[:below, row].flatten(1) @ gradient[some, row].flatten(1).T
    scores *= n  # the loss is a mean over rows, and so each row's gradient is an n-th of its own
    return torch.where(torch.from_numpy(graph.allowed).to(scores.device), scores, 0.0).cpu()


def _gradient(
    reference: Reference,
    clean: Tensor | None,
    site: Moved,
    layer: int,
    dropped: int | None,
    shares: list[float],
    keep: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The gradient, summed over the shares; without `clean` that of the plain run, whose writes go to `keep`."""
    graph, model = reference.graph, reference.model
    prompts, repeated = reference.task.tokens(model), reference.copies
    n, tokens = len(prompts), prompts.repeat(repeated * len(shares), 1)  # [copy, share, row]
    attending = None if reference.attending is None else reference.attending.repeat(len(shares), 1)
    seen: dict[tuple[str, int], Tensor] = {}

    def keeper(key: tuple[str, int]) -> Callable[[Tensor], Tensor]:
        def listen(inputs: Tensor) -> Tensor:
            seen[key] = inputs.clone()  # a tensor of its own: the MLP's input is the residual stream, which goes on
            return seen[key]

        return listen

    routing = reference.parts.routing(reference.choices, repeated * len(shares))
    hooks = [] if keep is None else recorders(reference.parts, graph, routing, keep, attending)
    hooks += _begun(reference, clean, site, layer, shares)
    kept = keep or (lambda *_: None)
    hooks += beside.hooks(model, graph, tokens, kept, lambda layer, x: keeper(("beside", layer))(x))
    for at in range(graph.n_layers):
        hooks += [(Site(f"{kind}_input", at), keeper((kind, at))) for kind in "qkv"]
        hooks.append((Site("mlp_in", at), keeper(("mlp", at))))
        if repeated > 1 and keep is None:  # recorders do it themselves
            hooks.append((Site("head", at), lambda z: own_rows(z, graph, attending)))
    if dropped is not None:
        hooks += [(Site(kind, dropped), lambda out: out.detach()) for kind in ("attn", "mlp")]
    hooks.append((Site("resid", graph.n_layers - 1), keeper(("logits", graph.n_layers))))
    fast = thin_products() if tokens.numel() >= THIN else contextlib.nullcontext()
    with fast, torch.enable_grad(), reading(model, routing), hooked(model, hooks):
        logits = last_logits(model, tokens)[: n * len(shares)]
        loss = reference.objective.losses(logits.unflatten(0, (len(shares), n))).sum()
    found = torch.autograd.grad(loss, list(seen.values()), allow_unused=True, materialize_grads=True)
    # From here on the sum over shares; a prompt's rows stay apart.
    by_row = {key: _sum(g.unflatten(0, (repeated, len(shares), n)), 1) for key, g in zip(seen, found, strict=True)}
    if attending is None:
        return torch.stack([_of_reader(graph, by_row, number) for number in range(len(graph.readers))])
    return torch.stack([_by_copy(by_row, reader) for reader in graph.readers])


def _begun(reference: Reference, clean: Tensor | None, site: Moved, layer: int, shares: list[float]) -> list[Hook]:
    """Hooks that make the embedding's output ask for gradients, and move the site that is between the two runs."""
    graph = reference.graph
    like, n = reference.replacement, len(reference.task.prompts)
    share = torch.tensor(shares, dtype=like.dtype, device=like.device).repeat_interleave(n)[:, None, None]

    def between(numbers: Sequence[int]) -> Tensor:
        """The sum of the interpolated outputs of these writers, [copy share row, pos, d_model]."""
        assert clean is not None
        own, other = (of[list(numbers)].expand(-1, *clean.shape[1:]) for of in (clean, like))
        own, other = (of.repeat(1, len(shares), 1, 1) for of in (own, other))
        return (other + share * (own - other)).sum(0)

    def leaf(resid: Tensor) -> Tensor:
        if site == "inputs" and clean is not None:
            resid = between(range(graph.n_inputs)).repeat(reference.copies, 1, 1)
        return resid.detach().requires_grad_()

    hooks: list[Hook] = [(Site("resid_pre", 0), leaf)]
    if site == "heads":
        first = graph.head_writer(layer)
        together = between(range(first, first + graph.n_heads)) + attention_biases(reference.model)[layer]
        hooks.append((Site("attn", layer), lambda out: _moved(out, together.repeat(reference.copies, 1, 1))))
    if site == "mlp":
        made = between(graph.mlp_writers(layer))
        hooks.append((Site("mlp", layer), lambda out: _moved(out, made.repeat(reference.copies, 1, 1))))
    return hooks


def _moved(out: Tensor, to: Tensor) -> Tensor:
    """The value `to`, through which gradients flow on as if it were `out`."""
    return out + (to - out).detach()


def _by_copy(by_row: dict[tuple[str, int], Tensor], reader: Reader) -> Tensor:
    """One reader's gradient in each copy, [copy, row, pos, d_model]."""
    own = by_row[(reader.kind, reader.layer)]
    return own if reader.head < 0 else own[..., reader.head, :]


def _of_reader(graph: Graph, by_row: dict[tuple[str, int], Tensor], number: int) -> Tensor:
    """One reader's gradient, [row, pos, d_model], from [copy, row, pos, (head), d_model]."""
    reader = graph.readers[number]
    if reader.kind in ("mlp", "beside", "logits"):
        return _sum(by_row[(reader.kind, reader.layer)], 0)
    if reader.kind != "head":
        return _sum(by_row[(reader.kind, reader.layer)][..., reader.head, :], 0)
    own, pair = reader.head % graph.group, reader.head // graph.group
    total = by_row[("q", reader.layer)][own, :, :, reader.head]
    return total + sum(by_row[(kind, reader.layer)][own, :, :, pair] for kind in "kv")


def _sum(x: Tensor, axis: int) -> Tensor:
    """The sum over an axis, without a copy where it has length 1."""
    return x.select(axis, 0) if x.shape[axis] == 1 else x.sum(axis)
