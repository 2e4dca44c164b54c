"""Which layer to edit, asked in three ways side by side: does it follow from where a fact is traced?

    trace     average indirect effect of restoring the MLPs in a window around the layer, at the subject's last token
              (Meng et al. 2022), in units of probability
    circuit   share of the circuit that leaves the layer's MLP: the sum of |score| over its kept edges, over that of all
              kept edges (EAP-IG, Hanna et al. 2024). Low layers have more readers above them, which favours them
    outcome   the mark of editing every fact alone at that layer, as `editing.layer_trials` defines it

For each pair: Spearman's rank correlation over layers, and a two-sided p: the share of the moved and turned layers that
correlate as much. Neighbouring layers resemble each other, in the trace by construction (its windows overlap), and do
so after a move. Hase et al. 2023 found that tracing says next to nothing about where to edit; here it is measured.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from circuits.find import find
from circuits.graph import Graph
from circuits.method import SHARE
from circuits.scorers.eap_ig import EAPIG
from circuits.task import Task, largest_group
from editing.layer_trials import LayerChoice, LayerEditors, try_layers
from editing.requests import known
from editing.solve.moments import Moments
from editing.solve.values import check_layer
from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.errors import UserError
from factscope.model.bridge import Bridge, info
from factscope.model.prompts import prompt_of
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs.provenance import Run, stopwatch
from factscope.runs.workers import ALONE, Workers, staying
from factscope.statistics import ENOUGH, likely_best, resampled_means, shares_of_best, spearman
from tracing.average import average
from tracing.causal import Config as TraceConfig
from tracing.sweep import Sweep

WAYS = ("trace", "circuit", "outcome")


@dataclass(frozen=True)
class Measure:
    """One number a layer, larger where this way of asking favours the layer."""

    way: str
    meaning: str
    unit: str
    values: tuple[float, ...]
    facts: int  # that it is an average over
    low: tuple[float, ...] = ()  # 95 %, where it is known
    high: tuple[float, ...] = ()
    likely: tuple[int, ...] = ()  # the layers that are favoured in 95 % of bootstraps over facts; () where not known


@dataclass(frozen=True)
class Agreement:
    """Spearman's correlation of two measures over layers; NaN where one of them is the same everywhere."""

    one: str
    other: str
    rho: float
    p: float
    layers: int


@shown("studies.pages.layers")
@dataclass(frozen=True, eq=False)
class LayerStudy(Result):
    """All measures and how they agree."""

    layers: tuple[int, ...]
    measures: tuple[Measure, ...]
    agreements: tuple[Agreement, ...]
    facts: tuple[str, ...]
    settings: dict[str, Any]
    outcome: LayerChoice | None
    run: Run

    def best(self, way: str) -> int | None:
        """The layer that this way favours; None where all are alike."""
        if way == "outcome" and self.outcome is not None:
            return self.outcome.best
        values = next(measure.values for measure in self.measures if measure.way == way)
        return None if np.nanmax(values) == np.nanmin(values) else self.layers[int(np.nanargmax(values))]


@dataclass(frozen=True)
class LayerConfig:
    """How layers are compared."""

    method: str | LayerEditors = "rome"  # of the edits that are tried at every layer
    trace: TraceConfig | None = None  # its sites are the MLPs, whatever it says; None: the defaults with `seed`
    start: str = "auto"
    seed: int = 0
    workers: Workers = ALONE  # who traces and edits; the numbers do not depend on it


def complete_facts(
    model: Bridge, source: str, most: int, start: str = "auto", extra: str = "refuse"
) -> tuple[Fact, ...]:
    """Known facts, `most` at most, with all that a mark needs; UserError where the model knows none of them."""
    whole = [
        fact
        for fact in load_facts(source, on_bad="skip", extra=extra)
        if fact.foil and fact.paraphrases and fact.neighbours
    ]
    found = known(model, whole, most, start)
    if not found:
        raise UserError(
            f"{info(model).name} knows none of the facts in {source} that have a foil, a paraphrase and a neighbour"
        )
    return found


