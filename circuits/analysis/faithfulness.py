"""Does the circuit do what the model does? Measured by running it, against circuits that were not searched for.

Every number says on what it was measured. Hit@10 is the share of prompts whose answer is among the ten most probable
tokens (what the Knowledge Circuits paper calls completeness), for the full model and the circuit, on the prompts that
the circuit was found on and on held-out ones with their own answers. Faithfulness is the circuit's share of the way
from the empty to the full graph's loss. CPR and CMD are the areas of the MIB benchmark (Mueller et al. 2025), under
faithfulness and under its distance from 1, over circuits of growing size, on a linear axis: the first takes edges by
signed score, the second by its size, both the largest wherever they are, less those on no path. MIB measures them by
the logit difference under the counterfactual; here they are of the task's own metric and ablation. Completeness here is
the older one: circuit and model should still agree when the same nodes are knocked out of both. Minimality: every kept
edge, cut alone.

Held-out prompts count twice: those whose answers the model knows, and all of them, for a circuit may find what the
model itself does not (Yao et al. 2024, Table 1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits import select
from circuits.ablations import ablation_names
from circuits.circuit import Circuit, faithfulness
from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.engine.writes import Mask
from circuits.graph import Graph
from circuits.mib.areas import SIZES, area_from_1, area_under
from circuits.scorers.exact import single_cuts
from circuits.task import REFERRING, Task, alike, corresponding, same_wording, twin
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.model.known import Known
from factscope.model.metrics import Target, kl
from factscope.model.prompts import Prompt
from factscope.model.weights import fingerprint
from factscope.runs.provenance import Run, stopwatch

KNOWN = Known.top(10)  # as Hit@10
LIKE = 5  # other prompts of one length at least, for a mean over them to stand for the relation
HIT_SHARES = ("full", "circuit", "random")
CONVENTIONS = {
    "Hit@10": "answer's first token among the ten most probable, rank counted from 1; held-out prompts have own labels",
    "faithfulness": "(m(C) - m(empty)) / (m(full) - m(empty)), ratio of means over prompts; empty: every edge ablated",
    "KL": "nats, KL(full || circuit) at the last position, summed over the vocabulary, mean over prompts",
    "CPR, CMD": "MIB's: trapezoid over the share of edges, linear axis; edges by signed score (CPR), by |score| (CMD), "
    "less those on no path; on this task's metric",
    "held out": "known: the model has the answer among its first ten; all: whether it knows them or not",
    "completeness": "KL(full without K || circuit without K), K: random halves of the circuit's heads and MLPs",
    "minimality": "|rise of the loss| when one kept edge is cut from the circuit",
    "random": "same number of edges drawn at random; same degree: each reader keeps its number of edges, as in Hit@10",
}


@dataclass(frozen=True)
class Hits:
    """Hit@10 of model and circuit on one set of prompts."""

    n: int
    full: float
    circuit: float
    random: float  # mean over random circuits in which each reader hears as many writers
    ranks_full: tuple[int, ...] = ()
    ranks_circuit: tuple[int, ...] = ()
    prompts: tuple[str, ...] = ()  # in the order of the ranks


@dataclass(frozen=True)
class RandomBaseline:
    """Several random circuits' values."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "RandomBaseline":
        """Mean, least and greatest."""
        return cls(float(np.mean(values)), float(min(values)), float(max(values)), len(values))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One circuit's card."""

    n_edges: int
    share: float  # of all edges
    unit: str
    losses: dict[str, float]  # full, circuit, empty
    faithfulness: float
    kl: float
    found: Hits
    held_out: Hits | None  # prompts whose answers the model knows
    sizes: Float[Tensor, " size"]  # shares of all edges
    faithfulness_by_size: Float[Tensor, " size"]  # edges by |score|
    cpr: float
    cmd: float
    knocked_out: Float[Tensor, " draw"]  # KL, nats
    minimality: Float[Tensor, " edge"]  # in the order of `graph.names(kept)`
    superfluous: float  # share of kept edges whose cut changes the loss by less than `tolerance`
    tolerance: float
    random_size: RandomBaseline  # faithfulness
    random_degree: RandomBaseline
    by_ablation: dict[str, float]  # faithfulness of the same edges under other ablations
    conventions: dict[str, str]
    notes: tuple[str, ...]
    run: Run | None
    held_out_all: Hits | None = None  # with those that it does not know; None where it was not asked
    faithfulness_by_signed_size: Float[Tensor, " size"] | None = None  # edges by signed score


