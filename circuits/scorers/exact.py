"""What cutting each single edge of the full graph really costs: measured, not estimated.

The yardstick for EAP and EAP-IG, and another question than ACDC's, which cuts from the circuit so far. One batch row
for each edge, and only what the edge's reader leads to is computed: minutes on a model of 135 million parameters.

Convention: the rise of the loss when the edge alone is cut, in the loss's unit; positive means that the edge helps.
`direction=denoising` measures the other end: how far the loss falls when the edge alone has its clean value in the
corrupt run.
Scope: single cuts do not add up; edges that stand in for each other each look dispensable.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from circuits.engine.incremental import Fast
from circuits.engine.mirror import DENOISED, Direction, check_direction, seen_from
from circuits.engine.reference import Reference
from circuits.engine.writes import Mask
from circuits.method import Scorer
from factscope.progress import progress


@dataclass(frozen=True)
class Exact(Scorer):
    """How it is run."""

    name: ClassVar[str] = "exact"
    convention: ClassVar[str] = (
        "measured rise of the loss when the edge alone is cut from the full graph; positive: the edge helps"
    )

    largest_batch: int = 64  # more is slower on two cores
    direction: Direction = field(default="noising", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_direction(self.direction)
        if self.direction == "denoising":
            object.__setattr__(self, "convention", f"measured {DENOISED}")

    def score(self, reference: Reference) -> Tensor:
        """Scores [writer, reader] in the loss's unit, zero where there is no edge."""
        start, sign = seen_from(reference, self.direction)
        full = start.graph.full()
        return sign * single_cuts(Fast(start), full, full, self.largest_batch)


def single_cuts(fast: Fast, kept: Mask, tested: Mask, largest_batch: int = 64, shown: bool | None = False) -> Tensor:
    """Rise of the loss for each `tested` edge of the circuit `kept` when it alone is cut; zero elsewhere."""
    graph = fast.graph
    base = fast.rebuild(kept)
    alive = graph.alive(kept)
    scores = torch.zeros(tested.shape, dtype=torch.float64)
    with progress("edges", int(tested.sum()), shown=shown) as advance:
        for number in range(len(graph.readers)):
            nodes = list(graph.moved_by(graph.readers[number]))
            writers = [writer for writer in range(len(graph.writers)) if tested[writer, number]]
            if not writers or (nodes and not alive[nodes].any()):
                advance(len(writers))
                continue
            plan = fast.plan(number)
            x = fast.inputs[number][:, -1:] if plan.last else fast.inputs[number]
            size = min(largest_batch, fast.largest_batch(plan))
            for first in range(0, len(writers), size):
                tried = writers[first : first + size]
                losses = fast.losses(plan, x + fast.cuts(tried, plan.last))
                scores[tried, number] = losses.double().cpu() - base
                advance(len(tried))
    return scores


METHOD = Exact
