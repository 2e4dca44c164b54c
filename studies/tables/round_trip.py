"""Edit a fact and edit it back; then contradict it: what is left of the first edit? (Li et al. 2024, arXiv 2310.02129)

    edited        old -> new, by one method
    edited back   new -> old by the same method, on top
    contradicted  instead, a second edit on top that cannot hold beside the first: another object of the same prompt,
                  or any request that was named (the reverse, or what follows from the fact)
    null          the change that is left after editing back, with the same norm and inputs, writing at random
    taken out     the first edit's exact undo

In each state everything is read again: both answers and the third one at the prompt, KL(unedited || now) of the next
token at the prompt, its paraphrases, its neighbours and unrelated facts, the fact read backwards and what follows from
it (factscope/data/questions/ripples.py), and the weights' distance from where they were, ||W - W before|| / ||W
before|| over all weights that the method changes (Frobenius). A knowledge graph comes back when a triple is put back;
the survey (2401.01286, Fig. 10) says that a model does not, and gives no number.

Convention: probabilities are geometric means over an answer's tokens; distances of no weight are not a number (None).
`distortion` is the Jensen-Shannon divergence, nats, between the shares of several true answers before and now (Li et
al.'s round edit): of relations with more than one true object, which must be named.
Scope: requests whose old answer is known. Every fact is edited alone on the unedited model, which comes back bitwise.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from editing.edit import Edit, commit, in_place, revert
from editing.evaluation.evaluate import questions
from editing.evaluation.protocol import ORDERS
from editing.evaluation.read import Asked, Reading, Row
from editing.merge.stack import merged
from editing.nulls import scrambled
from factscope.data.case import Case, Question, QuestionGroup
from factscope.data.fact import Fact, same_text
from factscope.data.questions.ripples import ECHO, ripples_of
from factscope.data.request import EditRequest
from factscope.errors import EditError, UserError
from factscope.model.bridge import Bridge
from factscope.model.weights import as_matrix, live_weights
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.results.result import Result
from factscope.runs.provenance import Run, stopwatch
from factscope.statistics import mean
from studies.edit import MethodRun

STATES = ("edited", "edited back", "contradicted", "null", "taken out")
PROTOCOL = replace(ORDERS["single"], words=0)
MEASURES = {  # what is read in each state: its unit
    "distance": "of the weights' norm",
    "P(old)": "probability",
    "P(new)": "probability",
    "P(third)": "probability",
    "old preferred": "share",
    "KL prompt": "nats",
    "KL paraphrases": "nats",
    "KL neighbours": "nats",
    "KL unrelated": "nats",
    "reverse": "share",
    "composite": "share",
    "composite, old": "share",
    "edited object for composite": "share",
    "distortion": "nats",
    "circuit": "1 - Jaccard",
}


@dataclass(frozen=True)
class StateRead:
    """One method in one state: each measure with a value for every fact, None where it does not apply."""

    method: str
    state: str  # of STATES, or "unedited"
    values: dict[str, tuple[float | None, ...]]

    def known(self, measure: str) -> list[float]:
        """One number for each fact that has it."""
        return [value for value in self.values.get(measure, ()) if value is not None]

    def mean(self, measure: str) -> float | None:
        """Over the facts that have it; None without any."""
        return mean(self.known(measure))


@shown("studies.pages.round_trip")
@dataclass(frozen=True, eq=False)
class RoundTrip(Result):
    """Every method in every state."""

    methods: tuple[str, ...]
    prompts: tuple[str, ...]
    old: tuple[str, ...]
    new: tuple[str, ...]
    second: tuple[str, ...]  # the request that contradicts, of each fact; empty without any
    read: tuple[StateRead, ...]
    unrelated: int  # facts
    model: str
    run: Run

    def state(self, method: str, state: str) -> StateRead:
        """What was read; KeyError for a state that was not."""
        return {(one.method, one.state): one for one in self.read}[method, state]


def round_trip(
    model: Bridge,
    asked: Sequence[EditRequest],
    runs: Sequence[MethodRun],
    *,
    second: Sequence[EditRequest | None] = (),
    others: Sequence[tuple[str, ...]] = (),
    unrelated: Sequence[Fact] = (),
    watch: Callable[[EditRequest], Callable[[], float]] | None = None,
    shown: bool | None = None,
) -> RoundTrip:
    """Edit every fact and back by every method. The model is left bitwise as it was.

    Args:
        second: for each fact the request that contradicts its edit, or None; by default none has.
        others: for each fact further true answers, for the distortion.
        unrelated: facts that no edit is about.
        watch: given a request, reads the unedited model and gives a function that says how unlike it is now.

    Raises UserError for a fact whose old answer is not known, and EditError as the methods do, before any is edited.
    """
    check_back(asked)
    if in_place(model):
        raise EditError("take the edits that are in place out first: a round trip begins on the model as it was")
    start, run = runs[0].start, Run.of(model, runs[0].seed)
    second = tuple(second) or (None,) * len(asked)
    others = tuple(others) or ((),) * len(asked)
    far = Asked.of(model, questions(model, map(Case.unrelated, unrelated), start), PROTOCOL, start)
    found: dict[tuple[str, str], list[dict[str, float | None]]] = {}
    with stopwatch() as seconds, progress("round trips", len(asked) * len(runs), shown=shown) as advance:
        for request, against, also in zip(asked, second, others, strict=True):
            case = asked_case(request, against, also)
            reader = Reader(Asked.of(model, questions(model, [case], start), PROTOCOL, start), far)
            unlike = watch(request) if watch is not None else None
            for each in runs:
                found.setdefault((each.spec.name, "unedited"), []).append(reader.values(model, None, None))
                for state, edits in _states(model, each, request, against):
                    commit(model, edits)
                    try:
                        now = reader.values(model, edits, unlike)
                    finally:
                        revert(model, edits)
                    found.setdefault((each.spec.name, state), []).append(now)
                advance(1)
    return RoundTrip(
        methods=tuple(each.spec.name for each in runs),
        prompts=tuple(one.prompt for one in asked),
        old=tuple(str(one.old) for one in asked),
        new=tuple(one.target for one in asked),
        second=tuple("" if one is None else str(one) for one in second),
        read=tuple(
            StateRead(method, state, {name: tuple(one[name] for one in values) for name in values[0]})
            for (method, state), values in found.items()
        ),
        unrelated=len(unrelated),
        model=run.model,
        run=run.ended(seconds[0]),
    )


def check_back(asked: Sequence[EditRequest]) -> None:
    """UserError for a fact that does not say what to go back to."""
    if not asked:
        raise UserError("there is no fact to edit and edit back")
    missing = next((one for one in asked if one.old is None), None)
    if missing is not None:
        raise UserError(
            f"{missing.prompt!r} does not say its old answer, so there is nothing to go back to: give it with --answer"
        )


def contradicting(asked: Sequence[EditRequest], target: str | None = None) -> tuple[EditRequest | None, ...]:
    """For each request one of the same prompt to a third object: `target`, or the next fact's that is neither."""
    out: list[EditRequest | None] = []
    for place, one in enumerate(asked):
        ring = [*asked[place + 1 :], *asked[:place]]
        names = [target] if target is not None else [each.target for each in ring if each.relation == one.relation]
        third = next((name for name in names if not same_text(name, (one.target, one.old or ""))), None)
        out.append(None if third is None else replace(_bare(one), target=third, old=one.target))
    return tuple(out)


