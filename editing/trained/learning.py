"""The training itself: one loop for every editor, which a kill does not change.

    parts <- parts - rate * Adam(gradient of the loss of a batch of examples)

with the gradient scaled down where it is longer than `CLIP`. Every `every` steps the editor is scored on validation
facts and everything that the next step needs is saved, then noted in the journal; a run that was stopped goes on from
there to the very numbers that it would have come to. The tensors of the step with the smallest validation loss are
kept: copies, not the live ones.
"""

import shutil
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editing.solve.adam import Adam
from editing.trained.editor import EditorScore
from editing.trained.facts import Example, Split, examples
from factscope.errors import EditError
from factscope.progress import progress
from factscope.runs import store
from factscope.runs.journal import Journal

CLIP = 100.0  # the authors' bound on the length of the whole gradient
CHECKED = 48  # validation facts of one score
ASKED = 96  # facts of each kind that are asked at the end
TOGETHER = 16

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long an editor learns, and how often it is scored and saved."""

    steps: int
    batch: int
    every: int
    seed: int

    @classmethod
    def of(cls, config: Any, seed: int) -> "Schedule":
        """From a method's own settings of these names."""
        return cls(config.steps, config.batch, config.every, seed)


class Learner(ABC):
    """What a method's editor is while it learns."""

    parts: Parts  # what is learnt, at its start
    state: Parts  # what belongs to the editor and is not learnt
    rates: dict[str, float]  # learning rates, by the part's name
    together: int = TOGETHER  # examples of one pass where nothing is learnt
    joint: bool = False  # whether the examples of a pass are one edit

    @abstractmethod
    def losses(self, parts: Parts, batch: Sequence[Example]) -> dict[str, Tensor]:
        """The parts of the loss, as one number each; "loss" is what is made smaller. Nats."""

    def projected(self, parts: Parts) -> Parts:
        """The parts after a step, brought back to where they are allowed to be; anywhere, unless a method says so."""
        return parts

    @abstractmethod
    def answers(self, parts: Parts, batch: Sequence[Example]) -> dict[str, list[float]]:
        """By metric, one number for each question of these examples; "loss" is the mean over the examples."""


@dataclass(frozen=True, eq=False)
class Learnt:
    """Where a training stands; all that the next step needs."""

    step: int
    parts: Parts
    moments: Parts
    squares: Parts
    curve: dict[str, Tensor] = field(default_factory=dict)
    scores: tuple[EditorScore, ...] = ()
    best: Parts = field(default_factory=dict)
    best_step: int = 0
    best_loss: float = float("inf")

    def noted(self, found: Sequence[EditorScore]) -> "Learnt":
        """With validation scores, and the tensors kept where they are the best so far."""
        loss = next(one.value for one in found if one.metric == "loss")
        better = loss < self.best_loss
        kept = {name: part.detach().clone() for name, part in self.parts.items()} if better else self.best
        step = self.step if better else self.best_step
        scores = (*self.scores, *found)
        return replace(self, scores=scores, best=kept, best_step=step, best_loss=min(loss, self.best_loss))