def evaluate(
    model: Bridge,
    circuit: Circuit,
    held_out: Sequence[Prompt] = (),
    *,
    known: Known = KNOWN,
    n_random: int = 5,
    seed: int = 0,
    tolerance: float | None = None,
    closely: int | None = None,
) -> Evaluation:
    """Run the circuit on its own prompts and on held-out ones, and everything that could show it wrong.

    Args:
        known: which held-out prompts count as known.
        closely: growth, knock-outs, single cuts and other ablations, which take many runs of the model, are measured on
            so many of the circuit's prompts, the first ones; by default on all.

    Raises UserError if the model is not the one that the circuit was found in.
    """
    run = Run.of(model, seed)
    if circuit.run is not None and circuit.run.fingerprint != fingerprint(model):
        raise UserError(f"the circuit was found in {circuit.run.model} with other weights than this model's")
    with stopwatch() as elapsed:
        found = _evaluation(model, circuit, held_out, known, (n_random, seed, tolerance, closely))
    return replace(found, run=run.ended(elapsed[0]))


def _evaluation(
    model: Bridge,
    circuit: Circuit,
    held_out: Sequence[Prompt],
    known: Known,
    how: tuple[int, int, float | None, int | None],
) -> Evaluation:
    n_random, seed, tolerance, closely = how
    graph, task, kept = circuit.graph, circuit.task, circuit.mask
    generator = np.random.default_rng(seed)
    notes: list[str] = []
    reference = Reference(model, graph, task)
    few = first_prompts(task, closely)
    close = reference if few == task else Reference(model, graph, few)
    fast = Fast(close)  # at the beginning, for it refuses what it does not know
    full, empty, own = (reference.logits(mask) for mask in (graph.full(), graph.empty(), kept))
    loss = {n: _loss(reference, x) for n, x in (("full", full), ("circuit", own), ("empty", empty))}
    same_size = [random_circuit(graph, int(kept.sum()), generator) for _ in range(n_random)]
    same_degree = [random_degrees(graph, kept, generator) for _ in range(n_random)]

    def part(mask: Mask) -> float:
        return faithfulness(reference.loss(mask), loss["full"], loss["empty"])

    kept_out = known_and_all(model, task, held_out, known, notes)

    def engine(each: Task) -> Reference:
        return reference if each is task else Reference(model, graph, each)

    held = [hits(engine, kept, tasks, same_degree) if tasks else None for tasks in kept_out]
    if few != task:
        notes.append(
            f"growth, knock-outs, single cuts and other ablations are measured on the first {len(few.prompts)} of "
            f"{len(task.prompts)} prompts"
        )
    return Evaluation(
        n_edges=int(kept.sum()),
        share=float(kept.sum()) / graph.n_edges,
        unit=circuit.unit,
        losses=loss,
        faithfulness=faithfulness(loss["circuit"], loss["full"], loss["empty"]),
        kl=_kl(full, own),
        found=hits(engine, kept, [task], same_degree),
        held_out=held[0],
        held_out_all=merged(*held),
        random_size=RandomBaseline.of([part(mask) for mask in same_size]),
        random_degree=RandomBaseline.of([part(mask) for mask in same_degree]),
        by_ablation=_by_ablation(model, graph, few, kept),
        conventions=CONVENTIONS | {"ablation": task.ablation, "metric": task.metric, "positions": "all alike"},
        notes=tuple(notes),
        run=None,
        **_seen_closely(close, fast, circuit, generator, n_random, tolerance),
    )


