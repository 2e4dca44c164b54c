"""Run and score circuits by roles: one plain engine for each length of prompts, and roles turned into positions.

The plain engine (`circuits/engine/reference.py`) takes masks of positions. Here the prompts of a task are grouped by
their length, each group has an engine of its own, and a role's edge stands at the tokens that have the role.

Where edges are between pairs of roles, a key or value that hears one thing as the subject reads it and another as the
last token does is computed for both. The plain engine then runs all rows once for each way of attending; roles that
hear alike share a run, so that a circuit costs from one to as many passes as there are roles, and scores as many.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.by_role.graph import RoleGraph
from circuits.engine.reference import Reference
from circuits.engine.writes import Mask
from circuits.scorers.eap import Attribution
from circuits.task import Task
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt


class RoleReference:
    """Evaluates any set of edges at roles, on prompts of any length."""

    def __init__(self, model: Bridge, graph: RoleGraph, tasks: Sequence[Task]) -> None:
        """Engines for tasks of one length each. UserError for tasks that do not measure and ablate alike."""
        if not tasks:
            raise UserError("a circuit by roles is found for at least one prompt, and there is none")
        if len({(task.metric, task.ablation) for task in tasks}) > 1:
            raise UserError("the prompts of a circuit by roles are measured by one metric and ablated in one way")
        self.model, self.graph, self.tasks = model, graph, tuple(tasks)
        self.engines = tuple(Reference(model, graph.plain, task) for task in tasks)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts, in the order of the tasks."""
        return tuple(prompt for task in self.tasks for prompt in task.prompts)

    def logits(self, kept: Mask) -> list[Float[Tensor, "row vocab"]]:
        """Logits at the last position with only the kept edges, for each task."""
        return [
            engine.logits(where.kept, where.taken if self.graph.pairs else None)
            for engine, task in zip(self.engines, self.tasks, strict=True)
            for where in (self.graph.located(kept, task.prompts),)
        ]

    def loss(self, kept: Mask) -> float:
        """The mean over all prompts of the task's loss with only the kept edges."""
        return self.loss_of(self.logits(kept))

    def loss_of(self, logits: Sequence[Tensor]) -> float:
        """The mean loss of the tasks' logits over all prompts."""
        each = [float(e.objective.losses(own[None])[0]) for e, own in zip(self.engines, logits, strict=True)]
        return float(np.average(each, weights=[len(task.prompts) for task in self.tasks]))

    def ranks(self, kept: Mask) -> tuple[int, ...]:
        """Rank of each prompt's answer, 1 for the most probable, with only the kept edges."""
        return self.ranks_of(self.logits(kept))

    def clean_ranks(self) -> tuple[int, ...]:
        """Rank of each prompt's answer in the full model."""
        return self.ranks_of([engine.objective.clean for engine in self.engines])

    def ranks_of(self, logits: Sequence[Tensor]) -> tuple[int, ...]:
        """Rank of each prompt's answer in the tasks' logits."""
        each = (e.objective.ranks(own) for e, own in zip(self.engines, logits, strict=True))
        return tuple(rank for ranks in each for rank in ranks)

    def example_scores(self, scorer: Attribution) -> Float[Tensor, "example writer reader place"]:
        """Each prompt's own scores of all edges, in the loss's unit: the plain ones, with their positions apart.

        Zero where there is no edge or the prompt has no token of the role.
        """
        found = []
        for engine in self.engines:
            for part in self._one_by_one(engine) if self.graph.pairs else [engine]:
                (clean, gradient), prompts = scorer.run(part), part.task.prompts
                gradient = gradient * len(prompts)  # a row's own, not its share of the mean
                change = part.replacement - clean
                for row, prompt in enumerate(prompts):
                    found.append(self._by_place(change[:, row], gradient[..., row, :, :], prompt))
        return torch.stack(found)

    def _one_by_one(self, engine: Reference) -> Iterator[Reference]:
        """An engine for each prompt, with the roles as kinds of attending tokens: their gradients take much memory."""
        task, replaced = engine.task, engine.replacement
        for row, prompt in enumerate(task.prompts):
            alone = replace(task, prompts=(prompt,), corrupt=task.corrupt[row : row + 1])
            own = replaced[:, row : row + 1] if replaced.shape[1] > 1 else replaced
            attending = torch.from_numpy(self.graph.roles_in(prompt))[None].to(own.device)
            yield Reference(self.model, self.graph.plain, alone, own, attending)

    def _by_place(self, change: Tensor, gradient: Tensor, prompt: Prompt) -> Tensor:
        """One prompt's scores [writer, reader, place], of [writer, pos, d_model] and [reader, (role), pos, d_model]."""
        graph = self.graph
        scores = torch.zeros(graph.allowed.shape)
        roles = graph.roles_in(prompt)
        whole = gradient if not graph.pairs else gradient.sum(1)
        for number, place in enumerate(graph.places):
            at = torch.from_numpy(np.flatnonzero(roles == place.role)).to(change.device)
            if not len(at) or (place.attending is not None and place.attending not in roles):
                continue
            moved, back = change[:, at].double().flatten(1), whole[:, at].double().flatten(1)
            scores[:, :, number] = (moved @ back.T).float().cpu()
            if place.attending is not None:
                carried = torch.from_numpy(graph.carrying).to(change.device)
                back = gradient[carried, place.attending][:, at].double().flatten(1)
                scores[:, graph.carrying, number] = (moved @ back.T).float().cpu()
        return scores * torch.from_numpy(graph.allowed)


@dataclass(frozen=True)
class Lengths:
    """Prompts of any length as tasks of one length each."""

    prompts: tuple[Prompt, ...]
    metric: str
    ablation: str
    corrupt: tuple[Prompt, ...] = ()
    reference: tuple[Prompt, ...] = ()

    def tasks(self) -> tuple[Task, ...]:
        """One task for each length, the shortest first; what is cut is ablated by token role, as in any task."""
        found = []
        for length in sorted({len(prompt.tokens) for prompt in self.prompts}):
            which = [i for i, prompt in enumerate(self.prompts) if len(prompt.tokens) == length]
            own = tuple(self.prompts[i] for i in which)
            corrupt = tuple(self.corrupt[i] for i in which) if self.corrupt else ()
            found.append(Task(own, self.metric, self.ablation, corrupt, self.reference))
        return tuple(found)
