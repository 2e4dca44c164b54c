"""CrispEdit: fine-tune one MLP matrix in the directions along which ordinary text loses little (arXiv 2602.15823).

What it does: FT-M, with the change held after every step to the directions of low curvature

    D := P(D - rate * Adam's direction)        P(D) = U_a ((U_a' D U_b) * [a_i b_j < theta]) U_b'

a, U_a and b, U_b are the eigenvalues and eigenvectors of what the matrix reads and of the slopes of ordinary text by
what it writes (`editing.solve.curvature`); theta is the steepness at which the steepest directions together carry
`energy` of all. So P(D) = D, and the loss of ordinary text rises to second order by at most theta ||D||^2 / 2. Of edits
by this method that are in place, what they read and their slopes count among the text's, token for token.

Differs from the authors' code: there the gradient is projected before Adam, whose division by the root of the mean
square leaves the subspace again.

When not to use it: without second moments; for many facts in one edit, half of which are lost, since the steep
directions are those that change answers fastest.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.edit import in_place, remembered
from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.methods.fine_tuning import ft_m
from editing.solve.curvature import Flat, slopes_of_text
from editing.solve.training import Parts, Training, train
from editing.trained.factors import answer_gradients, of_sums
from editing.weights.lent import borrowed
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.bridge import Bridge, device
from factscope.model.weights import MLP_OUT, WeightName


@dataclass(frozen=True)
class Config(ft_m.Config):
    """FT-M's, and how much of the steepness is out of bounds: the authors' is .99, of a model fifty times the size.

    Swept on the default model (`python benchmarks/editor_defaults.py crispedit --limit 40`, known CounterFact facts,
    each alone; reliability, PS, NS, and KL in nats where nothing should change): 0.9 1, .85, .65, .90; 0.95 .98, .83,
    .68, .59; 0.99 .85, .68, .78, .28. The harmonic mean of ES, PS and NS is highest at 0.95.
    """

    energy: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.energy < 1:
            raise EditError(
                f"energy is {self.energy:g}, and must be between 0, where all may move, and 1, where none may"
            )


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Fine-tune on all facts, held to what lies flat."""
    return _tuned(inputs, config)[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """The same for every fact alone, all of them side by side."""
    return _tuned(inputs, config, apart=True)


def _tuned(inputs: MethodInputs, config: Config, apart: bool = False) -> list[MethodOutput]:
    if inputs.moments is None:
        raise EditError("crispedit moves where ordinary text is flat, so it needs moments, not the identity")
    layer, how = config.layer, Training(config.steps, config.learning_rate, config.stop)
    flat, note = _flat(inputs, config)
    made = train(inputs, how, lambda groups: FlatMatrix(inputs.model, config, len(groups), flat), apart)
    outputs = []
    for number, output in enumerate(made):
        own = (inputs.requests[number],) if apart else inputs.requests
        reads, slopes = _of_facts(inputs, own, layer, output.deltas[0].dense(torch.float32))
        memory = {_memory(layer, "reads"): reads, _memory(layer, "slopes"): slopes}
        outputs.append(replace(output, notes=(note,), memory=memory))
    return outputs


def _flat(inputs: MethodInputs, config: Config) -> tuple[Flat, str]:
    """What lies flat for the text and for earlier edits of this method, and a note on how much that is."""
    assert inputs.moments is not None
    layer, here = config.layer, in_place(inputs.model)
    text = slopes_of_text(inputs.model, layer, inputs.moments, inputs.shown)
    a = _joined(inputs.moments.of(layer), inputs.moments.tokens, remembered(here, _memory(layer, "reads")))
    b = _joined(text.matrix.double(), text.tokens, remembered(here, _memory(layer, "slopes")))
    flat = Flat(a, b, config.energy)
    return flat.to(device(inputs.model)), f"layer {layer}: {float(flat.kept.mean()):.1%} of all directions lie flat"


def _joined(matrix: Tensor, tokens: int, rows: Tensor | None) -> Tensor:
    """A second moment over the tokens of the text and these rows."""
    if rows is None:
        return matrix
    own = rows.double()
    return (matrix * tokens + own.T @ own) / (tokens + len(own))


class FlatMatrix(ft_m.Matrix):
    """One down-projection, held to what lies flat."""

    def __init__(self, model: Bridge, config: Config, groups: int, flat: Flat) -> None:
        super().__init__(model, config.layer, groups, config.bound)
        self.flat = flat

    def settled(self, parts: Parts, gradients: Parts, /) -> Parts:
        """Every entry within `bound`, then the flat part."""
        return {name: self.flat(part) for name, part in super().settled(parts, gradients).items()}


def _of_facts(
    inputs: MethodInputs, requests: tuple[EditRequest, ...], layer: int, change: Tensor
) -> tuple[Tensor, Tensor]:
    """What the changed matrix reads at each target token of these facts, and their loss's slope by what it writes."""
    name = WeightName(layer, MLP_OUT)
    with borrowed(inputs.model, [str(name)]) as weights:
        weights[str(name)].add_(change.to(weights[str(name)]))
        owner, found = answer_gradients(replace(inputs, requests=requests, on_step=None), (name,))
    return found.read[name].cpu(), of_sums(found, owner).slope[name].cpu()


def _memory(layer: int, what: str) -> str:
    """The name under which an edit's own reads and slopes are remembered."""
    return f"crispedit.{layer}.{what}"


METHOD = MethodSpec(
    "crispedit",
    "FT-M held to the directions in which ordinary text has little curvature",
    Config,
    compute,
    compute_each,
    place="mlp",
    needs_moments=True,
    good_for="fine-tuning that moves neighbours less",
    not_for="many facts in one edit, half of which are lost: the steep directions change answers fastest",
    needs="slopes of the moments' text",
)
