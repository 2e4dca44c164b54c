"""Does locating find the fact, or only its subject, or only its relation? (survey 2401.01286, section 5.2, Fig. 8, 9)

A method that locates a fact should find the same places for another wording of the fact, and other places for another
fact. So places are found for every prompt of subjects by relations by two wordings, and the `n` highest of two prompts
are compared:

    Sim = shared places / n, averaged over pairs of prompts;   RSim = max((Sim - Sim_all) / (1 - Sim_all), 0)

where Sim_all is of unrelated prompts, of another subject and another relation. RSim of the same fact in two wordings is
the survey's consistency. RSim of the same subject with another relation, and of the same relation with another subject,
say what the agreement is about: places that two facts of one subject share as much as two wordings of one fact do are
the subject's, and no fact has been located.

Three methods: restored MLPs of a causal trace at the subject's last token, by layer (Meng et al. 2022); knowledge
neurons at the last token, by layer and one by one (Dai et al. 2022); and the edges of EAP, by writer and one by one
(Syed et al. 2023), where a cut edge carries its mean over the other subjects.

Convention: all numbers from 0 to 1; intervals are 95 % of a bootstrap over subjects, whose prompts stay together.
Scope: subjects that all relations have and whose facts the model knows; the survey has one wording pair and no
interval, and compares layers alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.scorers.eap import EAP
from circuits.task import Task, corresponding
from factscope.data.fact import Fact
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.model.known import Known
from factscope.model.neurons.attribution import Path
from factscope.model.prompts import Prompt, PromptError, make_prompt
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.results.result import Result
from factscope.runs.provenance import Run, stopwatch
from factscope.statistics import ENOUGH, bootstrap_tail, effective_number
from tracing.causal import Config as TraceConfig
from tracing.causal import trace
from tracing.neurons import Config as NeuronConfig
from tracing.neurons import neurons

KINDS = ("same fact", "same subject", "same relation")
WAYS = ("trace", "neurons", "circuit")
LAYERS = (1, 2, 3, 5, 8, 12)  # places that are compared, of layers; and of what there are thousands of
MANY = (10, 30, 100, 300, 1000)
DRAWS = 400
SURE = 0.95  # of the draws


@dataclass(frozen=True)
class Asked:
    """One prompt, and which fact it asks for."""

    subject: str
    relation: str
    wording: int
    prompt: Prompt


@dataclass(frozen=True, eq=False)
class Located:
    """How much the places that one method finds agree."""

    method: str
    place: str  # what is compared: layers, neurons, edges
    sizes: tuple[int, ...]  # n
    similarity: Float[Tensor, "kind_or_unrelated size"]  # of KINDS, and of unrelated prompts in the last row
    rsim: Float[Tensor, "kind size"]  # of KINDS
    low: Float[Tensor, "kind size"]  # 95 %; NaN with fewer than `ENOUGH` subjects
    high: Float[Tensor, "kind size"]
    above: tuple[float, float, float]  # share of draws in which the fact's Sim, mean over n, is above each other kind's

    @property
    def sure(self) -> bool:
        """Whether there are subjects enough for intervals."""
        return not bool(self.low.isnan().any())

    @property
    def found(self) -> str:
        """What the method finds: "the fact", "the subject", "the relation", or "no common places"."""
        _, subject, relation = self.rsim.mean(1).tolist()
        if self.above[-1] < SURE:  # two wordings share no more than unrelated prompts
            return "no common places"
        if min(self.above) >= SURE:
            return "the fact"
        return "the subject" if subject >= relation else "the relation"


@shown("studies.pages.locating")
@dataclass(frozen=True, eq=False)
class LocatingStudy(Result):
    """All methods on the same prompts."""

    located: tuple[Located, ...]
    subjects: tuple[str, ...]
    relations: tuple[str, ...]
    prompts: tuple[str, ...]
    pairs: dict[str, int]  # by kind
    settings: dict[str, Any]
    notes: tuple[str, ...]
    run: Run


def locating(
    model: Bridge,
    facts: Sequence[Fact],
    ways: Sequence[str] = WAYS,
    *,
    subjects: int = 6,
    known: Known | None = Known.top(10),
    samples: int = 5,
    seed: int = 0,
    shown: bool | None = False,
) -> LocatingStudy:
    """Locate every fact in two wordings, and compare what is found.

    Args:
        facts: of two relations or more about the same subjects, each with a paraphrase.
        subjects: at most so many, in the order of the facts.
        known: which facts count; None: all.
        samples: corrupted runs of each trace.

    Raises UserError for a method that there is not, and where fewer than two subjects or two relations are left.
    """
    if not ways or not set(ways) <= set(WAYS):
        raise UserError(f"facts are located by {', '.join(WAYS)}, not by {', '.join(ways) or 'nothing'}")
    run = Run.of(model, seed)
    with stopwatch() as seconds:
        asked, others = prompts_of(model, facts, subjects, known)
        locators: dict[str, Callable[[Asked], Mapping[str, np.ndarray]]] = {
            "trace": lambda one: _by_trace(model, one.prompt, samples, seed),
            "neurons": lambda one: _by_neurons(model, one.prompt),
            "circuit": lambda one: _by_circuit(model, one, others),
        }
        profiles: dict[tuple[str, str], list[np.ndarray]] = {}
        with progress("locating", len(asked) * len(ways), shown=shown) as advance:
            for way in ways:
                for one in asked:
                    for place, values in locators[way](one).items():
                        profiles.setdefault((way, place), []).append(values)
                    advance(1)
        located = tuple(
            agreement(way, place, np.stack(values), asked, seed) for (way, place), values in profiles.items()
        )
    kinds = pair_kinds(asked)
    return LocatingStudy(
        located=located,
        subjects=tuple(dict.fromkeys(one.subject for one in asked)),
        relations=tuple(dict.fromkeys(one.relation for one in asked)),
        prompts=tuple(one.prompt.text for one in asked),
        pairs={kind: int((kinds == number).sum()) // 2 for number, kind in enumerate((*KINDS, "unrelated"))},
        settings={"samples": samples, "known": str(known)},
        notes=(),
        run=run.ended(seconds[0]),
    )


def prompts_of(
    model: Bridge, facts: Sequence[Fact], most: int, known: Known | None
) -> tuple[tuple[Asked, ...], dict[tuple[str, int], tuple[Prompt, ...]]]:
    """The prompts, each fact in two wordings, and by relation and wording those of all subjects (for means)."""
    found: dict[tuple[str, str], tuple[Prompt, ...]] = {}
    everyone: dict[tuple[str, int], list[Prompt]] = {}
    for fact in facts:
        try:
            two = tuple(
                make_prompt(model, text, subject=fact.subject, answer=fact.answer)
                for text in (fact.prompt, *fact.paraphrases[:1])
            )
        except PromptError:
            continue  # a wording that does not name its subject once
        if len(two) == 2:
            for wording, prompt in enumerate(two):
                everyone.setdefault((fact.relation, wording), []).append(prompt)
            found[fact.subject, fact.relation] = two
    if known is not None:
        first = [two[0] for two in found.values()]
        kept = {prompt.text for prompt in known.prompts(model, first)}
        found = {key: two for key, two in found.items() if two[0].text in kept}
    relations = list(dict.fromkeys(relation for _, relation in found))
    whole = [s for s in dict.fromkeys(subject for subject, _ in found) if all((s, r) in found for r in relations)]
    if len(relations) < 2 or len(whole) < 2:
        raise UserError(
            f"{len(whole)} subjects have facts of all {len(relations)} relations that the model knows and that have a "
            "second wording; name two relations or more about the same subjects, as country_capital,country_language"
        )
    asked = tuple(
        Asked(subject, relation, wording, prompt)
        for subject in whole[:most]
        for relation in relations
        for wording, prompt in enumerate(found[subject, relation])
    )
    return asked, {key: tuple(prompts) for key, prompts in everyone.items()}


# ---- what is located ----


def _by_trace(model: Bridge, prompt: Prompt, samples: int, seed: int) -> dict[str, np.ndarray]:
    result = trace(model, prompt, TraceConfig(sites=("mlp",), samples=samples, seed=seed))
    return {"layers": result.grid("mlp").effect[:, prompt.subject_span[1] - 1].double().numpy()}


def _by_neurons(model: Bridge, prompt: Prompt) -> dict[str, np.ndarray]:
    config = NeuronConfig(path=Path(points=5, doublings=0), wordings=1)
    result = neurons(model, prompt, config, wordings=())
    return {"layers": result.by_layer.double().numpy(), "neurons": result.attribution[0].flatten().double().numpy()}


def _by_circuit(
    model: Bridge, one: Asked, others: Mapping[tuple[str, int], tuple[Prompt, ...]]
) -> dict[str, np.ndarray]:
    reference = corresponding(one.prompt, others[one.relation, one.wording], 5)
    task = Task((one.prompt,), "nll", "mean", reference=reference)
    graph = Graph.of(model)
    sizes = EAP().score(Reference(model, graph, task)).abs().numpy()
    return {"heads and MLPs": sizes.sum(1), "edges": sizes[graph.allowed]}


# ---- how much it agrees ----


def pair_kinds(asked: Sequence[Asked]) -> np.ndarray:
    """Which kind each pair of prompts is, [prompt, prompt]: a number of KINDS, 3 for unrelated; -1 for itself."""
    subject = np.array([one.subject for one in asked])
    relation = np.array([one.relation for one in asked])
    alike, kin = subject[:, None] == subject, relation[:, None] == relation
    kinds = np.select([alike & kin, alike, kin], [0, 1, 2], 3)
    np.fill_diagonal(kinds, -1)
    return kinds


def agreement(
    method: str, place: str, profiles: Float[np.ndarray, "prompt place"], asked: Sequence[Asked], seed: int = 0
) -> Located:
    """RSim of every kind of pair, with intervals, from what a method gives each place: the larger, the more it is."""
    places = profiles.shape[1]
    sizes = tuple(n for n in (LAYERS if places <= MANY[1] * 4 else MANY) if n <= places // 2)
    order = np.argsort(-profiles, axis=1, kind="stable")
    shared = np.stack([_shared(order[:, :n]) for n in sizes], -1)  # [prompt, prompt, size]
    kinds = pair_kinds(asked)
    names = list(dict.fromkeys(one.subject for one in asked))
    member = np.array([names.index(one.subject) for one in asked])
    similarity = _similarity(shared, kinds, np.ones(len(asked)))
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        count = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names)).astype(float)
        if (count > 0).sum() > 1:  # one subject alone leaves no unrelated pair
            drawn.append(_similarity(shared, kinds, count[member]))
    mean = np.stack(drawn).mean(2)  # [draw, kind and unrelated]
    low = high = np.full((len(KINDS), len(sizes)), np.nan)
    if len(names) >= ENOUGH:
        tail = bootstrap_tail(effective_number([one.subject for one in asked]))
        low, high = np.quantile(np.stack([_relative(each) for each in drawn]), (tail, 1 - tail), axis=0)
    return Located(
        method=method,
        place=place,
        sizes=sizes,
        similarity=torch.from_numpy(similarity),
        rsim=torch.from_numpy(_relative(similarity)),
        low=torch.from_numpy(low),
        high=torch.from_numpy(high),
        above=tuple((mean[:, :1] > mean[:, 1:]).mean(0).tolist()),
    )


def _shared(top: np.ndarray) -> np.ndarray:
    """Share of places that two prompts have in common, [prompt, prompt]."""
    sets = [set(row.tolist()) for row in top]
    return np.array([[len(one & other) / top.shape[1] for other in sets] for one in sets])


def _similarity(shared: np.ndarray, kinds: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean Sim [kind, size] of the three kinds and of unrelated pairs, each pair with the weight of both prompts.

    Two prompts of one subject are drawn together, so their pair has the weight of that subject once.
    """
    both = np.where(kinds <= 1, weight[:, None], weight[:, None] * weight)
    found = []
    for kind in range(len(KINDS) + 1):
        mask = (kinds == kind) * both
        found.append((shared * mask[..., None]).sum((0, 1)) / max(mask.sum(), 1e-12))
    return np.stack(found)


def _relative(similarity: np.ndarray) -> np.ndarray:
    """RSim [kind, size]; 0 where unrelated prompts already share everything."""
    rest = 1 - similarity[-1]
    return np.clip(np.where(rest > 1e-9, (similarity[:-1] - similarity[-1]) / np.maximum(rest, 1e-9), 0), 0, None)