def layer_study(
    model: Bridge,
    facts: Sequence[Fact],
    layers: Sequence[int],
    ways: Sequence[str],
    config: LayerConfig = LayerConfig(),
    *,
    folder: str | Path,
    moments: Moments | None = None,
    shown: bool | None = None,
) -> LayerStudy:
    """Measure every layer in every way of `ways`, on the same facts; a stopped trace goes on from `folder`.

    `complete_facts` finds the facts; where edits are tried, each needs a foil, a paraphrase and a neighbour.

    Raises UserError for a way that there is not, and what tracing, circuits and editing raise.
    """
    if not ways or not set(ways) <= set(WAYS):
        raise UserError(f"layers are compared by {', '.join(WAYS)}, not by {', '.join(ways) or 'nothing'}")
    for layer in layers:
        check_layer(model, layer)
    if len(layers) < 2:
        raise UserError(f"a choice needs at least two layers, and there is {len(layers)}")
    method, start, seed = config.method, config.start, config.seed
    tracing = replace(config.trace or TraceConfig(seed=seed), sites=("mlp",))
    run, measures, outcome = Run.of(model, seed), [], None
    with stopwatch() as seconds, staying(config.workers):
        for way in dict.fromkeys(ways):
            if way == "trace":
                sweep = Sweep(start=start, source="layer choice", workers=config.workers)
                measures.append(_traced(model, facts, layers, tracing, sweep, Path(folder) / "trace.jsonl", shown))
            elif way == "circuit":
                measures.append(_in_circuit(model, facts, layers, start, seed, shown))
            else:
                outcome = try_layers(
                    model,
                    facts,
                    layers,
                    method=method,
                    moments=moments,
                    start=start,
                    seed=seed,
                    shown=shown,
                    workers=config.workers,
                )
                marks = tuple(trial.mark for trial in outcome.trials)
                meaning = f"mark of editing by {outcome.method} at the layer"
                measures.append(Measure(way, meaning, "", marks, len(facts), likely=outcome.likely()))
    pairs = [(one, other) for place, one in enumerate(measures) for other in measures[place + 1 :]]
    agreements = tuple(
        Agreement(one.way, other.way, *spearman(one.values, other.values), len(layers)) for one, other in pairs
    )
    editors = method.editors if isinstance(method, LayerEditors) else ()
    settings: dict[str, Any] = {"method": method.method.name if isinstance(method, LayerEditors) else method}
    settings |= {"moments": moments.name if moments else "identity", "start": start, "seed": seed}
    settings |= {"editors": ", ".join(editor.name for editor in editors)} if editors else {}
    settings |= {f"trace {name}": value for name, value in asdict(tracing).items()}
    ids = tuple(fact.id for fact in facts)
    return LayerStudy(tuple(layers), tuple(measures), agreements, ids, settings, outcome, run.ended(seconds[0]))


def _traced(
    model: Bridge,
    facts: Sequence[Fact],
    layers: Sequence[int],
    config: TraceConfig,
    sweep: Sweep,
    journal: Path,
    shown: Any,
) -> Measure:
    found = average(model, facts, config, sweep, journal=journal, shown=shown)
    role = found.roles.index("last subject")
    picked = [tuple(float(grid[0, layer, role]) for layer in layers) for grid in (found.mean, found.low, found.high)]
    meaning = f"average indirect effect of {config.window} MLPs around the layer, at the subject's last token"
    likely: tuple[int, ...] = ()
    if len(set(found.subjects)) >= ENOUGH:
        values = found.per_fact[:, 0, list(layers), role].double().numpy()
        places = likely_best(shares_of_best(resampled_means(values, groups=found.subjects)))
        likely = tuple(layers[place] for place in places)
    return Measure("trace", meaning, found.unit, picked[0], len(found.facts), picked[1], picked[2], likely)


def _in_circuit(
    model: Bridge, facts: Sequence[Fact], layers: Sequence[int], start: str, seed: int, shown: bool | None
) -> Measure:
    """EAP-IG of all facts of the commonest length; 5 % of the edges are kept.

    Edges are cut to zero, for the facts of a study need not have twins of equal length.
    """
    prompts = largest_group([prompt_of(model, fact, start=start) for fact in facts])
    edges = max(1, round(SHARE * Graph.of(model).n_edges))
    circuit = find(model, Task(prompts, ablation="zero"), EAPIG(edges=edges), seed=seed, shown=shown)
    kept = circuit.scores.abs().double() * circuit.kept
    total = float(kept.sum())
    writers = circuit.graph.writers
    shares = tuple(float(kept[writers.index(f"m{layer}")].sum()) / total for layer in layers)
    return Measure("circuit", "share of the circuit's scores that leaves the layer's MLP", "", shares, len(prompts))
