"""One fact set, several layers: find the values once, then let each layer write its share (Meng et al. 2023).

From the lowest layer up: read keys and what still lacks on the weights as they are now, take this layer's share of it,
solve, write, go on. Everything happens on borrowed weights, which are back bitwise at the end, also after an
interrupt; what comes out is the factors.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from editing.delta import Delta
from editing.edit import Report
from editing.method import MethodInputs, MethodOutput
from editing.requests import BARE
from editing.solve.closed_form import Solution
from editing.solve.values import Descent, Keys, read_subjects
from editing.weights.lent import borrowed
from factscope.model.bridge import Bridge, info
from factscope.model.sites import Site
from factscope.model.weights import down_projection
from factscope.progress import progress

Rule = Callable[[int, Keys, Float[Tensor, "fact d_model"]], Solution]  # layer, keys, this layer's share of the residual


@dataclass(frozen=True)
class SpreadConfig:
    """What all methods that spread values over layers are told. Contexts are MEMIT's authors', the rest is ours."""

    layers: tuple[int, ...] = (4, 5, 6, 7, 8)  # set by for_model; the values are found at the last
    contexts: int = 5  # sampled ones beside the bare prompt
    context_length: int = 10  # tokens
    descent: Descent = field(default_factory=Descent)

    @classmethod
    def for_model(cls, model: Bridge) -> "SpreadConfig":
        """With the layers that the registry recommends for this model."""
        return cls(layers=info(model).edit_layers)


class WithLayers(Protocol):
    """What `spread` reads of a configuration."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Where values are written; they are found at the last."""


def spread(inputs: MethodInputs, config: WithLayers, rule: Rule, *, kind: str = "resid") -> MethodOutput:
    """Find values at the last layer's site of this kind, on the model as it is, and write them layer after layer.

    `rule` solves for each layer's share of what still lacks.
    """
    values, layers = inputs.values(config), config.layers
    model, prompts, top = inputs.model, inputs.prompts, Site(kind, layers[-1])
    deltas, reports = list[Delta](), list[Report]()
    names = [down_projection(layer) for layer in layers]
    with borrowed(model, names) as weights, progress("layers", len(layers), shown=inputs.shown) as advance:
        for number, layer in enumerate(layers):
            read = Site("mlp_hidden", layer)
            seen = read_subjects(model, prompts, (read, top))  # one pass for both: the first context is the bare prompt
            lacking = (values.target - seen[top][:, 0]) / (len(layers) - number)
            solution = rule(layer, Keys(seen[read]), lacking)
            weight = weights[names[number]]
            before = weight.detach().double().cpu()
            delta = solution.delta(names[number])
            reports.append(inputs.report(solution, layer, before))
            weight.copy_((before + delta.dense()).to(weight))
            deltas.append(delta)
            advance(1)
        reached = read_subjects(model, replace(prompts, contexts=BARE), [top])[top][:, 0]
    gap = float((values.target - reached).norm() / values.delta.norm().clamp_min(1e-12))
    said = f"of the way to the values, {1 - gap:.0%} was gone at the bare prompts"
    reports[-1] = replace(reports[-1], note="; ".join(filter(None, (reports[-1].note, said))))
    return MethodOutput(tuple(deltas), tuple(reports), values.losses, values.said(inputs.requests))
