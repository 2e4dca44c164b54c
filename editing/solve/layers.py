"""One fact set, several layers: find the values once, then let each layer write its share (Meng et al. 2023).

From the lowest layer up: read keys and what still lacks on the weights as they are now, take this layer's share of it,
solve, write, go on. Everything happens on borrowed weights, which are back bitwise at the end, also after an
interrupt; what comes out is the factors.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from editing.delta import Delta
from editing.edit import Report
from editing.requests import BARE, RequestPrompts
from editing.solve.closed_form import Solution
from editing.solve.values import Descent, Keys, Values, read_subjects
from editing.weights.lent import borrowed
from factscope.errors import EditError
from factscope.model.bridge import Bridge, architecture, info
from factscope.model.sites import Site
from factscope.model.weights import MLP_OUT, PROJECTIONS, WeightName, as_matrix, live_weights
from factscope.progress import progress

Rule = Callable[[int, Keys, Float[Tensor, "fact d_model"]], Solution]  # layer, keys, this layer's share of the residual


@dataclass(frozen=True)
class SpreadConfig:
    """What all methods that spread values over layers are told. Contexts are MEMIT's authors', the rest is ours."""

    layers: tuple[int, ...] = (4, 5, 6, 7, 8)  # set by for_model; the values are found at the last
    ridge: float = 0.1  # what a fact alone leaves of its gap in each layer is ridge / (1 + ridge)
    contexts: int = 5  # sampled ones beside the bare prompt
    context_length: int = 10  # tokens
    descent: Descent = field(default_factory=Descent)

    @classmethod
    def for_model(cls, model: Bridge) -> "SpreadConfig":
        """With the layers that the registry recommends for this model."""
        return cls(layers=info(model).edit_layers)


@dataclass(frozen=True, eq=False)
class LayerUpdates:
    """What each layer writes."""

    deltas: tuple[Delta, ...]
    reports: tuple[Report, ...]


def weight_name(layer: int) -> str:
    """TransformerLens's name of the down-projection."""
    return str(WeightName(layer, MLP_OUT))


def projections(
    model: Bridge, layers: Sequence[int], names: Sequence[str], among: Collection[str] = PROJECTIONS
) -> dict[WeightName, tuple[int, int]]:
    """These matrices of these layers and the shape [d_in, d_out] of each, the lowest layer first.

    `names` are TransformerLens's without the part of the block, "W_Q". Raises EditError for a name that is not of
    `among`, and for a matrix that the model does not have by itself, or whose output it does not show.
    """
    parts = {part.partition(".")[2]: part for part in among}
    unknown = [name for name in names if name not in parts]
    if unknown or not names:
        said = f"there is no matrix {unknown[0]!r}" if unknown else "no matrix is named"
        raise EditError(f"{said}: give some of {', '.join(parts)} with --set matrices=...")
    weights, found = live_weights(model), {}
    for layer in sorted(set(layers)):
        for name in dict.fromkeys(names):
            weight = WeightName(layer, parts[name])
            matrix = as_matrix(str(weight), weights[str(weight)]) if str(weight) in weights else None
            if matrix is None or matrix.ndim != 2:
                raise EditError(
                    f"this model ({architecture(model)}) has no {weight} as a matrix of its own; give others with "
                    f"--set matrices=..., of {', '.join(parts)}"
                )
            found[weight] = (matrix.shape[0], matrix.shape[1])
    return found


def spread(
    model: Bridge,
    prompts: RequestPrompts,
    layers: Sequence[int],
    values: Values,
    rule: Rule,
    report: Callable[[Solution, int, Tensor], Report],
    *,
    kind: str = "resid",
    shown: bool | None = None,
) -> LayerUpdates:
    """Write `values`, found at the last layer's site of this kind: each layer in turn, its share of what lacks.

    `report` says what a solution does at a layer, given its weight before (`MethodInputs.report`).
    """
    deltas, reports = [], []
    top, bare = Site(kind, layers[-1]), replace(prompts, contexts=BARE)
    names = [weight_name(layer) for layer in layers]
    with borrowed(model, names) as weights, progress("layers", len(layers), shown=shown) as advance:
        for number, layer in enumerate(layers):
            read = Site("mlp_hidden", layer)
            seen = read_subjects(model, prompts, (read, top))  # one pass for both: the first context is the bare prompt
            lacking = (values.target - seen[top][:, 0]) / (len(layers) - number)
            solution = rule(layer, Keys(seen[read]), lacking)
            weight = weights[names[number]]
            before = weight.detach().double().cpu()
            delta = solution.delta(names[number])
            reports.append(report(solution, layer, before))
            weight.copy_((before + delta.dense()).to(weight))
            deltas.append(delta)
            advance(1)
        reached = read_subjects(model, bare, [top])[top][:, 0]
    gap = float((values.target - reached).norm() / values.delta.norm().clamp_min(1e-12))
    said = f"of the way to the values, {1 - gap:.0%} was gone at the bare prompts"
    reports[-1] = replace(reports[-1], note="; ".join(filter(None, (reports[-1].note, said))))
    return LayerUpdates(tuple(deltas), tuple(reports))
