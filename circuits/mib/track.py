"""The circuit track as the benchmark runs it: methods by tasks, a ranking of edges each, CPR, CMD and AUROC.

A method scores every edge on training prompts. On other prompts (validation) circuits of the ten published sizes are
run: the largest edges by signed score for CPR, by size for CMD, less those on no path. On planted models the edges are
known, and AUROC asks whether the ranking finds them. A row of random scores stands beside.

ACDC has no scores of all edges: an edge ranks by what its cut cost when it was decided, and kept edges before cut ones;
those that were cut without a test come last. `eap_ig` is the benchmark's EAP-IG-inputs with our midpoint rule;
`eap_ig_activations` is the other published variant; `exact` is its EActP.

Convention: f and the areas as in `areas`; `full` and `empty` are mean logit differences.
Scope: keys and values as the model has them, where the benchmark gives each query head its own.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuits.analysis.faithfulness import of_size
from circuits.circuit import faithfulness
from circuits.engine.reference import Reference
from circuits.engine.writes import Mask
from circuits.graph import Graph
from circuits.method import Scorer, method
from circuits.mib.areas import SIZES, area_from_1, area_under, auroc, auroc_of_sizes
from circuits.mib.planted import planted
from circuits.mib.tasks import TASKS, task_of
from circuits.search.acdc import ACDC
from circuits.select import greedy
from circuits.task import Task
from factscope.cache import digest
from factscope.errors import UserError
from factscope.model.bridge import Bridge, device
from factscope.model.bridge import info as info_of
from factscope.model.weights import fingerprint
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.results.result import Result
from factscope.runs.journal import Journal
from factscope.runs.provenance import Run, stopwatch
from factscope.runs.shards import Shard
from factscope.runs.workers import ALONE, Workers, each

QUICK = ("eap", "eap_ig", "eap_ig_activations", "relp", "atp_star")
METHODS = (*QUICK, "exact", "acdc", "random")
PLANTED = {"chain": ("chain", 0.0), "chain-noise": ("chain", 0.1), "saturated": ("saturated", 0.1)}
ALL_TASKS = (*TASKS, *PLANTED)
ACDC_THRESHOLD = 0.01  # in logits


@dataclass(frozen=True)
class TrackRow:
    """One method on one task."""

    method: str
    task: str
    cpr: float
    cmd: float
    signed: tuple[float, ...]  # faithfulness at each of SIZES, edges by signed score
    unsigned: tuple[float, ...]  # edges by size of score
    auroc: float | None  # where the edges are known
    auroc_as_published: float | None
    found: float | None  # of the planted edges, the share among as many of the largest
    seconds: float  # of the scoring


@dataclass(frozen=True)
class TrackTask:
    """A task as it was asked."""

    name: str
    model: str
    example: str
    corrupt: str
    answer: str
    foil: str
    n_edges: int
    full: float  # mean logit difference, on the validation prompts
    empty: float
    planted: tuple[str, ...]  # edges


@shown("circuits.pages.mib")
@dataclass(frozen=True, eq=False)
class Track(Result):
    """All methods on all tasks."""

    tasks: tuple[TrackTask, ...]
    rows: tuple[TrackRow, ...]
    settings: dict[str, Any]
    run: Run


@dataclass(frozen=True)
class TrackOptions:
    """What is run."""

    tasks: tuple[str, ...] = ("ioi", "arithmetic", "colours", "choice", *PLANTED)
    methods: tuple[str, ...] = (*QUICK, "random")
    train: int = 8  # prompts that edges are scored on
    validation: int = 8  # other prompts, that circuits are run on
    split: bool = True
    start: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for what, names, known in (("task", self.tasks, ALL_TASKS), ("method", self.methods, METHODS)):
            if not names:
                raise UserError(f"name at least one {what} of {', '.join(known)}")
            if wrong := next((name for name in names if name not in known), None):
                raise UserError(f"there is no {what} {wrong!r} on the circuit track; choose of {', '.join(known)}")
        if min(self.train, self.validation) < 1:
            raise UserError("edges are scored on at least 1 prompt, and circuits run on at least 1")


@dataclass(frozen=True, eq=False)
class _Setting:
    """A task on its model, with what every method needs."""

    train: Reference
    validation: Reference
    task: TrackTask
    truth: Mask | None


def track(model: Bridge, options: TrackOptions = TrackOptions(), **how: Any) -> Track:
    """Every method on every task; planted tasks bring their own models. Keyword arguments are those of `ranked`.

    Raises UserError as `TrackOptions`, `task_of` and the methods do, and where a task's full model does no better than
    the empty one.
    """
    run = Run.of(model, options.seed)
    with stopwatch() as seconds:
        lines = ranked(model, options, **how)
    tasks = {line["task"]["name"]: line["task"] for line in lines}
    settings: dict[str, Any] = {"train": options.train, "validation": options.validation, "split": options.split}
    settings |= {"metric": "logit difference", "ablation": "counterfactual", "ACDC's threshold": ACDC_THRESHOLD}
    return Track(
        tuple(TrackTask(**task | {"planted": tuple(task["planted"])}) for task in tasks.values()),
        tuple(
            TrackRow(**line["row"] | {name: tuple(line["row"][name]) for name in ("signed", "unsigned")})
            for line in lines
        ),
        settings,
        run.ended(seconds[0]),
    )


def ranked(
    model: Bridge,
    options: TrackOptions,
    *,
    folder: str | Path,
    shown: bool | None = None,
    workers: Workers = ALONE,
    shard: Shard | None = None,
) -> list[dict[str, Any]]:
    """The line of every method on every task as the journal keeps it; of a shard, its lines alone.

    Args:
        folder: where each finished row is recorded; the same call goes on from there, with other methods or tasks too.
        workers: who ranks edges; the numbers do not depend on it.
        shard: only this part of the rankings; None: all.
    """
    work: dict[str, Any] = {
        "track": "mib",
        "model": fingerprint(model),
        "train": options.train,
        "validation": options.validation,
    }
    work |= {"split": options.split, "start": options.start, "seed": options.seed}
    wanted = [(task, name) for task in options.tasks for name in options.methods]
    if shard is not None:
        work |= shard.said(len(wanted), items=digest(wanted))
        wanted = shard.part(wanted)
    with Journal(Path(folder) / "journal.jsonl", work) as log:
        done = {(line["row"]["task"], line["row"]["method"]): line for line in log.done}
        missing = [one for one in wanted if one not in done]
        with (
            progress("rankings", len(wanted), len(wanted) - len(missing), shown=shown) as advance,
            closing(each(model, _Ranking(options), missing, workers)) as found,
        ):
            for one, line in zip(missing, found, strict=True):
                log.add(line)
                done[one] = line
                advance(1)
    return [done[one] for one in wanted]


@dataclass(frozen=True)
class _Ranking:
    """The line of a task and a method; the task that was asked for last is at hand for its next method."""

    options: TrackOptions
    at_hand: dict[str, _Setting] = field(default_factory=dict)

    def __call__(self, model: Bridge, asked: tuple[str, str]) -> dict[str, Any]:
        """What the journal keeps."""
        task, name = asked
        if task not in self.at_hand:
            self.at_hand.clear()
            self.at_hand[task] = _setting(model, task, self.options)
        setting = self.at_hand[task]
        return {"row": _row(setting, name, self.options.seed), "task": vars(setting.task)}


def _setting(model: Bridge, name: str, options: TrackOptions) -> _Setting:
    truth: Mask | None = None
    edges: tuple[str, ...] = ()
    n = options.train + options.validation
    if name in PLANTED:
        kind, noise = PLANTED[name]
        made = planted(kind, noise, options.seed, str(device(model)))
        model, truth, edges = made.model, made.truth, made.edges
        both = made.task(n, options.seed)
    else:
        both = task_of(model, name, n, options.seed, options.start)
    graph = Graph.of(model, split=options.split or name in PLANTED)  # a planted head's edges are its values'
    train = Task(both.prompts[: options.train], both.metric, both.ablation, both.corrupt[: options.train])
    rest = Task(both.prompts[options.train :], both.metric, both.ablation, both.corrupt[options.train :])
    references = [Reference(model, graph, task) for task in (train, rest)]
    full, empty = (-references[1].loss(mask) for mask in (graph.full(), graph.empty()))
    if not full > empty:
        raise UserError(
            f"on {name} the model's logit difference is {full:.2f} and with every edge cut {empty:.2f}: it does not do "
            "the task, so no circuit can be judged; leave it out of --tasks"
        )
    first = rest.prompts[0]
    info = TrackTask(
        name=name,
        model="planted" if name in PLANTED else info_of(model).name,
        example=first.text,
        corrupt=rest.corrupt[0].text,
        answer=str(first.answer),
        foil=str(first.foil),
        n_edges=graph.n_edges,
        full=full,
        empty=empty,
        planted=edges,
    )
    return _Setting(references[0], references[1], info, truth)


def _row(setting: _Setting, name: str, seed: int) -> dict[str, Any]:
    with stopwatch() as seconds:
        scores = scores_of(setting.train, name, seed)
    signed, unsigned = (curve(setting.validation, scores, by_sign) for by_sign in (True, False))
    row: dict[str, Any] = {"method": name, "task": setting.task.name, "seconds": seconds[0]}
    row |= {"cpr": area_under(signed), "cmd": area_from_1(unsigned), "signed": signed, "unsigned": unsigned}
    return row | against(setting.train.graph, scores, setting.truth)


def scores_of(reference: Reference, name: str, seed: int = 0) -> Tensor:
    """A method's scores [writer, reader], signed, larger for edges that help more. ModelError for what is no number."""
    graph = reference.graph
    if name == "random":
        drawn = np.random.default_rng(seed).standard_normal(graph.allowed.shape)
        return torch.from_numpy(drawn * graph.allowed)
    if name == "acdc":
        choice = ACDC(threshold=ACDC_THRESHOLD).choose(reference, seed=seed)
        scores = choice.scores.double()
        top = float(scores.abs().max()) + 1
        return scores + torch.from_numpy(choice.kept) * top * torch.sign(scores + (scores == 0))
    settings = {"variant": "activations"} if name == "eap_ig_activations" else {}
    scorer = method("eap_ig" if settings else name, settings)
    assert isinstance(scorer, Scorer)
    return scorer.score(reference).double()


