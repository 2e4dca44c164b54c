"""How wrong is a scorer on this model? Its scores beside exact single cuts of the same edges, drawn at random.

EAP and its kin estimate what a cut costs; the cut can be made, and measured, one edge at a time. A few hundred edges,
drawn uniformly, say how the estimate does on the model and the fact at hand: whether it puts edges in the right order
(Spearman's rank correlation), how far it is off (mean absolute error, beside the mean size of an exact cut), whether
it has the sign right, and how many of the edges that matter most are among those that it takes for most important.
Each number has a bootstrap's standard error over the drawn edges.

Two truths are not the same. An exact cut is of one edge alone, from the full graph; edges that stand in for each other
look dispensable there, and a circuit needs one of them. So a scorer may agree with single cuts and choose poor
circuits, and the reverse; what a circuit does is measured by its evaluation.

Convention: as the scores, in the loss's unit; positive: the edge helps. `edges` counts those that were drawn.
Scope: the graph's own edges, all prompts of the task together.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ablations import settled
from circuits.circuit import Circuit
from circuits.engine.incremental import Fast
from circuits.engine.mirror import Direction, seen_from
from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.method import Scorer
from circuits.scorers.exact import single_cuts
from circuits.task import Task
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs.provenance import Run, stopwatch
from factscope.statistics import ranks

EDGES = 400  # drawn: the standard error of a rank correlation is then about 0.03
TOP = 0.1  # share of the drawn edges that count as those that matter most
RESAMPLES = 200


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error over the drawn edges."""

    value: float
    error: float


@dataclass(frozen=True)
class Agreement:
    """How one scorer's scores agree with exact cuts."""

    scorer: str
    rank_correlation: Estimate  # Spearman's, signed scores
    by_size: Estimate  # Spearman's, of the sizes: what a choice by size rests on
    mean_error: Estimate  # |score - exact cut|, in the loss's unit
    top_found: Estimate  # of the edges that matter most, the share among the scorer's largest
    sign: float  # share of the edges that matter most whose sign is right
    seconds: float  # that the scorer took for all edges; NaN where it was not timed


@shown("circuits.pages.scorer_errors")
@dataclass(frozen=True, eq=False)
class ScorerErrors(Result):
    """Scorers beside exact single cuts, on edges drawn at random."""

    graph: Graph
    task: Task
    direction: str
    edges: tuple[str, ...]
    exact: Float[Tensor, " edge"]
    scores: Float[Tensor, "scorer edge"]
    agreements: tuple[Agreement, ...]
    unit: str
    seconds: float  # that the exact cuts took
    run: Run | None


def scorer_errors(
    model: Bridge,
    task: Task,
    scorers: Mapping[str, Scorer],
    *,
    edges: int | None = EDGES,
    direction: Direction = "noising",
    split: bool = True,
    seed: int = 0,
    shown: bool | None = False,
) -> ScorerErrors:
    """Score all edges with each scorer, cut some of them, and compare.

    Args:
        scorers: by the name that the result calls them.
        edges: how many are drawn; None for all there are.
        direction: of the exact effects; each scorer keeps its own.
    """
    if not scorers:
        raise UserError("there is no scorer to compare; name one or more")
    task, _ = settled(task, "counterfactual")
    graph, run = Graph.of(model, split=split), Run.of(model, seed)
    drawn = draw(graph, edges, seed)
    with stopwatch() as seconds:
        reference = Reference(model, graph, task)
        found, took = [], []
        for scorer in scorers.values():
            begun = time.perf_counter()
            found.append(scorer.score(reference))
            took.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        exact = _cut(reference, drawn, direction, shown)
        cutting = time.perf_counter() - begun
    picked = torch.stack([scores[tuple(drawn.T)] for scores in found])
    return ScorerErrors(
        graph=graph,
        task=task,
        direction=direction,
        edges=tuple(graph.edge_name(writer, reader) for writer, reader in drawn.tolist()),
        exact=exact.float(),
        scores=picked.float(),
        agreements=_agreements(tuple(scorers), picked, exact, took, seed),
        unit=reference.objective.metric.unit,
        seconds=cutting,
        run=run.ended(seconds[0]),
    )


