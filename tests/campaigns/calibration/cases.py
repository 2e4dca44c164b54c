"""What is calibrated: every p-value under a true null, and every interval beside the truth that it is to hold.

A case draws data whose law is known, asks the product's own function, and keeps the p-values, or whether the truth was
held. Many rooms show the same interval; `where` names them. What a case is declared to be is held against what is seen:

    exact          5 % is 5 %: within four binomial standard errors
    conservative   by design: rarer than said, never more often
    approximate    says so in its docstring; not below the coverage, or above the rate, that `bound` has
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch

from campaigns.calibration.places import head_table, profiles
from circuits.analysis.head_changes import head_changes
from circuits.analysis.scorer_errors import _agreements
from circuits.stability import lower_bound
from editing.evaluation.table import harmonic
from editing.layer_trials import LayerChoice, LayerTrial
from factscope import statistics
from factscope.statistics import ENOUGH, bca, null_p, percentile_bootstrap, spearman, standard_error, wilson
from studies.edit_effects.result import Measure
from studies.tables.locating import agreement
from tracing.flow.knockouts import Knockout, random_sets
from tracing.pages.flow import probability

Rng = np.random.Generator
Kind = Literal["p", "interval"]
Verdict = Literal["exact", "conservative", "approximate"]


@dataclass(frozen=True)
class Case:
    """One p-value or interval, and how data are drawn for it."""

    name: str
    where: str  # the function, and who shows what it gives
    kind: Kind
    draw: Callable[[Rng, int], np.ndarray]  # so many p-values; or 1 where the truth was held, 0 where not, NaN: none
    declared: Verdict = "exact"
    bound: float = math.nan  # of an approximate one: the least coverage, or the largest rate at .05
    simulations: int = 2000
    level: float = 0.95  # of an interval


def cases() -> Iterator[Case]:
    """All of them, p-values first."""
    yield from _nulls()
    yield from _correlations()
    yield from _shares()
    yield from _means()
    yield from _choices()
    yield from _rest()


# ---- p-values ----


def _nulls() -> Iterator[Case]:
    where = "factscope.statistics.null_p: changes of circuit diff, heads, knockouts"

    def drawn(nulls: int) -> Callable[[Rng, int], np.ndarray]:
        return lambda rng, n: np.array([_p(null_p(x[0], x[1:])) for x in rng.gamma(2.0, size=(n, nulls + 1))])

    for nulls in (19, 199):
        yield Case(f"p among {nulls} nulls", where, "p", drawn(nulls))
    ties = Case("p among 19 nulls, values tied", where, "p", _tied, "conservative")
    yield ties
    yield Case("p of a change by an edit", "studies.edit_effects.result.Measure.p", "p", _measure)
    yield Case("p of the head that turned most", "circuits.analysis.head_changes", "p", _heads, simulations=1000)
    for words in (6, 12):
        yield Case(
            f"p of a knockout, {words} words", "tracing.pages.flow.probability", "p", _knockout(words), "conservative"
        )


def _p(value: float | None) -> float:
    assert value is not None
    return value


def _tied(rng: Rng, n: int) -> np.ndarray:
    return np.array([_p(null_p(float(x[0]), x[1:].tolist())) for x in rng.integers(3, size=(n, 20))])


def _measure(rng: Rng, n: int) -> np.ndarray:
    """The broad nulls are far smaller, and count for nothing."""
    return np.array(
        [_p(Measure("x", "nats", float(x[0]), (0.0,) * 5, tuple(x[1:].tolist())).p) for x in rng.gamma(2, size=(n, 20))]
    )


def _heads(rng: Rng, n: int) -> np.ndarray:
    """The smallest p of twelve heads: an edit that is one of its nulls marks any head in 5 % of cases."""
    before = head_table(np.zeros((2, 12)))
    scale = rng.gamma(1.0, size=12)  # heads of unequal unrest
    found = []
    for _ in range(n):
        tables = [head_table(rng.normal(size=(2, 12)) * scale) for _ in range(20)]
        found.append(min(_p(head.p) for head in head_changes(before, tables[0], tables[1:])))
    return np.array(found)


def _knockout(words: int) -> Callable[[Rng, int], np.ndarray]:
    """The source is any two words of a prompt, and each word costs what it costs in each of five layers."""

    def draw(rng: Rng, n: int) -> np.ndarray:
        prompt: Any = SimpleNamespace(n_start=1)
        found = []
        for number in range(n):
            costs = rng.gamma(0.5, size=(words + 1, 5))
            source = tuple(sorted((1 + rng.choice(words, 2, replace=False)).tolist()))
            sets = random_sets(prompt, Knockout("last token", "subject", (words,), source), 19, number)
            null = torch.tensor(np.stack([-costs[list(one.keys)].sum(0) for one in sets]))
            change = torch.tensor(-costs[list(source)].sum(0))
            result: Any = SimpleNamespace(change=[change], null_change=[null])
            found.append(_p(probability(result, 0)))
        return np.array(found)

    return draw


def _correlations() -> Iterator[Case]:
    where = "factscope.statistics.spearman: agreement of layers (edit layers --by), scorers"

    def independent(layers: int) -> Callable[[Rng, int], np.ndarray]:
        return lambda rng, n: np.array([spearman(*rng.normal(size=(2, layers)))[1] for _ in range(n)])

    def smooth(window: int) -> Callable[[Rng, int], np.ndarray]:
        """Both measures are means over windows of neighbouring layers, as traces are."""

        def draw(rng: Rng, n: int) -> np.ndarray:
            pairs = rng.normal(size=(n, 2, 29 + window))
            return np.array(
                [spearman(*(np.convolve(x, np.ones(window), "valid").tolist() for x in pair))[1] for pair in pairs]
            )

        return draw

    yield Case("p of a rank correlation, 6 layers", where, "p", independent(6), "conservative", simulations=4000)
    yield Case("p of a rank correlation, 30 layers", where, "p", independent(30), simulations=4000)
    for window, most in ((3, 0.06), (10, 0.10)):
        yield Case(f"the same, means over {window} neighbours", where, "p", smooth(window), "approximate", most, 4000)


# ---- intervals ----


def _held(ends: tuple[float, float], truth: float) -> float:
    low, high = ends
    return math.nan if math.isnan(low) else float(low <= truth <= high)


def _shares() -> Iterator[Case]:
    where = "factscope.statistics.wilson: every share of editing, hops, linear relations, extraction"

    def alone(facts: int) -> Callable[[Rng, int], np.ndarray]:
        def draw(rng: Rng, n: int) -> np.ndarray:
            truth = rng.random(n)
            return np.array([_held(wilson((rng.random(facts) < p).astype(float).tolist()), p) for p in truth])

        return draw

    def within(rng: Rng, n: int) -> np.ndarray:
        """Each fact has a share of its own, of ten questions."""
        made = [rng.binomial(10, rng.beta(2, 2, size=20)) / 10 for _ in range(n)]
        return np.array([_held(wilson(values.tolist()), 0.5) for values in made])

    for facts in (5, 20, 100):
        yield Case(f"share of {facts} facts, any true share", where, "interval", alone(facts), simulations=4000)
    yield Case("share, fractions within facts", where, "interval", within, "conservative")
    for name, sizes in (("equal", (5,) * 12), ("unequal", (20, 10, 5, *(1,) * 9))):
        yield Case(
            f"share of facts of one subject, {name} groups", where, "interval", _grouped_share(sizes), "conservative"
        )


def _grouped_share(sizes: tuple[int, ...]) -> Callable[[Rng, int], np.ndarray]:
    groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]

    def draw(rng: Rng, n: int) -> np.ndarray:
        """Facts of a subject are all right or all wrong."""
        found = []
        for p in rng.uniform(0.1, 0.9, size=n):
            right = np.repeat(rng.random(len(sizes)) < p, sizes).astype(float)
            found.append(_held(wilson(right.tolist(), groups), p))
        return np.array(found)

    return draw


LAWS: dict[str, tuple[Callable[[Rng, Any], np.ndarray], float]] = {
    "normal": (lambda rng, size: rng.normal(size=size), 0.0),
    "exponential": (lambda rng, size: rng.exponential(size=size), 1.0),
}
# the least coverage by law and facts: what skews stays narrow (Hesterberg 2015)
LEAST = {("normal", 5): 0.89, ("exponential", 5): 0.83, ("exponential", 10): 0.87, ("exponential", 20): 0.90}


def _means() -> Iterator[Case]:
    rooms = {
        "BCa": "factscope.statistics.bca: means of edit bench, sequences, reports",
        "percentile": "factscope.statistics.percentile_bootstrap: averages of traces and flows over facts",
    }
    for way, where in rooms.items():
        for law, (draw, truth) in LAWS.items():
            for facts in (5, 10, 20, 50):
                least = LEAST.get((law, facts), 0.92)
                of_law = _mean_of(way, draw, truth, facts)
                yield Case(f"{way}, {facts} {law} numbers", where, "interval", of_law, "approximate", least)
        yield Case(f"{way}, groups of unequal size", where, "interval", _grouped_mean(way), "approximate", 0.90, 1000)
    yield Case("BCa of the harmonic mean S, 30 facts", "editing.evaluation.table", "interval", _harmonic,
               "approximate", 0.90, 1000)  # fmt: skip


def _mean_of(way: str, law: Any, truth: float, facts: int) -> Callable[[Rng, int], np.ndarray]:
    def draw(rng: Rng, n: int) -> np.ndarray:
        made = law(rng, (facts, n))
        if way == "BCa":
            return np.array([_held(bca(made[:, i][None], seed=i), truth) for i in range(n)])
        parts = []
        for seed, part in enumerate(np.array_split(made, max(1, n // 100), axis=1)):  # each part by its own draws
            _, low, high = percentile_bootstrap(torch.from_numpy(part.copy()), seed)
            parts.append(((low <= truth) & (truth <= high)).float().numpy())
        return np.concatenate(parts)

    return draw


def _grouped_mean(way: str) -> Callable[[Rng, int], np.ndarray]:
    sizes = (4, 4, 3, 3, 2, 2, *(1,) * 9)
    groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]

    def draw(rng: Rng, n: int) -> np.ndarray:
        """A number for each subject, and a little of each fact's own."""
        found = []
        for seed in range(n):
            values = np.repeat(rng.normal(size=len(sizes)), sizes) + 0.3 * rng.normal(size=len(groups))
            if way == "BCa":
                found.append(_held(bca(values[None], seed=seed, groups=groups), 0.0))
            else:
                _, low, high = percentile_bootstrap(torch.from_numpy(values)[:, None], seed, groups)
                found.append(_held((float(low), float(high)), 0.0))
        return np.array(found)

    return draw


