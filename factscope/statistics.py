"""Statistics that several rooms need: intervals of shares and of means, rank correlation, planes, entropy of a text.

One rule for every table: a *share* (a mean of numbers from 0 to 1, each a count of successes) has Wilson's interval,
any other *mean* the BCa bootstrap over facts, from `ENOUGH` facts on; below that a bootstrap draws the same few numbers
again and again and is far too narrow, so there is no interval (NaN), and tables say so. Facts that are all alike tell a
bootstrap nothing either: no interval, and not one of no width. All intervals are of 95 %.

A bootstrap of few facts is too narrow even so: it divides by n where a sample's variance is divided by n - 1, and takes
a normal distribution where Student's is due; of 5 normal numbers it holds the mean in 83 % of samples. So its ends are
those further out that make it as wide as Student's interval is (Hesterberg 2015, section 3.3, the expanded percentile
interval). What is skewed stays a little too narrow: docs/campaigns.md has how often each interval holds the truth.

Facts of one subject are not independent. `groups` names what each fact belongs to: a bootstrap draws whole groups, and
Wilson's interval counts groups instead of facts, as if each said one thing: a little wide, never narrow. Groups of
unequal size count as the number of equal ones whose mean is as uncertain (Kish 1965): of nine facts alone and a group
of fifty, the group says nearly everything.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

ENOUGH = 5  # facts, for a bootstrap
RESAMPLES = 2000
NO_INTERVAL = (math.nan, math.nan)
INTERVALS = (
    f"95 % intervals: Wilson's for a share, else the BCa bootstrap over facts; those of one subject count as one. A "
    f"mean of under {ENOUGH} subjects, or of facts that are all alike, has none"
)
_NORMAL = NormalDist()


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None


def interval(values: Sequence[float], unit: str, seed: int = 0, groups: Sequence[str] = ()) -> tuple[float, float]:
    """The 95 % interval of the mean of one number per fact: Wilson where the unit is "share", else BCa."""
    if unit == "share":
        return wilson(values, groups)
    return bca(np.asarray(values, dtype=float)[None], seed=seed, groups=groups)


def interval_in_words(low: float, high: float, facts: int) -> str:
    """An interval as a table of text shows it, or why there is none."""
    if low == low:
        return f"{low:.3f} to {high:.3f}"
    return f"under {ENOUGH} facts" if facts < ENOUGH else "all alike, or of few subjects"


def wilson(values: Sequence[float], groups: Sequence[str] = ()) -> tuple[float, float]:
    """Interval of a share (Wilson 1927); for fractions within facts it is a little wide, never narrow."""
    n, z = effective_number(groups) or len(values), 1.96
    p = sum(values) / len(values)
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def effective_number(groups: Sequence[str]) -> float:
    """How many groups of one size would make a mean as uncertain (Kish 1965), if all of a group say the same."""
    sizes = list(Counter(groups).values())
    return sum(sizes) ** 2 / sum(size * size for size in sizes) if sizes else 0.0


def student_quantile(level: float, degrees: float) -> float:
    """What Student's t of `degrees` of freedom is below in `level` of cases; to four digits from one degree on."""
    # t = sqrt(degrees) tan(angle), and the angle's density is cos^(degrees - 1)
    angle = np.linspace(-math.pi / 2, math.pi / 2, 40_001)
    middle = (angle[1:] + angle[:-1]) / 2
    below = np.concatenate([[0.0], np.cumsum(np.cos(middle) ** (degrees - 1))])
    return math.sqrt(degrees) * math.tan(float(np.interp(level, below / below[-1], angle)))


@cache
def bootstrap_tail(n: float) -> float:
    """Share of the draws of a bootstrap of n groups that lie below its lower end (Hesterberg 2015); .025 for many."""
    return _NORMAL.cdf(-math.sqrt(n / (n - 1)) * student_quantile(0.975, n - 1))


def null_p(value: float, nulls: Sequence[float]) -> float | None:
    """The p-value of a number among what changes that mean nothing gave: (1 + those as large) / (1 + all).

    Right if the number could be exchanged with theirs; 19 of them are needed for 0.05. None without nulls; NaN counts
    as not measured.
    """
    known = [null for null in nulls if null == null]
    return (1 + sum(null >= value for null in known)) / (1 + len(known)) if known and value == value else None


def _first(means: np.ndarray) -> np.ndarray:
    found: np.ndarray = means[0]
    return found


