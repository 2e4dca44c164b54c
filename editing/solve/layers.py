"""One fact set, several layers: find the values once, then let each layer write its share (Meng et al. 2023).

From the lowest layer up: read keys and what still lacks on the weights as they are now, take this layer's share of it,
solve, write, go on. Everything happens on borrowed weights, which are back bitwise at the end, also after an
interrupt; what comes out is the factors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from editing.delta import Delta
from editing.edit import Report, borrowed
from editing.requests import BARE, RequestPrompts
from editing.solve.closed_form import Solution
from editing.solve.values import Keys, Values, find_keys, read_subjects
from factscope.model.bridge import Bridge
from factscope.model.sites import Site
from factscope.model.weights import MLP_OUT, WeightName
from factscope.progress import progress

Rule = Callable[[int, Keys, Float[Tensor, "fact d_model"]], Solution]  # layer, keys, this layer's share of the residual


@dataclass(frozen=True, eq=False)
class LayerUpdates:
    """What each layer writes."""

    deltas: tuple[Delta, ...]
    reports: tuple[Report, ...]


def weight_name(layer: int) -> str:
    """TransformerLens's name of the down-projection."""
    return str(WeightName(layer, MLP_OUT))


def spread(
    model: Bridge,
    prompts: RequestPrompts,
    layers: Sequence[int],
    values: Values,
    rule: Rule,
    moment: Callable[[int], Tensor | None],
    *,
    kind: str = "resid",
    shown: bool | None = None,
) -> LayerUpdates:
    """Write `values`, found at the last layer's site of this kind: each layer in turn, its share of what lacks."""
    deltas, reports = [], []
    top, bare = Site(kind, layers[-1]), replace(prompts, contexts=BARE)
    names = [weight_name(layer) for layer in layers]
    with borrowed(model, names) as weights, progress("layers", len(layers), shown=shown) as advance:
        for number, layer in enumerate(layers):
            keys = find_keys(model, prompts, layer)
            now = read_subjects(model, bare, [top])[top][:, 0]
            lacking = (values.target - now) / (len(layers) - number)
            solution = rule(layer, keys, lacking)
            weight = weights[names[number]]
            before = weight.detach().double().cpu()
            delta = solution.delta(names[number])
            reports.append(solution.report(names[number], before, moment(layer)))
            weight.copy_((before + delta.dense()).to(weight))
            deltas.append(delta)
            advance(1)
        reached = read_subjects(model, bare, [top])[top][:, 0]
    gap = float((values.target - reached).norm() / values.delta.norm().clamp_min(1e-12))
    said = f"of the way to the values, {1 - gap:.0%} was gone at the bare prompts"
    reports[-1] = replace(reports[-1], note="; ".join(filter(None, (reports[-1].note, said))))
    return LayerUpdates(tuple(deltas), tuple(reports))
