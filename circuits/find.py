"""Find a circuit: a search that decides edge by edge, or scores of which the best edges are taken."""

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuits import scorers, select
from circuits.ablations import ablation_names
from circuits.circuit import Circuit, EmptyCircuit
from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.search import acdc as acdc_search
from circuits.search.certificate import Certificate
from circuits.search.certificate import certify as certified
from circuits.search.decisions import Decision, journal_key, key_differences
from circuits.task import ALIASES, Task
from factscope.errors import UserError
from factscope.model.metrics import metric_names
from factscope.model.weights import fingerprint
from factscope.runs.journal import Journal
from factscope.runs.provenance import Run, stopwatch

SELECTIONS = ("greedy", "top", "threshold")
INCREMENT = "measured rise of the loss when the edge was cut from the circuit so far; positive: the edge helps"


def decisions_of(
    circuit: Circuit, model: Any, task: Task, *, split: bool = True, positions: bool = False
) -> tuple[Decision, ...]:
    """The decisions of an earlier search, for `find` with another threshold.

    Raises UserError unless it was ACDC on the same model, graph and task, and names what differs.
    """
    if circuit.method != "acdc" or circuit.run is None:
        raise UserError(f"the other circuit was made by {circuit.method}, and only ACDC's decisions can be taken over")
    graph = Graph.of(model, split=split, positions=positions)
    before = journal_key(circuit.task, circuit.graph, 0.0, circuit.run.fingerprint)
    different = key_differences(before, journal_key(task, graph, 0.0, fingerprint(model)))
    if different:
        raise UserError(
            f"the other search's decisions cannot be taken over, for it had another {', '.join(different)}: only the "
            "threshold may differ"
        )
    return circuit.decisions()


def methods() -> tuple[str, ...]:
    """All methods: the search, and every scorer in its folder."""
    found = sorted(module.name for module in pkgutil.iter_modules(scorers.__path__) if module.name != "gradients")
    return ("acdc", *found)


def check_settings(
    method: str,
    ablation: str,
    metric: str,
    threshold: float | None = None,
    edges: int | None = None,
    selection: str = "greedy",
    engine: str = "fast",
) -> None:
    """UserError for what no model could make right; asks for none, so it can come before one is loaded."""
    for kind, name, names in (
        ("circuit method", method, methods()),
        ("selection", selection, SELECTIONS),
        ("ablation", ablation, ablation_names()),
        ("metric", ALIASES.get(metric, metric), metric_names()),
    ):
        if name not in names:
            raise UserError(f"there is no {kind} {name!r}; choose one of {', '.join(names)}")
    acdc_search.Config(acdc_search.Config.threshold if threshold is None else threshold, engine)
    if method == "acdc":
        return
    if threshold is not None and edges is not None:
        raise UserError("give a threshold or a number of edges, not both")
    if selection == "threshold" and threshold is None:
        raise UserError("the selection 'threshold' needs one: give --threshold")


