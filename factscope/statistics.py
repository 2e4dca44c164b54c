"""Statistics that several rooms need: intervals, rank correlation, entropy of a text."""

import math
from collections.abc import Sequence

import numpy as np


def ngram_entropy(texts: Sequence[str]) -> float:
    """Generation entropy in bits, (H2 + 2 H3) / 3 over word 2- and 3-grams, averaged over texts (Meng et al. 2022).

    Low when a model repeats itself. It grows with the length of the text: compare equal lengths only. A text of fewer
    than three words says nothing and is left out; nan if none is left.
    """
    each = [_entropy(words, 2) / 3 + 2 * _entropy(words, 3) / 3 for words in map(str.split, texts) if len(words) > 2]
    return sum(each) / len(each) if each else math.nan


def _entropy(words: Sequence[str], n: int) -> float:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    shares = [grams.count(gram) / len(grams) for gram in set(grams)]
    return float(-sum(share * math.log2(share) for share in shares))


def wilson(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); for fractions within facts it is a little wide, never narrow."""
    n, z = len(values), 1.96
    p = sum(values) / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def normal(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean, from the spread between facts; NaN for one fact."""
    n = len(values)
    p = sum(values) / n
    if n < 2:
        return float("nan"), float("nan")
    half = 1.96 * math.sqrt(sum((value - p) ** 2 for value in values) / (n - 1) / n)
    return p - half, p + half


PERMUTATIONS = 10_000


def spearman(one: Sequence[float], other: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Rank correlation, ties sharing their mean rank, and its two-sided p by permutation; NaN for a constant."""
    ranks = [_ranks(np.asarray(values, dtype=float)) for values in (one, other)]
    centred = [each - each.mean() for each in ranks]
    scale = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    if not scale > 0:
        return float("nan"), float("nan")
    rho = float(centred[0] @ centred[1]) / scale
    rng = np.random.default_rng(seed)
    drawn = np.array([rng.permutation(centred[1]) for _ in range(PERMUTATIONS)]) @ centred[0] / scale
    return rho, float((1 + (np.abs(drawn) >= abs(rho) - 1e-12).sum()) / (1 + PERMUTATIONS))


def _ranks(values: np.ndarray) -> np.ndarray:
    below = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return below + (equal + 1) / 2
