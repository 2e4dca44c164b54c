"""Which layer to edit: try each on a handful of facts that the model knows, and look at what holds and what breaks.

A layer's mark is the harmonic mean of ES, PS, NS and of what neighbours answer as before: a layer that
fails at any of them cannot win by the others. No published layer is copied.

How sure the choice is, is told by a bootstrap over the facts, those of one subject together: in what share of the
resamples a layer has the best mark, and which layers have it in 95 % of them.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from editing import compute as computing
from editing.contexts import contexts as sampled
from editing.evaluation.evaluate import evaluate
from editing.evaluation.metrics import METRICS
from editing.evaluation.protocol import ORDERS
from editing.evaluation.table import harmonic, records
from editing.method import MethodSpec
from editing.method import method as method_of
from editing.solve.moments import Moments
from factscope.data.fact import Fact
from factscope.data.request import EditRequest, requests_of
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.results.result import Result
from factscope.runs.workers import ALONE, Workers, each
from factscope.statistics import ENOUGH, likely_best, resampled_means, shares_of_best

MARKS = ("ES", "PS", "NS", "locality, unchanged")
PROTOCOL = replace(ORDERS["single"], words=0)


@dataclass(frozen=True)
class LayerTrial:
    """One layer's scores, shares over the facts; `mark` is their harmonic mean."""

    layer: int
    efficacy: float
    paraphrase: float
    neighbourhood: float
    unchanged: float  # neighbours' answers, the share of greedy tokens as before
    kl: float  # nats, at the neighbours
    mark: float
    per_fact: tuple[tuple[float, ...], ...] = ()  # the four shares of each fact; () in older results


@shown("editing.pages.layer_trials")
@dataclass(frozen=True, eq=False)
class LayerChoice(Result):
    """All trials, and the layer to use."""

    method: str
    facts: tuple[str, ...]
    trials: tuple[LayerTrial, ...]
    moments: str
    subjects: tuple[str, ...] = ()  # of the facts

    @property
    def best(self) -> int:
        """The layer with the highest mark; of equals, the one that disturbs neighbours least."""
        return max(self.trials, key=lambda trial: (round(trial.mark, 3), -trial.kl)).layer

    def shares(self) -> dict[int, float]:
        """In what share of the resamples each layer is the best; none with fewer than `ENOUGH` subjects."""
        if len(set(self.subjects)) < ENOUGH or not all(trial.per_fact for trial in self.trials):
            return {}
        values = np.array([trial.per_fact for trial in self.trials]).swapaxes(0, 1)  # [fact, layer, share]
        means = resampled_means(values, groups=self.subjects)
        shares = shares_of_best(harmonic(np.moveaxis(means, -1, 0)))
        return {trial.layer: float(share) for trial, share in zip(self.trials, shares, strict=True)}

    def likely(self) -> tuple[int, ...]:
        """The fewest layers that are the best in 95 % of the resamples; none where `shares` has none."""
        shares = self.shares()
        return tuple(list(shares)[place] for place in likely_best(np.array([*shares.values()]))) if shares else ()


@dataclass(frozen=True, eq=False)
class Options:
    """How layers are tried: as in `editing.compute`; `workers` share the layers, and no number depends on them."""

    moments: Moments | None = None
    start: str = "auto"
    seed: int = 0
    shown: bool | None = None
    workers: Workers = ALONE


def try_layers(
    model: Bridge,
    asked: Sequence[EditRequest | Fact],
    layers: Sequence[int],
    method: str | MethodSpec = "rome",
    **how: Any,
) -> LayerChoice:
    """Edit every fact alone at every layer, and score it; each of `layers` is a single edited layer.

    Keyword arguments are those of `Options`.

    Raises EditError where a fact has no paraphrase or no neighbour: without them every layer would look perfect.
    """
    options = Options(**how)
    requests = requests_of(asked)
    bare = [one.id for one in requests if not one.paraphrases or not one.neighbours]
    if bare:
        raise EditError(
            f"fact {bare[0]!r} has no paraphrase or no neighbour, so nothing can be said about layers by it"
        )
    spec = method_of(method)
    if spec.in_context:
        raise EditError(
            f"{spec.name} changes no weight, so no layer is better for it than another: choose another method"
        )
    contexts = tuple(sampled(model, 5, 10, options.seed, options.start))
    own = replace(options, workers=ALONE, shown=False)
    work = partial(_trial, spec=spec, requests=requests, contexts=contexts, options=own)
    trials = []
    with (
        progress("layers tried", len(layers), shown=options.shown) as advance,
        closing(each(model, work, layers, options.workers)) as found,
    ):
        for trial in found:
            trials.append(trial)
            advance(1)
    name = "none" if not spec.needs_moments else "identity" if options.moments is None else options.moments.name
    ids, subjects = tuple(one.id for one in requests), tuple(one.subject for one in requests)
    return LayerChoice(spec.name, ids, tuple(trials), name, subjects)


def _trial(
    model: Bridge,
    layer: int,
    *,
    spec: MethodSpec,
    requests: Sequence[EditRequest],
    contexts: tuple[str, ...],
    options: Options,
) -> LayerTrial:
    """Every fact edited alone at one layer."""
    config = spec.at_layers(spec.config_for(model), (layer,))
    used = contexts if spec.contexts(config) else None
    edits = computing.compute_each(
        spec, model, requests, config, moments=options.moments, contexts=used, start=options.start,
        seed=options.seed, shown=False,
    )  # fmt: skip
    report = evaluate(model, edits, protocol=PROTOCOL, start=options.start, shown=False)
    cases = records(report.rows, (), report.protocol, "after")
    each_fact = np.array([[METRICS[name].measure(case) for name in MARKS] for case in cases], dtype=float)
    efficacy, paraphrase, neighbourhood, unchanged = each_fact.mean(0).tolist()
    mark, kl = float(harmonic(each_fact.mean(0)[:, None])[0]), report.score("locality KL").value
    shares = tuple(map(tuple, each_fact.tolist()))
    return LayerTrial(layer, efficacy, paraphrase, neighbourhood, unchanged, kl, mark, shares)