def _seen_closely(
    close: Reference,
    fast: Fast,
    circuit: Circuit,
    generator: np.random.Generator,
    n_random: int,
    tolerance: float | None,
) -> dict[str, Any]:
    """What takes many runs of the model, by the fields of an evaluation: growth, knock-outs, and single cuts."""
    graph, kept = circuit.graph, circuit.mask
    full, empty = close.loss(graph.full()), close.loss(graph.empty())

    def grown(signed: bool) -> Tensor:
        masks = (of_size(graph, circuit.scores, share, signed) for share in SIZES)
        return torch.tensor([faithfulness(close.loss(mask), full, empty) for mask in masks])

    sizes, by_size, by_signed = torch.tensor(SIZES), grown(False), grown(True)
    minimal = _cut_alone(fast, kept)
    least = tolerance if tolerance is not None else 0.01 * abs(full - empty)
    return {
        "sizes": sizes,
        "faithfulness_by_size": by_size,
        "faithfulness_by_signed_size": by_signed,
        "cpr": area_under(by_signed.tolist(), SIZES),
        "cmd": area_from_1(by_size.tolist(), SIZES),
        "knocked_out": torch.tensor([_knocked_out(close, kept, generator) for _ in range(n_random)]),
        "minimality": minimal.float(),
        "superfluous": float((minimal < least).float().mean()),
        "tolerance": float(least),
    }


def first_prompts(task: Task, most: int | None) -> Task:
    """The task on its first prompts, so many at most; None: on all."""
    if most is None or len(task.prompts) <= most:
        return task
    return replace(task, prompts=task.prompts[:most], corrupt=task.corrupt[:most])


def _cut_alone(fast: Fast, kept: Mask) -> Float[Tensor, " edge"]:
    """Size of the loss's change when each kept edge alone is cut, in the order of `graph.names(kept)`."""
    cut = single_cuts(fast, kept, kept)
    return torch.stack([cut[writer, reader].abs() for reader, writer in np.argwhere(kept.T).tolist()])


@runtime_checkable
class Ranked(Protocol):
    """What Hit@10 asks of whatever runs a circuit on a task."""

    def ranks(self, kept: Mask) -> tuple[int, ...]:
        """Rank of each prompt's answer, 1 for the most probable, with only the kept edges."""

    def clean_ranks(self) -> tuple[int, ...]:
        """The same in the full model."""


def hits(engine: Callable[[Task], Ranked], kept: Mask, tasks: Sequence[Task], random: Sequence[Mask] = ()) -> Hits:
    """Hit@10 over all prompts of the tasks.

    Args:
        engine: what runs circuits on a task.
        random: circuits whose mean stands beside.
    """
    ranks_full: list[int] = []
    ranks: list[int] = []
    chance: list[int] = []
    for task in tasks:
        on = engine(task)
        ranks_full += on.clean_ranks()
        ranks += on.ranks(kept)
        for mask in random:
            chance += on.ranks(mask)
    prompts = tuple(prompt.text for task in tasks for prompt in task.prompts)
    shares = (_share(ranks_full), _share(ranks), _share(chance))
    return Hits(len(ranks), *shares, tuple(ranks_full), tuple(ranks), prompts)


def known_and_all(
    model: Bridge, task: Task, prompts: Sequence[Prompt], known: Known, notes: list[str]
) -> tuple[list[Task], list[Task]]:
    """The held-out prompts that the model knows, and the rest, each as `by_length` gives them."""
    own = known.prompts(model, prompts)
    rest = tuple(prompt for prompt in prompts if prompt not in own)
    return by_length(task, own, notes), by_length(task, rest, notes, beside=own)


def merged(one: Hits | None, other: Hits | None) -> Hits | None:
    """Two sets of prompts as one."""
    if one is None or other is None:
        return one or other
    shares = ((one.n * getattr(one, of) + other.n * getattr(other, of)) / (one.n + other.n) for of in HIT_SHARES)
    lists = (getattr(one, of) + getattr(other, of) for of in ("ranks_full", "ranks_circuit", "prompts"))
    return Hits(one.n + other.n, *shares, *lists)