def errors_of(model: Bridge, circuit: Circuit, edges: int, prompts: int = 2, seed: int = 0) -> ScorerErrors:
    """The same for the scores that a circuit was chosen by, on the first `prompts` that it was found for.

    UserError for a circuit that does not hold each prompt's own scores.
    """
    if circuit.examples is None:
        raise UserError(f"a circuit by {circuit.method} holds no scores of single prompts to compare with cuts")
    direction: Direction = "denoising" if circuit.settings.get("direction") == "denoising" else "noising"
    whole, drawn, run = circuit.task, draw(circuit.graph, edges, seed), Run.of(model, seed)
    task = replace(whole, prompts=whole.prompts[:prompts], corrupt=whole.corrupt[:prompts])
    with stopwatch() as seconds:
        exact = _cut(Reference(model, circuit.graph, task), drawn, direction, False)
    picked = circuit.examples[:prompts].double().mean(0)[tuple(drawn.T)][None]
    return ScorerErrors(
        graph=circuit.graph,
        task=task,
        direction=direction,
        edges=tuple(circuit.graph.edge_name(writer, reader) for writer, reader in drawn.tolist()),
        exact=exact.float(),
        scores=picked.float(),
        agreements=_agreements((circuit.method,), picked, exact, [float("nan")], seed),
        unit=circuit.unit,
        seconds=seconds[0],
        run=run.ended(seconds[0]),
    )


def draw(graph: Graph, edges: int | None, seed: int) -> np.ndarray:
    """Writers and readers [edge, 2] of so many edges, drawn uniformly without replacement; all of them for None."""
    every = np.argwhere(graph.allowed)
    if edges is None or edges >= len(every):
        return every
    if edges < 10:
        raise UserError(f"{edges} edges are too few to compare an order by; give 10 or more")
    chosen: np.ndarray = every[np.sort(np.random.default_rng(seed).choice(len(every), edges, replace=False))]
    return chosen


def _cut(reference: Reference, drawn: np.ndarray, direction: Direction, shown: bool | None) -> Float[Tensor, " edge"]:
    """What each drawn edge really does."""
    start, sign = seen_from(reference, direction)
    tested = reference.graph.empty()
    tested[tuple(drawn.T)] = True
    return sign * single_cuts(Fast(start), reference.graph.full(), tested, shown=shown)[tuple(drawn.T)]


def _agreements(
    names: Sequence[str], scores: Float[Tensor, "scorer edge"], exact: Tensor, took: Sequence[float], seed: int
) -> tuple[Agreement, ...]:
    measured = exact.double().numpy()
    n = len(measured)
    samples = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    top = max(1, round(TOP * n))
    largest = np.argsort(-np.abs(measured), kind="stable")[:top]

    def estimate(function: Callable[[np.ndarray, np.ndarray], float], score: np.ndarray) -> Estimate:
        drawn = [function(score[sample], measured[sample]) for sample in samples]
        return Estimate(float(function(score, measured)), float(np.nanstd(drawn)))

    found = []
    for name, row, seconds in zip(names, scores.double().numpy(), took, strict=True):
        found.append(
            Agreement(
                scorer=name,
                rank_correlation=estimate(correlation, row),
                by_size=estimate(lambda a, b: correlation(np.abs(a), np.abs(b)), row),
                mean_error=estimate(lambda a, b: float(np.abs(a - b).mean()), row),
                top_found=estimate(lambda a, b: overlap(a, b, top), row),
                sign=float((np.sign(row[largest]) == np.sign(measured[largest])).mean()),
                seconds=seconds,
            )
        )
    return tuple(found)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; NaN where one of the two is constant."""
    first, second = (ranks(values) for values in (one, other))
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float(first @ second / scale) if scale > 0 else float("nan")


def overlap(one: np.ndarray, other: np.ndarray, top: int) -> float:
    """Of the `top` largest of the one, by size, the share among those of the other."""
    first, second = (set(np.argsort(-np.abs(values), kind="stable")[:top].tolist()) for values in (one, other))
    return len(first & second) / top
