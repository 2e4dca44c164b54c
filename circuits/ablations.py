"""What a cut edge carries instead of its writer's output: one function for each kind.

What is taken from a prompt of another length stands at the token of the same role (`circuits.task.places_of`).

The same ablation gives different circuits from another, so every result says which one it used. None of them touches
an attention's output bias, which belongs to no head and is always on; a head's share of its value bias and an MLP's
output bias are part of what they write, and go with them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.optimal import OptimalConfig, at_positions
from circuits.engine.optimal import optimal as optimal_constants
from circuits.engine.writes import writes
from circuits.graph import Graph
from circuits.task import ALIASES, AUTO, Task, places_of, rows
from factscope.errors import UserError
from factscope.model import metrics
from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt

Ablation = Callable[[Any, Graph, Task], Tensor]
_ABLATIONS: dict[str, Ablation] = {}
OPTIMAL = OptimalConfig()  # how optimal constants are learned


def ablation(function: Ablation) -> Ablation:
    """Register an ablation under its function's name."""
    _ABLATIONS[function.__name__] = function
    return function


def ablation_names() -> tuple[str, ...]:
    """All ablations, in the order of this file."""
    return tuple(_ABLATIONS)


def check_names(metric: str, ablation: str) -> None:
    """UserError for an unknown metric or ablation; needs no model, so it can come before the loading."""
    metrics.metric(ALIASES.get(metric, metric))
    if ablation != AUTO and ablation not in _ABLATIONS:
        raise UserError(f"there is no ablation {ablation!r}; choose one of {', '.join(_ABLATIONS)}")


def ablated(model: Bridge, graph: Graph, task: Task) -> Float[Tensor, "writer row pos d_model"]:
    """What each writer is replaced by under the task's ablation; rows and positions may be 1 where all are alike.

    Raises UserError for an unknown ablation, or one that lacks its corrupt or reference prompts.
    """
    if task.ablation == AUTO:
        raise UserError(f"the task leaves its ablation to the method; here one is needed: {', '.join(_ABLATIONS)}")
    check_names(task.metric, task.ablation)
    return _ABLATIONS[task.ablation](model, graph, task)


def settled(task: Task, prefers: str) -> tuple[Task, tuple[str, ...]]:
    """The task with its ablation decided, and what has to be said about it.

    Where the task leaves the ablation open, it is the counterfactual if the method prefers that and there are corrupt
    prompts; else edges are cut to zero. Commands and Python decide here, and nowhere else.
    """
    if task.ablation != AUTO:
        return task, ()
    if prefers == "counterfactual" and task.corrupt:
        return replace(task, ablation="counterfactual"), ()
    notes: tuple[str, ...] = ()
    if prefers == "counterfactual":
        notes = (
            f"edges are cut to zero, because no other subject is known that can stand for {task.prompts[0].subject!r} "
            "token for token; a scorer's circuits are better when another subject is named with --swap",
        )
    elif task.corrupt:
        notes = ("edges are cut to zero, and the other subject is not used; --ablation counterfactual uses it",)
    return replace(task, ablation="zero"), notes


def wants_twins(ablation: str, prefers: str) -> bool:
    """Whether another subject has to be looked for: the ablation needs corrupt prompts, or may come to need them."""
    return "counterfactual" in (ablation, prefers if ablation == AUTO else "")


def definition(name: str) -> str:
    """The ablation's definition in one line."""
    return (_ABLATIONS[name].__doc__ or "").strip().splitlines()[0]


@ablation
def zero(model: Bridge, graph: Graph, _: Task) -> Tensor:
    """Nothing: the writer is taken away (Knowledge Circuits' choice)."""
    shape = (len(graph.writers), 1, 1, int(model.cfg.d_model))
    weight: Tensor = model.unembed.original_component.weight
    return weight.new_zeros(shape)


@ablation
def mean(model: Bridge, graph: Graph, task: Task) -> Tensor:
    """The writer's average over the other reference prompts, each position (by its token's role) for itself."""
    reference = _reference(task)
    seen = _writes(model, graph, reference)
    means = []
    for prompt in task.prompts:
        others = [i for i, other in enumerate(reference) if other.tokens != prompt.tokens]
        means.append(torch.stack([seen[i][:, places_of(prompt, reference[i])] for i in others], 1).mean(1))
    return torch.stack(means, 1)


@ablation
def mean_overall(model: Bridge, graph: Graph, task: Task) -> Tensor:
    """The writer's average over the other reference prompts and positions; position 0, the sink, has its own."""
    seen = [
        writes(model, graph, rows(model, [prompt]))[:, 0] for prompt in _reference(task)
    ]  # they may be of any length
    first = _others(task, torch.stack([each[:, 0] for each in seen], 1))
    total = _others(task, torch.stack([each[:, 1:].sum(1) for each in seen], 1))
    count = _others(task, torch.tensor([[each.shape[1] - 1 for each in seen]]))
    if not all(int(number.sum()) for number in count):
        raise UserError("the reference prompts have one token each, and position 0 is left out of an overall mean")
    means = [
        torch.stack([one.mean(1), *[every.sum(1) / int(number.sum())] * (task.n_positions - 1)], 1)
        for one, every, number in zip(first, total, count, strict=True)
    ]
    return torch.stack(means, 1)


@ablation
def optimal(model: Bridge, graph: Graph, task: Task) -> Tensor:
    """The constant that moves the model's prediction least, learned on the reference prompts (Li & Janson 2024)."""
    found = optimal_constants(model, graph, _reference(task), OPTIMAL)
    return at_positions(found.values, task.n_positions)[:, None]


@ablation
def counterfactual(model: Bridge, graph: Graph, task: Task) -> Tensor:
    """What the writer gives on the corrupt prompt, which differs in its subject (interchange, "patching")."""
    if not task.corrupt:
        raise UserError("the counterfactual ablation needs a corrupt prompt: name another subject with --swap")
    pairs = zip(task.prompts, task.corrupt, _writes(model, graph, task.corrupt), strict=True)
    return torch.stack([seen[:, places_of(prompt, corrupt)] for prompt, corrupt, seen in pairs], 1)


def _writes(model: Bridge, graph: Graph, prompts: Sequence[Prompt]) -> list[Float[Tensor, "writer pos d_model"]]:
    """What every writer writes on each of the prompts; those of one length are run together."""
    found: dict[int, Tensor] = {}
    for length in sorted({len(prompt.tokens) for prompt in prompts}):
        places = [i for i, prompt in enumerate(prompts) if len(prompt.tokens) == length]
        seen = writes(model, graph, rows(model, [prompts[i] for i in places]))
        found |= {place: seen[:, row] for row, place in enumerate(places)}
    return [found[i] for i in range(len(prompts))]


def _reference(task: Task) -> tuple[Prompt, ...]:
    for prompt in task.prompts:
        others = sum(other.tokens != prompt.tokens for other in task.reference)
        if others < 2:
            raise UserError(
                f"a mean over {others} reference prompts other than {prompt.text!r} is none; give a relation of the "
                "fact files, so that its other subjects can be averaged over, or another --ablation"
            )
    return task.reference


def _others(task: Task, values: Tensor) -> list[Tensor]:
    """For each prompt, the values [writer, reference prompt, ...] of all reference prompts but itself.

    A prompt within its own mean would leave a part of its own state behind a cut edge.
    """
    return [values[:, [other.tokens != prompt.tokens for other in task.reference]] for prompt in task.prompts]