def by_length(task: Task, prompts: Sequence[Prompt], notes: list[str], beside: Sequence[Prompt] = ()) -> list[Task]:
    """Held-out prompts as tasks of one length each, ablated as the task is.

    What a counterfactual or a mean for each position takes from other prompts comes from those of their own length and
    subject span, among them, the task's and those `beside`; where those are too few, from those of the same wording,
    token role for token role. A prompt that has none is left out, and a note says so.
    """
    pool = {p.text: p for p in (*prompts, *beside, *task.prompts, *task.corrupt, *task.reference) if p.answer_ids}
    groups: dict[tuple[int, tuple[int, int]], list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda prompt: len(prompt.tokens)):
        groups.setdefault((len(prompt.tokens), prompt.subject_span), []).append(prompt)
    tasks, left_out = [], 0
    for aligned in groups.values():
        group = aligned
        like = corresponding(group[0], tuple(pool.values()), LIKE + 1)  # itself is among them
        corrupt: list[Prompt] = []
        reference = task.reference
        if task.ablation == "counterfactual":
            aligned_ones = alike(group[0], like)
            twins = [twin(prompt, aligned_ones) or twin(prompt, like) for prompt in group]
            corrupt = [twin for twin in twins if twin is not None]
            group = [prompt for prompt, twin in zip(group, twins, strict=True) if twin is not None]
        elif task.ablation == "mean":
            reference = like
            group = group if len(like) > LIKE else []
        left_out += len(aligned) - len(group)
        if group:  # only ranks are read, so the metric may be any
            tasks.append(Task(tuple(group), "log_probability", task.ablation, tuple(corrupt), reference))
    if left_out:
        notes.append(
            f"{left_out} of {len(prompts)} {'more ' if beside else ''}held-out prompts were left out: too few others "
            f"have their length, and the {task.ablation} ablation needs them"
        )
    return tasks


def random_circuit(graph: Graph, edges: int, generator: np.random.Generator) -> Mask:
    """So many edges, each set as likely as any other."""
    kept = graph.empty()
    kept.flat[generator.choice(np.flatnonzero(graph.allowed), edges, replace=False)] = True
    return kept


def random_degrees(graph: Graph, kept: Mask, generator: np.random.Generator) -> Mask:
    """Every reader hears as many writers as in `kept`, drawn at random."""
    drawn = graph.empty()
    for number, reader in enumerate(graph.readers):
        degree = int(kept[:, number].sum())
        drawn[generator.choice(graph.below(reader), degree, replace=False), number] = True
    return drawn


def _share(ranks: Sequence[int]) -> float:
    return sum(rank <= 10 for rank in ranks) / len(ranks) if ranks else float("nan")


def _loss(reference: Reference, logits: Tensor) -> float:
    return float(reference.objective.losses(logits[None])[0])


def _kl(full: Tensor, logits: Tensor) -> float:
    each = [kl(row[None], Target(0, clean=clean)) for clean, row in zip(full, logits, strict=True)]
    return float(torch.cat(each).mean())


def of_size(graph: Graph, scores: Tensor, share: float, signed: bool) -> Mask:
    """The largest edges, this share of all, less those on no path."""
    if share >= 1:
        return graph.full()
    return graph.pruned(select.top(graph, scores, max(1, round(share * graph.n_edges)), signed))


def _knocked_out(reference: Reference, kept: Mask, generator: np.random.Generator) -> float:
    graph = reference.graph
    nodes = np.flatnonzero(kept.any(1))
    nodes = nodes[nodes >= graph.n_inputs]
    out = nodes[generator.random(len(nodes)) < 0.5]
    full, circuit = graph.full(), kept.copy()
    full[out], circuit[out] = False, False
    return _kl(reference.logits(full), reference.logits(circuit))


def _by_ablation(model: Bridge, graph: Graph, task: Task, kept: Mask) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in ablation_names():
        if name == "counterfactual" and not task.corrupt:
            continue
        if name == "optimal" != task.ablation:  # its constants have to be learned first, which takes a minute
            continue
        if name in REFERRING and len(task.reference) < 2:
            continue
        if name == "mean" and not all(_matched(task.prompts[0], other) for other in task.reference):
            continue
        other = Reference(model, graph, replace(task, ablation=name))
        found[name] = faithfulness(other.loss(kept), other.loss(graph.full()), other.loss(graph.empty()))
    return found


def _matched(prompt: Prompt, other: Prompt) -> bool:
    """Whether positions of the two correspond, one to one or by the roles of tokens."""
    return len(prompt.tokens) == len(other.tokens) or same_wording(prompt, other)
