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
from editing.trained.editor import Trained
from factscope.data.fact import Fact
from factscope.data.request import EditRequest, requests_of
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.results.result import Result
from factscope.runs.workers import ALONE, Workers, each
from factscope.settings import configured
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


@dataclass(frozen=True, eq=False)
class LayerEditors:
    """Editors of one method, each trained for one layer."""

    editors: tuple[Trained, ...]
    allow_trained: bool = False  # whether facts may be edited that an editor was trained on

    @property
    def method(self) -> MethodSpec:
        """Theirs; EditError where they have several, or none is given."""
        names = {editor.method for editor in self.editors}
        if len(names) != 1:
            raise EditError(f"the editors of one method are asked for, not of {', '.join(sorted(names)) or 'none'}")
        return method_of(names.pop())

    @property
    def by_layer(self) -> dict[int, Trained]:
        """Each with its layer; EditError for one that writes to several, for two of one layer, and for a text's."""
        _changes_weights(self.method)
        found: dict[int, Trained] = {}
        for editor in self.editors:
            layers = self.method.layers(configured(self.method.Config, editor.config))
            if len(layers) != 1 or layers[0] in found:
                what = f"layers {', '.join(map(str, layers))}" if len(layers) != 1 else f"layer {layers[0]}, as another"
                raise EditError(
                    f"editor {editor.name} was trained for {what}, and a layer is tried by an editor of it alone: "
                    f"train one for each with edit train {editor.method} --set {self.method.layer_setting}=LAYER"
                )
            found[layers[0]] = editor
        return found


def _changes_weights(spec: MethodSpec) -> None:
    if spec.in_context:
        raise EditError(
            f"{spec.name} changes no weight, so no layer is better for it than another: choose another method"
        )


def untrained(spec: MethodSpec) -> None:
    """EditError for a method that no layer can be tried with by itself."""
    _changes_weights(spec)
    if spec.train is not None:
        raise EditError(
            f"an editor of {spec.name} writes to the layers that it was trained for: train one for each layer that is "
            f"to be tried, with edit train {spec.name} --set {spec.layer_setting}=LAYER, and give them all"
        )


def try_layers(
    model: Bridge,
    asked: Sequence[EditRequest | Fact],
    layers: Sequence[int],
    method: str | MethodSpec | LayerEditors = "rome",
    **how: Any,
) -> LayerChoice:
    """Edit every fact alone at every layer, and score it; each of `layers` is a single edited layer.

    Keyword arguments are those of `Options`.

    Raises EditError where a fact has no paraphrase or no neighbour: without them every layer would look perfect; for a
    trained method unless its editors, one for each of `layers`, are given in its place.
    """
    options = Options(**how)
    requests = requests_of(asked)
    bare = [one.id for one in requests if not one.paraphrases or not one.neighbours]
    if bare:
        raise EditError(
            f"fact {bare[0]!r} has no paraphrase or no neighbour, so nothing can be said about layers by it"
        )
    spec, trained = _settled(method, layers)
    allowed = isinstance(method, LayerEditors) and method.allow_trained
    contexts = tuple(sampled(model, 5, 10, options.seed, options.start))
    own = replace(options, workers=ALONE, shown=False)
    given: dict[str, Any] = {"spec": spec, "requests": requests, "contexts": contexts, "options": own}
    work = partial(_trial, **given, trained=trained, allow_trained=allowed)
    trials = []
    with (
        progress("layers tried", len(layers), shown=options.shown) as advance,
        closing(each(model, work, layers, options.workers)) as found,
    ):
        for trial in found:
            trials.append(trial)
            advance(1)
    ids, subjects = tuple(one.id for one in requests), tuple(one.subject for one in requests)
    return LayerChoice(spec.name, ids, tuple(trials), spec.moments_name(options.moments), subjects)


def _settled(method: str | MethodSpec | LayerEditors, layers: Sequence[int]) -> tuple[MethodSpec, dict[int, Trained]]:
    """The method, and the editor of each layer where it is trained."""
    if not isinstance(method, LayerEditors):
        untrained(spec := method_of(method))
        return spec, {}
    trained = method.by_layer
    if absent := [layer for layer in layers if layer not in trained]:
        raise EditError(
            f"no editor was trained for layer {absent[0]}; those given are for {', '.join(map(str, sorted(trained)))}"
        )
    return method.method, trained


def _trial(
    model: Bridge,
    layer: int,
    *,
    spec: MethodSpec,
    requests: Sequence[EditRequest],
    contexts: tuple[str, ...],
    options: Options,
    trained: dict[int, Trained],
    allow_trained: bool,
) -> LayerTrial:
    """Every fact edited alone at one layer."""
    editor = trained.get(layer)
    config = spec.config_for(model, editor=editor)
    config = spec.at_layers(config, (layer,)) if editor is None else config
    used = contexts if spec.contexts(config) else None
    edits = computing.compute_each(
        spec, model, requests, config, moments=options.moments, contexts=used, start=options.start,
        seed=options.seed, shown=False, editor=editor, allow_trained=allow_trained,
    )  # fmt: skip
    report = evaluate(model, edits, protocol=PROTOCOL, start=options.start, shown=False)
    cases = records(report.rows, (), report.protocol, "after")
    each_fact = np.array([[METRICS[name].measure(case) for name in MARKS] for case in cases], dtype=float)
    efficacy, paraphrase, neighbourhood, unchanged = each_fact.mean(0).tolist()
    mark, kl = float(harmonic(each_fact.mean(0)[:, None])[0]), report.score("locality KL").value
    shares = tuple(map(tuple, each_fact.tolist()))
    return LayerTrial(layer, efficacy, paraphrase, neighbourhood, unchanged, kl, mark, shares)
