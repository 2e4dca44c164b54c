"""A circuit with its evaluation and roles, saved together: the run folder of `circuit find`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from circuits.analysis.diff import CircuitDiff, diff
from circuits.analysis.faithfulness import Evaluation, evaluate
from circuits.analysis.head_roles import Roles, roles
from circuits.analysis.scorer_errors import ScorerErrors, errors_of
from circuits.circuit import Circuit
from circuits.engine.reference import Reference
from circuits.engine.state import State
from circuits.find import decisions_of, find
from circuits.graph import Graph
from circuits.method import Method
from circuits.scorers.eap import Attribution
from circuits.search.acdc import ACDC
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.model.known import Known
from factscope.model.prompts import Prompt
from factscope.plots.show import shown
from factscope.progress import stage
from factscope.results.result import Result
from studies.circuit_inputs import DEFAULT, CircuitInputs

ESTIMATED = 50  # edges on which the scores of a circuit are compared with exact cuts, for its first two prompts
QUICK = {"closely": 2, "n_random": 3}  # of an evaluation: prompts for what takes many runs, and random circuits


@shown("studies.pages.circuit")
@dataclass(frozen=True, eq=False)
class CircuitStudy(Result):
    """Everything that one page shows."""

    circuit: Circuit
    evaluation: Evaluation | None = None
    roles: Roles | None = None
    answers: tuple[str, ...] = ()  # the relation's possible ones, for the roles
    known: Known | None = None  # which facts were taken for known; None: it was not asked
    errors: ScorerErrors | None = None  # of a scorer's scores, beside exact cuts


def circuit_study(
    model: Bridge,
    inputs: CircuitInputs,
    method: Method = DEFAULT,
    *,
    evaluate: bool = True,
    like: Circuit | None = None,
    seed: int = 0,
    told: Callable[[CircuitStudy], object] = lambda _: None,
    **how: Any,
) -> CircuitStudy:
    """Find the circuit, test it on what is held out, and name the roles of its heads, unless `evaluate` says no.

    Other keyword arguments are those of `circuits.find.find`.

    Args:
        like: an ACDC circuit found with another threshold, whose first decisions are taken over.
        told: given the study as soon as the circuit is found, to save it before anything is evaluated.
    """
    if like is not None:
        if not isinstance(method, ACDC):
            raise UserError(f"only ACDC takes over the decisions of another search; {method.name} makes none")
        graph = {name: how[name] for name in ("split", "positions") if name in how}
        method = replace(method, earlier=decisions_of(like, model, inputs.task, **graph))
    if evaluate:  # a model that cannot be evaluated is refused now, and not after the search
        whole = Graph.of(model, split=how.get("split", True), positions=how.get("positions", False))
        State(Reference(model, whole, inputs.task))
    circuit = find(model, inputs.task, method, seed=seed, **how)
    study = CircuitStudy(with_notes(circuit, inputs), answers=inputs.answers, known=inputs.known)
    told(study)
    if not evaluate:
        return study
    if isinstance(method, Attribution):
        with stage("cutting some edges exactly"):
            study = replace(study, errors=errors_of(model, circuit, ESTIMATED, seed=seed))
    return evaluated(model, study, inputs.held_out, seed, quick=True)


def with_notes(circuit: Circuit, inputs: CircuitInputs) -> Circuit:
    """The circuit with what was guessed, left out or put in another's place for it."""
    return replace(circuit, notes=(*inputs.notes, *circuit.notes))


@stage("evaluating the circuit and its heads")
def evaluated(
    model: Bridge, study: CircuitStudy, held_out: Sequence[Prompt], seed: int = 0, quick: bool = False
) -> CircuitStudy:
    """The study with its circuit's card and its heads' roles; a quick card looks closely at the first prompts alone."""
    how: dict[str, Any] = QUICK if quick else {}
    card = evaluate(model, study.circuit, held_out, seed=seed, **how)
    return replace(study, evaluation=card, roles=roles(model, study.circuit, study.answers, seed=seed))


def compared(
    before: CircuitStudy, after: CircuitStudy, names: tuple[str, str] = ("before", "after"), seed: int = 0
) -> CircuitDiff:
    """Two circuits beside each other, with the roles of their heads where both were evaluated."""
    roles_of = (before.roles.counts, after.roles.counts) if before.roles and after.roles else None
    return replace(diff(before.circuit, after.circuit, seed=seed), names=names, roles=roles_of)
