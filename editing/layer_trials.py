"""Which layer to edit: try each on a handful of facts that the model knows, and look at what holds and what breaks.

A layer's mark is the harmonic mean of ES, PS, NS and of what neighbours answer as before: a layer that
fails at any of them cannot win by the others. No published layer is copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from editing import compute as computing
from editing.contexts import contexts as sampled
from editing.evaluation.evaluate import evaluate
from editing.evaluation.protocol import ORDERS
from editing.method import MethodSpec
from editing.method import method as method_of
from editing.solve.moments import Moments
from factscope.data.fact import Fact
from factscope.data.request import EditRequest, requests_of
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.plots.show import shown
from factscope.progress import progress

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


@shown("editing.pages.layer_trials")
@dataclass(frozen=True, eq=False)
class LayerChoice:
    """All trials, and the layer to use."""

    method: str
    facts: tuple[str, ...]
    trials: tuple[LayerTrial, ...]
    moments: str

    @property
    def best(self) -> int:
        """The layer with the highest mark; of equals, the one that disturbs neighbours least."""
        return max(self.trials, key=lambda trial: (round(trial.mark, 3), -trial.kl)).layer


def try_layers(
    model: Bridge,
    asked: Sequence[EditRequest | Fact],
    layers: Sequence[int],
    *,
    method: str | MethodSpec = "rome",
    moments: Moments | None = None,
    start: str = "auto",
    seed: int = 0,
    shown: bool | None = None,
) -> LayerChoice:
    """Edit every fact alone at every layer, and score it; each of `layers` is a single edited layer.

    Raises EditError where a fact has no paraphrase or no neighbour: without them every layer would look perfect.
    """
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
    context, trials = sampled(model, 5, 10, seed, start), []
    with progress("layers tried", len(layers), shown=shown) as advance:
        for layer in layers:
            config = spec.at_layers(spec.config_for(model), (layer,))
            used = context if spec.contexts(config) else None
            edits = computing.compute_each(
                spec, model, requests, config, moments=moments, contexts=used, start=start, seed=seed, shown=False
            )
            report = evaluate(model, edits, protocol=PROTOCOL, start=start, shown=False)
            parts = [report.score(name).value for name in MARKS]
            mark = 0.0 if min(parts) <= 0 else len(parts) / sum(1 / part for part in parts)
            kl = report.score("locality KL").value
            trials.append(LayerTrial(layer, parts[0], parts[1], parts[2], parts[3], kl, mark))
            advance(1)
    name = "identity" if moments is None else moments.name
    return LayerChoice(spec.name, tuple(one.id for one in requests), tuple(trials), name)