def curve(reference: Reference, scores: Tensor, signed: bool) -> list[float]:
    """Faithfulness at each of SIZES: the largest edges by signed score, or by size, less those on no path."""
    graph = reference.graph
    full, empty = reference.loss(graph.full()), reference.loss(graph.empty())
    return [faithfulness(reference.loss(of_size(graph, scores, size, signed)), full, empty) for size in SIZES]


def against(graph: Graph, scores: Tensor, truth: Mask | None) -> dict[str, float | None]:
    """How well a ranking finds the planted edges: both AUROCs, and the share among as many of the largest."""
    if truth is None:
        return {"auroc": None, "auroc_as_published": None, "found": None}
    size, true = scores.abs().numpy()[graph.allowed], truth[graph.allowed]
    grown = [greedy(graph, scores, max(1, int(share * graph.n_edges)))[graph.allowed] for share in SIZES]
    largest = np.argsort(-size, kind="stable")[: int(true.sum())]
    return {
        "auroc": auroc(size, true),
        "auroc_as_published": auroc_of_sizes(grown, true),
        "found": float(true[largest].mean()),
    }


def rows_of(found: Track, task: str) -> Sequence[TrackRow]:
    """The rows of one task, the best CMD first."""
    return sorted((row for row in found.rows if row.task == task), key=lambda row: row.cmd)
