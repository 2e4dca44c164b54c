"""Direct path patching (Wang et al. 2022, arXiv 2211.00593): what one component tells another, all else as it was.

The receiver hears the sender's ablated output in the place of its clean one; every other component still hears the
clean one. What the receiver then writes differently is computed through the rest of the model as it is. That is the
cut of one edge from the full graph, so the numbers are exact: the norm in front of the receiver is computed anew, keys
and values under grouped queries are the model's own, and MLPs send and receive as heads do.

Several receivers together: the sender's output is exchanged for all of them in one run, as the paper does for the heads
that it calls name movers. The sum of the single effects is another number, for receivers work together.

Convention: noising, the rise of the loss; `denoising` goes into the corrupt run and gives the fall of the loss
(`engine/mirror.py`). In the loss's unit; positive means that the path helps. NaN where there is no such edge.
Scope: paths of one edge; what a receiver hands on goes everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ablations import settled
from circuits.engine.incremental import Fast
from circuits.engine.mirror import Direction, check_direction, seen_from
from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.scorers.exact import single_cuts
from circuits.task import Task
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.results.result import Result
from factscope.runs.provenance import Run, stopwatch


@shown("circuits.pages.paths")
@dataclass(frozen=True, eq=False)
class PathEffects(Result):
    """The direct effects of senders on receivers."""

    graph: Graph
    task: Task
    direction: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    effect: Float[Tensor, "sender receiver"]  # in the loss's unit; NaN where the receiver cannot hear the sender
    together: Float[Tensor, " sender"] | None  # on all receivers at once; None: not asked
    unit: str
    loss_from: float  # of the run into which is patched, and of the one that the patches come from
    loss_to: float
    notes: tuple[str, ...]
    run: Run | None


def path_patch(
    model: Bridge,
    task: Task,
    senders: Sequence[str] = ("*",),
    receivers: Sequence[str] = ("logits",),
    *,
    direction: Direction = "noising",
    together: bool = False,
    split: bool = True,
    shown: bool | None = False,
) -> PathEffects:
    """Patch every path from one of `senders` directly to one of `receivers`.

    Args:
        senders: names of writers: "embed", "a5.h3", "m7", or patterns of them: "a5.*", "m*", "*".
        receivers: names of readers: "a9.h1.q" (with `.k` and `.v` of key/value heads), "a9.h1" where heads are not
            split, "m9", "logits", or patterns of them: "a9.*.v".
        together: also exchange each sender for all receivers at once, one run of the whole model for each sender.
        direction: noising, into the clean run, or denoising, into the corrupt one.
        shown: whether a progress bar is shown.

    Raises UserError for a name that is none, and where no receiver hears any sender.
    """
    check_direction(direction)
    task, notes = settled(task, "counterfactual")
    graph = Graph.of(model, split=split)
    sent, heard = named("sender", senders, graph.writers), named("receiver", receivers, graph.reader_names)
    tested = graph.empty()
    tested[np.ix_(sent, heard)] = True
    tested &= graph.allowed
    if not tested.any():
        raise UserError(
            f"no path goes from {', '.join(senders)} to {', '.join(receivers)}: a component is heard only by those "
            "that are computed after it"
        )
    run = Run.of(model, 0)
    with stopwatch() as seconds:
        start, sign = seen_from(Reference(model, graph, task), direction)
        fast = Fast(start)
        single = sign * single_cuts(fast, graph.full(), tested, shown=shown)
        effect = torch.where(torch.from_numpy(tested), single, torch.nan)[sent][:, heard]
        full, empty = start.loss(graph.full()), start.loss(graph.empty())
        jointly = sign * _together(start, sent, heard, full, shown) if together else None
    return PathEffects(
        graph=graph,
        task=task,
        direction=direction,
        senders=tuple(graph.writers[number] for number in sent),
        receivers=tuple(graph.reader_names[number] for number in heard),
        effect=effect.float(),
        together=None if jointly is None else jointly.float(),
        unit=start.objective.metric.unit,
        loss_from=full,
        loss_to=empty,
        notes=notes,
        run=run.ended(seconds[0]),
    )


def named(what: str, patterns: Sequence[str], names: Sequence[str]) -> list[int]:
    """The numbers of the names that fit one of the patterns, in order; UserError for a pattern that fits none."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"there is no {what} {pattern!r} in this model; {what}s are {names[0]}, {names[1]}, ... {names[-1]}, "
                "and 'a5.*' or '*' name several"
            )
    return [number for number, name in enumerate(names) if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _together(
    reference: Reference, sent: Sequence[int], heard: Sequence[int], full: float, shown: bool | None
) -> Float[Tensor, " sender"]:
    """The rise of the loss when a sender is exchanged for all receivers that hear it; NaN where none does."""
    graph, found = reference.graph, []
    with progress("senders", len(sent), shown=shown) as advance:
        for writer in sent:
            kept = graph.full()
            kept[writer, list(heard)] = False
            cut = bool((graph.allowed & ~kept).any())
            found.append(reference.loss(kept) - full if cut else float("nan"))
            advance(1)
    return torch.tensor(found, dtype=torch.float64)
