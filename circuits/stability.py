"""How much a circuit owes to the examples that it was found on: a bootstrap of the scores that the search kept.

A score of EAP or EAP-IG is a mean over examples. So examples are drawn anew, with replacement, their scores are
averaged, and edges are chosen from them as they were before: another circuit, without another run of the model. An
edge's inclusion is the share of these circuits that keep it; the circuit's stability is the mean Jaccard index of
two of them (Meloux et al. 2025, arXiv 2510.00845, who run EAP-IG again for every draw).

Convention: all shares are from 0 to 1; 1 means that the same edges are found whichever examples are drawn.
Scope: the resamples have the size that the circuit has; how the size was chosen is not drawn again. They tell what
other draws of such examples would give, and not what examples of another kind would. From few examples the shares are
coarse, and a little too high.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.writes import Mask
from factscope.statistics import student_quantile

DRAWS = 100  # an inclusion of one half is then known to 0.05
CONFIDENCE = 0.95  # that the mean over all examples there could be is beyond the bound
Examples = Float[Tensor, "example writer reader *place"]


@dataclass(frozen=True, eq=False)
class Stability:
    """What a bootstrap over the examples says of a circuit."""

    inclusion: Float[Tensor, "writer reader *place"]  # share of the resampled circuits that keep each edge
    jaccard: float  # mean over pairs of resampled circuits: edges in both, of the edges in either
    to_circuit: float  # mean Jaccard index of a resampled circuit with the circuit itself
    examples: int
    draws: int
    seed: int


def stability(
    examples: Examples, kept: Mask, chosen: Callable[[Examples], Mask], *, draws: int = DRAWS, seed: int = 0
) -> Stability | None:
    """Choose edges from resampled examples, `draws` times; None for one example, which leaves nothing to draw.

    Args:
        kept: the circuit that all examples together gave.
        chosen: how edges are chosen from examples' scores.
    """
    n = len(examples)
    if n < 2:
        return None
    found = [np.flatnonzero(chosen(examples[torch.from_numpy(drawn)])) for drawn in resamples(n, draws, seed)]
    own = np.flatnonzero(kept)
    some = np.unique(np.concatenate([own, *found]))  # a graph has a hundred times as many edges
    shared = np.stack([np.isin(some, circuit) for circuit in found]).astype(np.float32)
    between = jaccard(shared, shared)
    inclusion = np.zeros(kept.size, dtype=np.float32)
    inclusion[some] = shared.mean(0, dtype=np.float64)
    return Stability(
        inclusion=torch.from_numpy(inclusion.reshape(kept.shape)),
        jaccard=float((between.sum() - np.trace(between)) / (draws * (draws - 1))),
        to_circuit=float(jaccard(shared, np.isin(some, own)[None].astype(np.float32)).mean()),
        examples=n,
        draws=draws,
        seed=seed,
    )


def resamples(n: int, draws: int, seed: int = 0) -> np.ndarray:
    """Numbers of examples [draw, example], drawn with replacement."""
    return np.random.default_rng(seed).integers(n, size=(draws, n))


def jaccard(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Jaccard indices [ours, theirs] of sets that are rows of ones and zeros; two empty sets are alike."""
    both = ours @ theirs.T
    either = ours.sum(1)[:, None] + theirs.sum(1)[None, :] - both
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def lower_bound(examples: Examples) -> Float[Tensor, "writer reader *place"]:
    """Each mean score, moved towards zero to the end of its one-sided interval, and not beyond zero.

    The interval is Student's of a mean of so many examples; its sign is the mean's. An edge whose examples disagree has
    nothing left, however large some of its scores are. It is of each edge by itself: of a thousand edges worth nothing,
    a hundred have a bound beyond zero, fifty on either side.
    """
    mean = examples.mean(0)
    error = examples.std(0) / len(examples) ** 0.5
    left = mean.abs() - student_quantile(CONFIDENCE, len(examples) - 1) * error
    bound: Tensor = mean.sign() * left.clamp(min=0)
    return bound