def _harmonic(rng: Rng, n: int) -> np.ndarray:
    means = np.array([0.9, 0.6, 0.7])
    truth = float(harmonic(means))
    found = []
    for seed in range(n):
        skill = rng.normal(size=30)
        noise = rng.normal(size=(3, 30))
        cut = np.array([statistics._NORMAL.inv_cdf(p) for p in means])[:, None]
        values = ((skill + noise) / math.sqrt(2) < cut).astype(float)
        found.append(_held(bca(values, harmonic, seed=seed), truth))
    return np.array(found)


# ---- choices, and the rest ----


def _choices() -> Iterator[Case]:
    for facts in (5, 20):
        yield Case(f"likely layers hold the best one, {facts} facts", "editing.layer_trials, studies.layers, averages",
                   "interval", _likely(facts), "approximate", 0.80, 500)  # fmt: skip


def _likely(facts: int) -> Callable[[Rng, int], np.ndarray]:
    def draw(rng: Rng, n: int) -> np.ndarray:
        """Six layers, whose true marks are .5 to .75; each fact's four shares are right or wrong."""
        truth = np.linspace(0.5, 0.75, 6)
        subjects = tuple(map(str, range(facts)))
        found = []
        for _ in range(n):
            shares = (rng.random((6, facts, 4)) < truth[:, None, None]).astype(float)
            trials = tuple(
                LayerTrial(layer, *(0.0,) * 6, tuple(map(tuple, shares[layer].tolist()))) for layer in range(6)
            )
            found.append(float(5 in LayerChoice("x", subjects, trials, "identity", subjects).likely()))
        return np.array(found)

    return draw