def learn(
    learner: Learner, facts: Split, how: Schedule, folder: Path | None, work: dict[str, Any], shown: bool | None = None
) -> Learnt:
    """Train to the end, or on from what `folder` holds; then score facts of every kind.

    Raises EditError where the loss is not finite, and StoreError for a folder that holds other work.
    """
    with ExitStack() as stack:
        journal = None if folder is None else stack.enter_context(Journal(folder / "training.jsonl", work))
        now = _taken_up(learner, folder, journal)
        if now.step == 0 and not now.scores:
            now = now.noted(scored(learner, now.parts, facts, "validation", 0, CHECKED))
        advance = stack.enter_context(progress("steps of training", how.steps, done=now.step, shown=shown))
        while now.step < how.steps:
            end = min(how.steps, (now.step // how.every + 1) * how.every)
            now = _stretch(learner, facts, how, now, end, advance)
            now = now.noted(scored(learner, now.parts, facts, "validation", now.step, CHECKED))
            if folder is not None and journal is not None:
                _save(now, folder, journal)
    ends = [
        one
        for kind in ("trained", *facts.asked)
        for one in scored(learner, now.best, facts, kind, now.best_step, ASKED)
        if facts.pool(kind)
    ]
    return replace(now, scores=(*now.scores, *ends))


def _stretch(learner: Learner, facts: Split, how: Schedule, now: Learnt, end: int, advance: Any) -> Learnt:
    """The steps up to `end`, at the end of which everything is saved."""
    parts = dict(now.parts)
    adams = {name: Adam(now.moments.get(name, 0.0), now.squares.get(name, 0.0), now.step) for name in parts}
    curve: dict[str, list[Tensor]] = defaultdict(list)
    for step in range(now.step, end):
        batch = examples(facts.trained, how.batch, f"step {how.seed} {step}")
        leaves = {name: part.requires_grad_() for name, part in parts.items()}
        with torch.enable_grad():
            losses = learner.losses(leaves, batch)
            slopes = torch.autograd.grad(losses["loss"], list(leaves.values()))
        if not bool(torch.isfinite(losses["loss"])):
            last = float(curve["loss"][-1]) if curve["loss"] else float("nan")
            raise EditError(
                f"the loss is not finite at step {step} (edit of {batch[0].prompt!r}; the step before had {last:.3g} "
                "nats): use a smaller learning rate"
            )
        length = torch.stack([slope.norm() for slope in slopes]).norm()
        scale = (CLIP / length.clamp_min(CLIP)).clamp_max(1.0)
        parts = {
            name: (part.detach() - learner.rates[name] * adams[name].direction(slope * scale)).detach()
            for (name, part), slope in zip(leaves.items(), slopes, strict=True)
        }
        parts = learner.projected(parts)
        for name, value in losses.items():
            curve[name].append(value.detach().cpu())
        advance(1)
    whole = {name: torch.cat([now.curve.get(name, torch.empty(0)), torch.stack(some)]) for name, some in curve.items()}
    moments = {name: torch.as_tensor(adam.moment) for name, adam in adams.items()}
    squares = {name: torch.as_tensor(adam.square) for name, adam in adams.items()}
    return replace(now, step=end, parts=parts, moments=moments, squares=squares, curve=whole)


@torch.no_grad()
def scored(learner: Learner, parts: Parts, facts: Split, kind: str, step: int, count: int) -> list[EditorScore]:
    """The editor on facts of one kind: examples drawn from them alone, the same ones whenever they are asked."""
    pool = facts.pool(kind)
    some = examples(pool, min(count, len(pool)), f"asked {kind}")
    values: dict[str, list[float]] = defaultdict(list)
    for begin in range(0, len(some), learner.together):
        for metric, found in learner.answers(parts, some[begin : begin + learner.together]).items():
            values[metric] += found
    if not some:
        values["loss"] = [float("inf")]  # no validation facts: the last step is no better than the first
    return [EditorScore(kind, metric, step, sum(v) / len(v), len(v)) for metric, v in values.items()]


# ---- stopping and going on ----


def _taken_up(learner: Learner, folder: Path | None, journal: Journal | None) -> Learnt:
    if folder is not None and journal is not None and journal.done:
        kept = store.load(folder / journal.done[-1]["kept"], Learnt)
        at = {name: part.device for name, part in learner.parts.items()}
        here = lambda some: {name: part.to(at[name]) for name, part in some.items()}  # noqa: E731
        return replace(
            kept, parts=here(kept.parts), moments=here(kept.moments), squares=here(kept.squares), best=here(kept.best)
        )
    start = {name: part.detach().clone() for name, part in learner.parts.items()}
    return Learnt(0, start, {}, {})


def _save(now: Learnt, folder: Path, journal: Journal) -> None:
    name = f"step-{now.step:06d}"
    store.save(now, folder / name)
    journal.add({"kept": name})
    for earlier in journal.done[:-1]:
        shutil.rmtree(folder / earlier["kept"], ignore_errors=True)