def back(request: EditRequest) -> EditRequest:
    """The request that puts the old answer in the place of the new one."""
    assert request.old is not None  # `check_back` was asked
    return replace(_bare(request), target=request.old, old=request.target)


def _bare(request: EditRequest) -> EditRequest:
    """The same prompt without the fact, whose answers belong to the first edit."""
    return replace(request, fact=None, aliases=())


def _states(
    model: Bridge, run: MethodRun, request: EditRequest, against: EditRequest | None
) -> list[tuple[str, tuple[Edit, ...]]]:
    """The edits that stand in each state."""
    first = run.compute(model, [request], shown=False)
    commit(model, (first,))
    try:
        again = run.compute(model, [back(request)], shown=False)
        other = None if against is None else run.compute(model, [against], shown=False)
    finally:
        revert(model, (first,))
    out: list[tuple[str, tuple[Edit, ...]]] = [("edited", (first,)), ("edited back", (first, again))]
    if other is not None:
        out.append(("contradicted", (first, other)))
    if first.deltas:
        out.append(("null", (scrambled(replace(merged((first, again)), bypasses=()), run.seed, "values"),)))
    return [*out, ("taken out", ())]


def asked_case(request: EditRequest, against: EditRequest | None, others: Sequence[str] = ()) -> Case:
    """All that is asked of a fact: what an evaluation asks, the third answer, other true ones, and what follows."""
    more = list(ripples_of(request))
    if against is not None:
        more.append(_group("third", against.prompt, against.target))
    more += [_group("true", request.prompt, str(text)) for text in (*((request.old,) * bool(others)), *others)]
    return replace(Case.of(request), more=tuple(more))