def _rest() -> Iterator[Case]:
    where = "circuits.stability.lower_bound: circuit find --confident"

    def beyond(examples: int) -> Callable[[Rng, int], np.ndarray]:
        """One-sided: the true mean is not between zero and the bound; on either side of zero, so twice 5 %."""
        return lambda rng, n: (
            (lower_bound(torch.from_numpy(rng.normal(size=(examples, n, 1))))[:, 0] == 0).float().numpy()
        )

    for examples in (2, 5, 20):
        yield Case(f"an edge worth nothing has no bound, {examples} facts", where, "interval", beyond(examples),
                   simulations=4000, level=0.90)  # fmt: skip
    where = "factscope.statistics.standard_error: every +- of a trace"
    yield Case("2.26 standard errors of 10 noise draws", where, "interval", _errors)
    yield Case("RSim, 8 subjects", "studies.tables.locating.agreement", "interval", _rsim, "approximate", 0.75, 100)
    where = "circuits.analysis.scorer_errors"
    names = ("rank correlation", "mean error", "top found")
    for place, name in enumerate(names):
        yield Case(f"1.96 errors of a scorer's {name}, 100 edges", where, "interval", _scorer(place), "approximate",
                   0.85, 60)  # fmt: skip


def _errors(rng: Rng, n: int) -> np.ndarray:
    made = torch.from_numpy(rng.normal(size=(n, 10)))
    return np.array([_held((float(x.mean()) - 2.262 * (e := standard_error(x)), float(x.mean()) + 2.262 * e), 0.0)
                     for x in made])  # fmt: skip


