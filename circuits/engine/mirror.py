"""The same task from its other end: the corrupt run, into which clean outputs are put (denoising).

Cutting an edge of the clean run asks what is necessary; giving one edge of the corrupt run its clean value asks what
is sufficient (Heimersheim & Nanda 2024, arXiv 2404.15255). The second is the first with the two prompts exchanged: the
corrupt prompt is run, a "cut" edge carries what its writer writes on the clean one, and the loss is of the clean
answer. An edge that helps lowers it, so scores change their sign, and positive still means that the edge helps.

Scope: the counterfactual ablation alone, for only it has a corrupt run; and corrupt prompts of one length.
"""

from dataclasses import replace
from typing import Literal

import torch

from circuits.engine.reference import Reference
from circuits.engine.writes import writes
from circuits.task import Objective, one_length, places_of
from factscope.errors import UserError

Direction = Literal["noising", "denoising"]
DIRECTIONS: tuple[Direction, ...] = ("noising", "denoising")
DENOISED = "fall of the loss when the edge alone has its clean value in the corrupt run; positive: the edge helps"


def check_direction(direction: str) -> None:
    """UserError for a direction that there is not."""
    if direction not in DIRECTIONS:
        raise UserError(f"there is no direction {direction!r}; choose one of {', '.join(DIRECTIONS)}")


def seen_from(reference: Reference, direction: Direction) -> tuple[Reference, int]:
    """The run that a direction starts from, and the sign that makes a rise of its loss the edge's help."""
    return (reference, 1) if direction == "noising" else (mirrored(reference), -1)


def mirrored(reference: Reference) -> Reference:
    """The corrupt run, whose cut edges carry clean outputs; the loss is that of the clean answers.

    Raises UserError where there is no corrupt run, and TokenMismatch for corrupt prompts of several lengths.
    """
    task = reference.task
    if task.ablation != "counterfactual":
        raise UserError(
            f"denoising puts clean outputs into a run of corrupt prompts, and {task.ablation} ablation has no such "
            "run: choose --ablation counterfactual, or the direction noising"
        )
    one_length("the corrupt prompts of denoising", task.corrupt)
    prompts = tuple(
        replace(corrupt, answer_ids=clean.answer_ids, foil_ids=clean.foil_ids)
        for clean, corrupt in zip(task.prompts, task.corrupt, strict=True)
    )
    clean = writes(reference.model, reference.graph, task.tokens(reference.model))
    pairs = enumerate(zip(task.prompts, task.corrupt, strict=True))
    moved = torch.stack([clean[:, row, list(places_of(other, own))] for row, (own, other) in pairs], 1)
    found = Reference(reference.model, reference.graph, replace(task, prompts=prompts, corrupt=task.prompts), moved)
    # what the loss compares with is what the model says of the clean prompts
    found.objective = Objective(reference.objective.metric, reference.objective.targets, found.objective.clean)
    return found
