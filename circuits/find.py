"""Find a circuit: `find(model, task, ACDC(threshold=0.05))`, or with a scorer, `find(model, task, EAPIG(edges=300))`.

The method says which edges are kept. Here the circuit it chose is measured beside the full model and the empty one.
"""

from typing import Any

import torch

from circuits.ablations import settled
from circuits.circuit import Circuit, EmptyCircuit
from circuits.decisions import Decision, journal_key, key_differences
from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.method import EdgeChoice, Method
from circuits.search.acdc import ACDC
from circuits.task import Task
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.model.weights import fingerprint
from factscope.progress import stage
from factscope.runs.provenance import Run, stopwatch


def decisions_of(
    circuit: Circuit, model: Bridge, task: Task, *, split: bool = True, positions: bool = False
) -> tuple[Decision, ...]:
    """The decisions of an earlier search, for `ACDC(earlier=...)` with another threshold.

    Raises UserError unless it was ACDC on the same model, graph and task, and names what differs.
    """
    if circuit.method != "acdc" or circuit.run is None:
        raise UserError(f"the other circuit was made by {circuit.method}, and only ACDC's decisions can be taken over")
    task, _ = settled(task, ACDC.prefers)
    graph = Graph.of(model, split=split, positions=positions)
    before = journal_key(circuit.task, circuit.graph, 0.0, circuit.run.fingerprint)
    different = key_differences(before, journal_key(task, graph, 0.0, fingerprint(model)))
    if different:
        raise UserError(
            f"the other search's decisions cannot be taken over, for it had another {', '.join(different)}: only the "
            "threshold may differ"
        )
    return circuit.decisions()


def find(
    model: Bridge,
    task: Task,
    method: Method = ACDC(),
    *,
    split: bool = True,
    positions: bool = False,
    seed: int = 0,
    shown: bool | None = False,
    **how: Any,
) -> Circuit:
    """Find the circuit of `task` in `model`.

    Args:
        method: ACDC, EAP, EAPIG or Exact, with its settings; `circuits.method.method("eap-ig", ...)` makes one by name.
        split: one reader for each query, key and value; else one for each head.
        positions: position embeddings are a writer of their own.
        how: `journal`, a file where long work (ACDC, Exact) records its pieces, and goes on from; and `workers`, who
            share it (`factscope.runs.workers.Workers`).

    Raises EmptyCircuit if nothing or everything is left, and the errors of the task, the graph and the engines.
    """
    task, notes = settled(task, method.prefers)
    run = Run.of(model, seed)
    graph = Graph.of(model, split=split, positions=positions)
    with stopwatch() as elapsed:
        reference = Reference(model, graph, task)
        with stage("scoring and choosing edges", shown):
            choice = method.choose(reference, seed=seed, shown=shown, **how)
        _check_size(graph, choice)
        logits = reference.logits(choice.kept)
        full, empty = (reference.loss(each) for each in (graph.full(), graph.empty()))
        chosen = float(reference.objective.losses(logits[None])[0])
    notes += choice.notes
    if full >= empty:
        notes += (
            f"the full model does no better here than with every edge cut (loss {full:.3g} and {empty:.3g}), so "
            "faithfulness says nothing",
        )
    return Circuit(
        graph=graph,
        task=task,
        method=method.name,
        convention=method.convention,
        settings=choice.settings,
        kept=torch.from_numpy(choice.kept.copy()),
        scores=choice.scores,
        tested=choice.tested,
        unit=reference.objective.metric.unit,
        loss_full=full,
        loss_circuit=chosen,
        loss_empty=empty,
        rank_full=reference.objective.ranks(reference.objective.clean),
        rank_circuit=reference.objective.ranks(logits),
        certificate=choice.certificate,
        notes=notes,
        run=run.ended(elapsed[0]),
        examples=choice.examples,
        stability=choice.stability,
    )


def _check_size(graph: Graph, choice: EdgeChoice) -> None:
    """EmptyCircuit if nothing or everything is left, with how much edges are worth."""
    if (choice.kept & graph.allowed).any() and not (choice.kept == graph.full()).all():
        return
    what = "nothing" if not choice.kept.any() else "every edge"
    sizes = choice.scores.abs()
    median = float(sizes[choice.tested].median()) if choice.tested.any() else 0.0
    raise EmptyCircuit(
        f"{what} is left of {graph}: choose another threshold (it is {choice.settings.get('threshold')}, and edges are "
        f"worth {median:.2g} in the median, {float(sizes.max()):.2g} at most)"
    )