def _rsim(rng: Rng, n: int) -> np.ndarray:
    """Places found by the subject and the fact, and noise; the truth is what 60 subjects give, six times over."""
    many = np.mean([agreement("x", "layers", *profiles(rng, 40), seed=0).rsim[0, 1].item() for _ in range(6)])
    found = []
    for seed in range(n):
        one = agreement("x", "layers", *profiles(rng, 8), seed=seed)
        found.append(_held((one.low[0, 1].item(), one.high[0, 1].item()), float(many)))
    return np.array(found)


def _scorer(place: int) -> Callable[[Rng, int], np.ndarray]:
    def sample(rng: Rng, edges: int) -> tuple[np.ndarray, np.ndarray]:
        exact = rng.standard_t(4, size=edges)
        return exact + rng.normal(size=edges), exact

    def measured(rng: Rng, edges: int, seed: int) -> Any:
        score, exact = sample(rng, edges)
        found = _agreements(("x",), torch.from_numpy(score)[None], torch.from_numpy(exact), [0.0], seed)[0]
        return (found.rank_correlation, found.mean_error, found.top_found)[place]

    def draw(rng: Rng, n: int) -> np.ndarray:
        each = [measured(rng, 100, seed) for seed in range(n)]
        truth = float(np.mean([one.value for one in each]))  # what its errors are around: its own mean
        return np.array([_held((one.value - 1.96 * one.error, one.value + 1.96 * one.error), truth) for one in each])

    return draw


assert ENOUGH == 5, "the smallest samples above are the smallest that have an interval"
