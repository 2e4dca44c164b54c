"""The two factors of a gradient: at the requests of an edit, and standardised, as every network is fed that reads them.

For every token z = [x | d], what a matrix reads beside the loss's gradient at what it writes, less its mean over the
tokens of some training edits and over its standard deviation, coordinate by coordinate. Matrices of one shape share
mean and deviation. A token without a gradient has no part in either.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from editing.delta import Delta
from editing.method import MethodInputs, MethodOutput
from editing.requests import bare_prompt
from editing.trained.examples import After, Asker
from editing.trained.facts import examples
from editing.trained.learning import Parts
from editing.trained.tail import Slopes, Tail, Thin, asked
from factscope.model.bridge import Bridge
from factscope.model.forward.at_once import fitting, slope_bytes
from factscope.model.forward.scoring import Pair
from factscope.model.weights import WeightName, live_weights

TINY = 1e-7  # added to a standard deviation, as the authors of MEND do
STARTS: tuple[float, ...] = tuple(10.0 ** (-half / 2) for half in range(10))  # 1 down to 3e-5
TOGETHER = 16  # edits whose gradients are taken in one pass


def shape_of(name: WeightName, weights: dict[str, Tensor]) -> str:
    """Matrices of one shape share one network, under this name."""
    rows, columns = weights[str(name)].shape
    return f"{rows}x{columns}"


Gradients = tuple[list[Pair], Slopes]  # some edits, and the factors of each, row by row


def gradients(asker: Asker, names: tuple[WeightName, ...], count: int, seed: int) -> list[Gradients]:
    """The factors of so many training edits."""
    some = examples(asker.facts.trained, count, f"standard {seed}")
    edits = [asker.edits(some[i : i + TOGETHER]) for i in range(0, len(some), TOGETHER)]
    return [(pairs, asker.tail.slopes(pairs, names)) for pairs in edits]


def bearing(x: Float[Tensor, "*token d_in"], d: Float[Tensor, "*token d_out"]) -> Bool[Tensor, "*token"]:
    """Which tokens have a gradient."""
    return (x != 0).any(-1) & (d != 0).any(-1)


def asked_gradients(inputs: MethodInputs, names: Sequence[WeightName]) -> tuple[list[Pair], Slopes]:
    """The factors of each request's own loss, behind its bare prompt; their losses are told to `on_step`."""
    parts = list(_passes(inputs, names))
    return [pair for pairs, _ in parts for pair in pairs], _together(inputs, [found for _, found in parts])


def answer_gradients(inputs: MethodInputs, names: Sequence[WeightName]) -> tuple[Int[Tensor, " token"], Slopes]:
    """The same where the answers' tokens are read, [token d], and the number of the request that each token is of."""
    parts = [(pairs, at_answers(found, pairs)) for pairs, found in _passes(inputs, names)]
    owner = torch.tensor([row for row, _ in asked([pair for pairs, _ in parts for pair in pairs])])
    return owner, _together(inputs, [found for _, found in parts])


def at_answers(found: Slopes, pairs: Sequence[Pair]) -> Slopes:
    """The factors where the answers' tokens are read, [token d], pair by pair."""
    row, pos = torch.tensor(asked(pairs)).T
    return found.at((row, pos))


def of_sums(found: Slopes, owner: Int[Tensor, " token"]) -> Slopes:
    """The factors of the sum of -log p over each answer's tokens, from those of the mean; `owner` as above."""
    count = torch.bincount(owner)[owner][:, None]
    return replace(found, slope={name: d * count.to(d) for name, d in found.slope.items()})


def _passes(inputs: MethodInputs, names: Sequence[WeightName]) -> Iterator[Gradients]:
    """Requests, `TOGETHER` of them or as many as find room, with the factors of each: one pass forward and back."""
    prompts = [bare_prompt(inputs.model, request, inputs.start) for request in inputs.requests]
    pairs = [Pair(tuple(prompt.tokens), tuple(prompt.answer_ids)) for prompt in prompts]
    tail = Tail(inputs.model, min(name.layer for name in names), [pair.row for pair in pairs])
    longest, answers = max(len(pair.row) for pair in pairs), max(len(pair.answer) for pair in pairs)
    each = slope_bytes(inputs.model, len(inputs.model.blocks) - tail.first, longest, 0, answers)
    size = fitting(inputs.model, min(TOGETHER, len(pairs)), each, f"the gradients of {longest} tokens")
    for some in (pairs[begin : begin + size] for begin in range(0, len(pairs), size)):
        yield some, tail.slopes(some, names)


