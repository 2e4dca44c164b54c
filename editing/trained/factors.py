"""The two factors of a gradient, standardised: what every network that reads gradients is fed.

For every token z = [x | d], what a matrix reads beside the loss's gradient at what it writes, less its mean over the
tokens of some training edits and over its standard deviation, coordinate by coordinate. Matrices of one shape share
mean and deviation. A token without a gradient has no part in either.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from editing.trained.examples import After, Asker
from editing.trained.facts import examples
from editing.trained.learning import Parts
from editing.trained.tail import Slopes
from factscope.model.forward.scoring import Pair
from factscope.model.weights import WeightName

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
