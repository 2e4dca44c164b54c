"""Find a circuit by roles and test it: what a scorer keeps of edges at token roles, over facts of any length.

It is measured as the plain circuit is (`circuits/analysis/faithfulness.py`), and against two that know no roles: the
same edges at every role, which shows what the roles leave out without harm, and random ones of the same degrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.analysis.faithfulness import Hits, RandomBaseline, hits, known_and_all, merged
from circuits.by_role.engine import Lengths, RoleReference
from circuits.by_role.graph import RoleGraph
from circuits.circuit import EmptyCircuit, faithfulness
from circuits.graph import Graph
from circuits.method import Method, Scorer
from circuits.scorers.eap import Attribution
from circuits.scorers.eap_ig import EAPIG
from circuits.stability import Stability
from circuits.task import Task
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.model.known import Known
from factscope.model.prompts import Prompt
from factscope.plots.show import shown
from factscope.progress import stage
from factscope.results.result import Result
from factscope.runs.provenance import Run, stopwatch

KNOWN = Known.top(10)  # as Hit@10
RANDOM = 3  # circuits of the same degrees


@dataclass(frozen=True, eq=False)
class RoleEvaluation:
    """How a circuit by roles does on its own prompts and on others."""

    found: Hits
    held_out: Hits | None  # prompts whose answers the model knows
    held_out_all: Hits | None  # with those that it does not know
    random_degree: RandomBaseline  # faithfulness of circuits in which each input hears as many writers, drawn at random
    everywhere_edges: int  # the same edges, kept at every role
    everywhere_faithfulness: float


@shown("circuits.pages.by_role")
@dataclass(frozen=True, eq=False)
class RoleCircuit(Result):
    """The result of a search over edges at token roles."""

    graph: RoleGraph
    asked: str  # the first prompt that the circuit was asked for
    prompts: tuple[Prompt, ...]  # by length, the shortest first
    metric: str
    ablation: str
    method: str
    convention: str  # what a score means, and its sign
    settings: dict[str, Any]
    kept: Bool[Tensor, "writer reader place"]  # places are the graph's: roles, or pairs of them
    scores: Float[Tensor, "writer reader place"]  # mean over the prompts, in the loss's unit
    unit: str
    loss_full: float  # smaller is better; of the full model, the circuit, and with every edge cut
    loss_circuit: float
    loss_empty: float
    rank_full: tuple[int, ...]  # of each prompt's answer, 1 for the most probable
    rank_circuit: tuple[int, ...]
    notes: tuple[str, ...]
    run: Run | None
    stability: Stability | None = None
    evaluation: RoleEvaluation | None = None

    @property
    def mask(self) -> np.ndarray:
        """The kept edges as the graph wants them; a copy."""
        return np.array(self.kept.numpy(), dtype=bool)

    @property
    def n_edges(self) -> int:
        """Kept edges."""
        return int(self.kept.sum())

    @property
    def faithfulness(self) -> float:
        """How much of the way from nothing to the full model the circuit goes: 1 is all of it."""
        return faithfulness(self.loss_circuit, self.loss_full, self.loss_empty)


@stage("finding and evaluating a circuit by token roles")
def find_by_role(
    model: Bridge,
    inputs: Lengths,
    method: Method = EAPIG(),
    *,
    held_out: Sequence[Prompt] = (),
    evaluate: bool = True,
    split: bool = True,
    pairs: bool = False,
    seed: int = 0,
) -> RoleCircuit:
    """Find the circuit of prompts of any length, of one wording, with edges at token roles.

    Args:
        inputs: the prompts, and what cut edges carry.
        method: EAP, EAP-IG or another scorer by gradients; it decides how many edges are kept, as in `circuits.find`.
        held_out: prompts that the circuit is tested on, of any length.
        evaluate: whether it is tested.
        split: one reader for each query, key and value; else one for each head.
        pairs: an edge into a key or value for each role that attends to it, too (Haklay et al. 2025). A circuit is then
            run once for each way of attending, up to once for each role.
        seed: of the bootstrap, and of the random circuits that it is tested beside.

    Raises UserError for a method that scores no edge by a gradient, EmptyCircuit if nothing is left, and the errors of
    tasks, graphs and engines.
    """
    scorer, run, tasks = scorer_by_gradient(method), Run.of(model, seed), inputs.tasks()
    graph = RoleGraph.of(Graph.of(model, split=split), [*inputs.prompts, *held_out], pairs=pairs)
    with stopwatch() as elapsed:
        reference = RoleReference(model, graph, tasks)
        examples = reference.example_scores(scorer)
        choice = scorer.decided(reference, examples.mean(0, dtype=torch.float64), examples, seed=seed)
        if not choice.kept.any():
            raise EmptyCircuit(f"nothing is left of {graph}: keep more edges, or choose a lower threshold")
        logits = reference.logits(choice.kept)
        found = RoleCircuit(
            graph=graph,
            asked=inputs.prompts[0].text,
            prompts=reference.prompts,
            metric=tasks[0].metric,
            ablation=tasks[0].ablation,
            method=scorer.name,
            convention=scorer.convention,
            settings=choice.settings,
            kept=torch.from_numpy(choice.kept.copy()),
            scores=choice.scores.float(),
            unit=reference.engines[0].objective.metric.unit,
            loss_full=reference.loss(graph.full()),
            loss_circuit=reference.loss_of(logits),
            loss_empty=reference.loss(graph.empty()),
            rank_full=reference.clean_ranks(),
            rank_circuit=reference.ranks_of(logits),
            notes=choice.notes,
            run=None,
            stability=choice.stability,
        )
        if evaluate:
            found = _evaluated(found, reference, held_out, seed)
    return replace(found, run=run.ended(elapsed[0]))


def scorer_by_gradient(method: Method) -> Attribution:
    """The method, if it scores edges by a gradient, whose positions can be told apart; UserError if it does not."""
    if isinstance(method, Attribution) and type(method).gradient is not Attribution.gradient:
        if method.direction != "noising":
            raise UserError(
                f"a circuit by roles is scored from the clean run, and {method.direction} starts from a corrupt one: "
                "leave out --set direction"
            )
        return method
    if isinstance(method, Attribution):
        raise UserError(
            f"{method.name.replace('_', '-')} makes each score of several gradients, and a circuit by roles needs one: "
            "choose eap, eap-ig or relp"
        )
    what = "scores no edge by a gradient" if isinstance(method, Scorer) else "makes no scores"
    raise UserError(
        f"{method.name.replace('_', '-')} {what}, and a circuit by roles needs them: choose eap, eap-ig or relp"
    )


def _evaluated(circuit: RoleCircuit, reference: RoleReference, held_out: Sequence[Prompt], seed: int) -> RoleCircuit:
    """The circuit with its test; a note for held-out prompts that could not be asked."""
    graph, kept, generator = circuit.graph, circuit.mask, np.random.default_rng(seed)
    random = [random_degrees(graph, kept, generator) for _ in range(RANDOM)]
    everywhere = graph.everywhere(kept)

    def part(mask: np.ndarray) -> float:
        return faithfulness(reference.loss(mask), circuit.loss_full, circuit.loss_empty)

    notes: list[str] = []
    known, rest = known_and_all(reference.model, reference.tasks[0], held_out, KNOWN, notes)

    def engine(task: Task) -> RoleReference:
        return RoleReference(reference.model, graph, [task])

    held, others = (hits(engine, kept, tasks, random) if tasks else None for tasks in (known, rest))
    evaluation = RoleEvaluation(
        found=hits(engine, kept, reference.tasks, random),
        held_out=held,
        held_out_all=merged(held, others),
        random_degree=RandomBaseline.of([part(mask) for mask in random]),
        everywhere_edges=int(everywhere.sum()),
        everywhere_faithfulness=part(everywhere),
    )
    return replace(circuit, evaluation=evaluation, notes=(*circuit.notes, *notes))


def random_degrees(graph: RoleGraph, kept: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Every input hears as many writers as in `kept`, drawn at random."""
    drawn = graph.empty()
    for reader, place in np.argwhere(kept.any(0)).tolist():
        there = np.flatnonzero(graph.allowed[:, reader, place])
        drawn[generator.choice(there, int(kept[:, reader, place].sum()), replace=False), reader, place] = True
    return drawn