def _together(inputs: MethodInputs, parts: Sequence[Slopes]) -> Slopes:
    found = Slopes.joined(parts)
    if inputs.on_step is not None:
        losses = found.losses.cpu()
        inputs.on_step(0, losses, (-losses).exp())
    return found


def as_edits(
    factors: dict[WeightName, Thin], losses: Float[Tensor, " row"], groups: Sequence[slice]
) -> list[MethodOutput]:
    """An edit of each group of rows, of those of their tokens that write anything."""
    return [MethodOutput(_deltas(factors, group), curve=losses.cpu()[None, group]) for group in groups]


def _deltas(factors: dict[WeightName, Thin], group: slice) -> tuple[Delta, ...]:
    made = []
    for name, (left, right) in factors.items():
        x, d = left[group].flatten(0, 1), right[group].flatten(0, 1)
        kept = bearing(x, d)
        made.append(Delta(str(name), d[kept].cpu().clone(), x[kept].T.contiguous().cpu()))
    return tuple(made)


def last_matrices(model: Bridge, wanted: Sequence[str], layers: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The last so many layers, and those of the wanted matrices of an MLP that the model has as one of its own."""
    count, weights = int(model.cfg.n_layers), live_weights(model)
    last = WeightName(count - 1, "mlp.")
    have = tuple(one for one in wanted if getattr(weights.get(f"{last}{one}"), "ndim", 0) == 2)
    return tuple(range(max(0, count - layers), count)), have


def two_layers(shapes: dict[WeightName, str], rank: int, generator: torch.Generator) -> Parts:
    """The networks that matrices of one shape share, as they begin: U = 0, so that nothing is added.

    Of each layer: V [z rank] with Xavier's scale, U [rank z], b [z]; and of each matrix s and o [z].
    """
    parts: Parts = {}
    for shape, count in Counter(shapes.values()).items():
        z = sum(map(int, shape.split("x")))
        inner = min(rank, z)
        for layer in "12":
            parts[f"{shape}.V{layer}"] = torch.randn(z, inner, generator=generator) * (2 / (z + inner)) ** 0.5
            parts[f"{shape}.U{layer}"] = torch.zeros(inner, z)
            parts[f"{shape}.b{layer}"] = torch.zeros(z)
            parts[f"{shape}.s{layer}"] = torch.ones(count, z)
            parts[f"{shape}.o{layer}"] = torch.zeros(count, z)
    return parts


def statistics(network: dict[WeightName, str], found: Sequence[Slopes]) -> Parts:
    """Mean and standard deviation of z over all tokens that have a gradient, for each shape; in two passes, float64."""
    state: Parts = {}
    for shape in dict.fromkeys(network.values()):
        rows = []
        for part in found:
            for name in (name for name, own in network.items() if own == shape):
                x, d = part.read[name], part.slope[name]
                rows.append(torch.cat([x, d], -1)[bearing(x, d)])
        z = torch.cat(rows).double()
        state[f"{shape}.mean"] = z.mean(0).float().cpu()
        state[f"{shape}.std"] = z.std(0, correction=0).float().cpu()
    return state


def standardised(state: Parts, shape: str, z: Float[Tensor, "*token z"]) -> Float[Tensor, "*token z"]:
    """Less the mean, over the standard deviation."""
    return (z - state[f"{shape}.mean"].to(z)) / (state[f"{shape}.std"].to(z) + TINY)


@torch.no_grad()
def quiet(size: Float[Tensor, ""], leak: float, after: Callable[[], After]) -> None:
    """Fill in the largest of ten sizes of a step whose edits, untrained, leak less than `leak` nats; else the smallest.

    What the first step's size is decides all of the early training, and the right one differs between models.
    """
    for start in STARTS:
        size.fill_(start)
        if float(after().moved.mean()) < leak:
            return