def _group(label: str, prompt: str, answer: str) -> QuestionGroup:
    return QuestionGroup("ripple", label, (Question(prompt, ((answer,),)),))


@dataclass(frozen=True, eq=False)
class Reader:
    """What is asked of one fact and of unrelated ones, with what the unedited model says."""

    asked: Asked
    far: Asked

    def values(
        self, model: Bridge, edits: Sequence[Edit] | None, unlike: Callable[[], float] | None
    ) -> dict[str, float | None]:
        """Every measure of `MEASURES` on the model as it is; `edits` are those in place, None before any."""
        rows = self.asked.rows(self.asked.read(model))

        def some(kind: str, label: str | None = None) -> list[Reading]:
            found = [row.after for row in rows if row.kind == kind and label in (None, row.label)]
            return [now for now in found if now is not None]

        own = some("rewrite")[0]
        third = [math.exp(-one.nll) for one in some("ripple", "third")]
        composite = some("ripple", "composite")
        return {
            "distance": None if edits is None else distance(model, edits),
            "P(old)": None if own.nll_other is None else math.exp(-own.nll_other),
            "P(new)": math.exp(-own.nll),
            "P(third)": mean(third),
            "old preferred": None if own.nll_other is None else float(own.nll_other < own.nll),
            "KL prompt": own.kl,
            "KL paraphrases": mean([one.kl for one in some("paraphrase")]),
            "KL neighbours": mean([one.kl for one in some("locality")]),
            "KL unrelated": mean([one.kl for one in self.far.read(model)]),
            "reverse": mean([float(one.exact) for one in some("ripple", "reverse")]),
            "composite": mean([float(one.exact) for one in composite]),
            "composite, old": mean([float(one.exact_other) for one in composite if one.exact_other is not None]),
            "edited object for composite": mean([float(one.exact) for one in some("ripple", ECHO)]),
            "distortion": distortion([row for row in rows if row.label == "true"]),
            "circuit": None if unlike is None or edits is None else unlike(),
        }


def distortion(rows: Sequence[Row]) -> float | None:
    """Divergence between the shares of several true answers before and now; None of under two."""
    now = [row.after.nll for row in rows if row.after is not None]
    return divergence([row.before.nll for row in rows], now) if len(now) > 1 else None


def divergence(before: Sequence[float], now: Sequence[float]) -> float:
    """Jensen-Shannon divergence, nats, of two sets of costs in nats, each made shares that sum to 1; at most ln 2."""
    one, other = (torch.tensor(list(values), dtype=torch.float64).neg().softmax(0) for values in (before, now))
    middle = (one + other) / 2
    return float(sum((part * (part / middle).log()).sum() for part in (one, other)) / 2)


def distance(model: Bridge, edits: Sequence[Edit]) -> float | None:
    """||W - W before|| / ||W before|| over the weights that these edits change; 0 of none, None beside the weights.

    The model may have the edits in place or not: the change is read from their factors.
    """
    if not edits:
        return 0.0
    deltas = merged(edits).deltas
    if not deltas:
        return None
    weights: Mapping[str, Any] = live_weights(model)
    inside = {delta.weight for edit in in_place(model) for delta in edit.deltas}
    moved = whole = 0.0
    for delta in deltas:
        change = delta.dense().double()
        here = as_matrix(delta.weight, weights[delta.weight].detach()).double().cpu()
        before = here - change if delta.weight in inside else here
        moved += float(change.square().sum())
        whole += float(before.square().sum())
    return math.sqrt(moved / whole)