def bca(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = _first,
    *,
    seed: int = 0,
    groups: Sequence[str] = (),
) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987) of a statistic of means over facts, expanded.

    Args:
        values: [quantity fact]; every resample draws the same facts for all quantities.
        statistic: from means [quantity draw] to numbers [draw]; by default the first quantity's mean.
        groups: what each fact belongs to; without it every fact is its own.

    NaN below `ENOUGH` groups, and where all facts are alike or all draws come to one number.
    """
    sums, counts = _by_group(values, groups)
    n = len(counts)
    if n < ENOUGH or not np.ptp(values, axis=1).any():
        return NO_INTERVAL
    whole = float(statistic(values.mean(1)[:, None])[0])
    drawn = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    draws = statistic(sums[:, drawn].sum(-1) / counts[drawn].sum(-1))
    if not np.ptp(draws):
        return NO_INTERVAL
    below = ((draws < whole).sum() + 0.5 * (draws == whole).sum()) / RESAMPLES  # ties, as of shares, count half
    bias = _NORMAL.inv_cdf(float(np.clip(below, 0.5 / RESAMPLES, 1 - 0.5 / RESAMPLES)))
    without = statistic((sums.sum(1, keepdims=True) - sums) / (counts.sum() - counts))  # each group left out once
    spread = without.mean() - without
    cubes, squares = float((spread**3).sum()), float((spread**2).sum())
    skew = cubes / (6 * squares**1.5) if squares > 0 else 0.0
    outer = _NORMAL.inv_cdf(bootstrap_tail(effective_number(groups) or n))
    low, high = (_NORMAL.cdf(bias + z / max(1 - skew * z, 1e-9)) for z in (bias + outer, bias - outer))
    return float(np.quantile(draws, low)), float(np.quantile(draws, high))


def percentile_bootstrap(
    per_fact: Float[Tensor, " fact *rest"], seed: int = 0, groups: Sequence[str] = ()
) -> tuple[Float[Tensor, " *rest"], Float[Tensor, " *rest"], Float[Tensor, " *rest"]]:
    """Means over facts and their expanded percentile intervals, for whole grids at once; NaN where no fact has a value.

    A grid has a value for some facts only (a prompt with no middle subject token), so the number of facts changes from
    resample to resample, and the acceleration of `bca` has no definition here. `groups` as in `resampled_means`; there
    is no interval where fewer than `ENOUGH` groups have a value.
    """
    values = per_fact.double().numpy()
    present = ~np.isnan(values)
    means = resampled_means(values, seed, groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.where(present.any(0), np.where(present, values, 0.0).sum(0) / present.sum(0), np.nan)
    sizes = np.tensordot(_members(groups, len(values)), present.astype(float), 1)  # facts with a value, [group, *rest]
    known = (sizes > 0).sum(0) >= ENOUGH
    number = np.where(known, sizes.sum(0) ** 2 / np.maximum((sizes**2).sum(0), 1), np.nan)  # as `effective_number`
    ends = np.full((2, *known.shape), np.nan)
    for n in np.unique(number[known]):
        place, tail = number == n, bootstrap_tail(float(n))
        ends[:, place] = np.nanquantile(means[:, place], (tail, 1 - tail), axis=0)
    mean, low, high = (torch.from_numpy(each).float() for each in (centre, *ends))
    return mean, low, high


def resampled_means(values: np.ndarray, seed: int = 0, groups: Sequence[str] = ()) -> np.ndarray:
    """Means [draw, *rest] over `RESAMPLES` bootstraps of facts [fact, *rest]; NaN where a draw has no value.

    `groups` names what each fact belongs to, as its subject: facts of one group are drawn together, for they are not
    independent. Without it every fact is its own.
    """
    members = _members(groups, len(values))
    n_groups = len(members)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=RESAMPLES).astype(float) @ members
    present = ~np.isnan(values)
    sums = np.tensordot(weights, np.where(present, values, 0.0), 1)
    counts = np.tensordot(weights, present.astype(float), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: np.ndarray = np.where(counts > 0, sums / counts, np.nan)
    return means


def _members(groups: Sequence[str], facts: int) -> np.ndarray:
    """Which facts [group, fact] belong to which group, in the order of first appearance."""
    names = list(dict.fromkeys(groups)) if groups else range(facts)
    return np.array([[float(own == name) for own in (groups or range(facts))] for name in names])


def _by_group(values: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sums [quantity group] of values [quantity fact], and how many facts each group has."""
    if not groups:
        return values, np.ones(values.shape[1])
    place = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    own = np.array([place[name] for name in groups])
    sums = np.stack([np.bincount(own, weights=row, minlength=len(place)) for row in values])
    return sums, np.bincount(own).astype(float)


def shares_of_best(scores: np.ndarray) -> np.ndarray:
    """For each choice, the share of draws [draw, choice] in which it scores highest; equals share a draw."""
    best = scores == np.nanmax(scores, axis=1, keepdims=True)
    found: np.ndarray = (best / best.sum(1, keepdims=True)).mean(0)
    return found


def likely_best(shares: np.ndarray, level: float = 0.95) -> tuple[int, ...]:
    """The fewest choices that are the best one in `level` of the draws together, by number."""
    order = np.argsort(-shares, kind="stable")
    needed = int(np.searchsorted(np.cumsum(shares[order]), level - 1e-9)) + 1
    return tuple(sorted(order[:needed].tolist()))


def standard_error(samples: Float[Tensor, " sample"]) -> float:
    """Standard error of the mean; NaN for one sample."""
    return float(samples.std() / len(samples) ** 0.5) if len(samples) > 1 else float("nan")


def spearman(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Rank correlation over an order such as the layers, ties sharing their mean rank, and its two-sided p.

    Neighbouring layers resemble each other, so that any two smooth curves are often correlated. p is the share of the
    other's arrangements with as large a correlation, moved around by any number of places and turned around: whatever
    is smooth stays as smooth. Of n places there are 2 n arrangements, so that p is at least 1 / (2 n). Where few
    stretches are alike within n, p is still a little too small (docs/campaigns.md). NaN for a constant.
    """
    first, second = (ranks(np.asarray(values, dtype=float)) for values in (one, other))
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    if not scale > 0:
        return float("nan"), float("nan")
    moved = np.array([np.roll(each, places) for each in (second, second[::-1]) for places in range(len(second))])
    found = moved @ first / scale  # the first of them as it is
    return float(found[0]), float((np.abs(found) >= abs(found[0]) - 1e-12).mean())


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share their mean rank."""
    below = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    found: np.ndarray = below + (equal + 1) / 2
    return found


def principal_plane(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """The two directions [d, 2] of most variance, and the shares that they carry; zeros where there are fewer."""
    _, sizes, directions = np.linalg.svd(values - values.mean(0), full_matrices=False)
    total = float((sizes**2).sum())
    plane, shares = np.zeros((values.shape[1], 2)), [0.0, 0.0]
    for place in range(min(2, len(sizes))):
        if total > 0:
            plane[:, place], shares[place] = directions[place], float(sizes[place] ** 2 / total)
    return plane, (shares[0], shares[1])


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