def find(
    model: Any,
    task: Task,
    *,
    method: str = "acdc",
    threshold: float | None = None,
    edges: int | None = None,
    selection: str = "greedy",
    signed: bool = False,
    split: bool = True,
    positions: bool = False,
    engine: str = "fast",
    certify: float = 0.0,
    settings: dict[str, Any] | None = None,
    journal: str | Path | None = None,
    earlier: Sequence[Decision] = (),
    seed: int = 0,
    shown: bool | None = False,
) -> Circuit:
    """Find the circuit of `task` in `model`.

    Args:
        method: acdc, which searches with `threshold`, or a scorer (eap, eap_ig, exact), from whose scores `edges` edges
            are selected (`greedy` from the logits, `top`), or all from `threshold` on.
        signed: compare scores as they are, so that only edges that help are chosen; else by size.
        split: one reader for each query, key and value; else one for each head.
        positions: position embeddings are a writer of their own.
        certify: the share of ACDC's decisions that the plain engine measures again.
        settings: of the scorer's Config, by name.
        journal: where decisions are recorded, and taken up from.
        earlier: decisions of an ACDC search with another threshold.

    Raises EmptyCircuit if nothing or everything is left, and the errors of the task, the graph and the engines.
    """
    check_settings(method, task.ablation, task.metric, threshold, edges, selection, engine)
    run = Run.of(model, seed)
    graph = Graph.of(model, split=split, positions=positions)
    certificate: Certificate | None = None
    notes: list[str] = []
    with stopwatch() as elapsed:
        reference = Reference(model, graph, task)
        if method == "acdc":
            default = acdc_search.Config.threshold
            config = acdc_search.Config(default if threshold is None else threshold, engine)
            chosen: dict[str, Any] = {"threshold": config.threshold, "engine": engine}
            found = _searched(reference, config, journal, earlier, shown, fingerprint(model))
            mask, convention = found.kept, INCREMENT
            scores = torch.zeros(mask.shape, dtype=torch.float64)
            tested = torch.zeros(mask.shape, dtype=torch.bool)
            for decision in found.decisions:
                scores[decision.writer, decision.reader] = decision.increment
                tested[decision.writer, decision.reader] = True
            chosen |= {
                "tested": len(found.decisions),
                "cut without a test": found.n_dead,
                "decided by the plain engine": sum(decision.tie for decision in found.decisions),
                "order": "readers from the logits down, writers from the nearest down",
            }
            if certify:
                certificate = certified(reference, found.decisions, config.threshold, certify, seed)
        else:
            module = importlib.import_module(f"circuits.scorers.{method}")
            scorer = module.Config(**(settings or {}))
            scores, convention = module.score(reference, scorer), module.CONVENTION
            tested = torch.from_numpy(graph.full())
            mask, how = _selected(graph, scores, threshold, edges, selection, signed)
            chosen = vars(scorer) | how
        full, empty = graph.full(), graph.empty()
        if not (mask & graph.allowed).any() or (mask == full).all():
            what = "nothing" if not mask.any() else "every edge"
            raise EmptyCircuit(
                f"{what} is left of {graph}: choose another threshold (it is {chosen.get('threshold')}, and edges are "
                f"worth {float(scores[tested].abs().median()) if tested.any() else 0:.2g} in the median, "
                f"{float(scores.abs().max()):.2g} at most)"
            )
        logits = reference.logits(mask)
        losses = [reference.loss(each) for each in (full, mask, empty)]
        if losses[0] >= losses[2]:
            notes.append(
                f"the full model does no better here than with every edge cut (loss {losses[0]:.3g} and "
                f"{losses[2]:.3g}), so faithfulness says nothing"
            )
    return Circuit(
        graph=graph,
        task=task,
        method=method,
        convention=convention,
        settings=chosen | {"selection": "search" if method == "acdc" else selection},
        kept=torch.from_numpy(mask.copy()),
        scores=scores,
        tested=tested,
        unit=reference.objective.metric.unit,
        loss_full=losses[0],
        loss_circuit=losses[1],
        loss_empty=losses[2],
        rank_full=reference.objective.ranks(reference.objective.clean),
        rank_circuit=reference.objective.ranks(logits),
        certificate=certificate,
        notes=tuple(notes),
        run=run.ended(elapsed[0]),
    )


def _searched(
    reference: Reference,
    config: acdc_search.Config,
    journal: str | Path | None,
    earlier: Sequence[Decision],
    shown: bool | None,
    model: str,
) -> acdc_search.SearchResult:
    if journal is None:
        return acdc_search.acdc(reference, config, None, earlier, shown)
    with Journal(journal, journal_key(reference.task, reference.graph, config.threshold, model)) as record:
        return acdc_search.acdc(reference, config, record, earlier, shown)


def _selected(
    graph: Graph, scores: Tensor, threshold: float | None, edges: int | None, selection: str, signed: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """The edges that the scores choose, pruned to what is connected, and how they were chosen."""
    if threshold is not None:
        mask, how = select.above(graph, scores, threshold, signed), {"threshold": threshold}
    else:
        count = edges if edges is not None else max(1, round(0.05 * graph.n_edges))
        chooser = select.top if selection == "top" else select.greedy
        mask, how = chooser(graph, scores, count, signed), {"edges": count}
    pruned = graph.pruned(mask)
    compared = "as they are" if signed else "by size"
    return pruned, how | {"compared": compared, "selected": int(mask.sum()), "after pruning": int(pruned.sum())}
