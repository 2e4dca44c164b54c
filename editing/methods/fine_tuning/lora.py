"""LoRA: fine-tune two thin factors instead of a matrix (Hu et al. 2021), as an editor of facts (EasyEdit's LoRA).

What it does: in each of the layers, each of `matrices` W (by default the down-projection alone) becomes

    W + s A B        A [d_in rank] drawn as torch draws a linear layer, B [rank d_out] zero, s = alpha / rank

and Adam moves A and B, all facts in one batch, on FT-M's loss until it is below `stop`. At the start B is zero, so
nothing is changed before the first step. A B is never formed: the saved edit is the two factors, and whatever works on
an edit of low rank works on it (stacks, spectra, restraints, nulls, `edit export --peft`).

`--set matrices=W_Q,W_V` adapts queries and values, as EasyEdit does (in all layers); of attention, a matrix has the
columns of all heads side by side, and under grouped queries W_K and W_V have those of the key and value heads.

Scope: layers whose MLP has one down-projection, whatever is adapted there. No dropout, and the change is one edit's
own: EasyEdit trains the same adapter further with each edit.

When not to use it: as any fine-tuning it protects no other fact; a closed form keeps neighbours better.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from editing.delta import Delta
from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.solve.training import Change, Parts, Training, train
from editing.weights.chosen import projections
from factscope.errors import EditError
from factscope.model.bridge import Bridge, device
from factscope.model.weights import WeightName


@dataclass(frozen=True)
class Config:
    """Rank, alpha, steps and step size are EasyEdit's; layer and stop are FT-M's, and no other setting was tried yet.

    Eight known CounterFact facts of the default model, edited alone (reliability, PS, next token unchanged, NS, and
    locality KL in nats): these settings 1.00, .75, .88, .75, .77; FT-M at its own 1.00, .75, .88, .88, .49.
    """

    layers: tuple[int, ...] = (1,)
    matrices: tuple[str, ...] = ("W_out",)  # of W_Q, W_K, W_V, W_O, W_gate, W_in, W_out
    rank: int = 8
    alpha: float = 32.0
    steps: int = 30
    learning_rate: float = 5e-3
    stop: float = 0.01  # nats

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise EditError(f"rank {self.rank} and alpha {self.alpha:g} leave nothing to learn: both must be above 0")

    @classmethod
    def for_model(cls, model: Bridge) -> Self:
        """The same for every model; of the layers those that there are, or the last."""
        last = int(model.cfg.n_layers) - 1
        return cls(layers=tuple(layer for layer in cls.layers if layer <= last) or (last,))


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Train the factors on all facts."""
    return _train(inputs, config, apart=False)[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """Factors for every fact alone, all of them side by side."""
    return _train(inputs, config, apart=True)


def _train(inputs: MethodInputs, config: Config, apart: bool) -> list[MethodOutput]:
    adapted(inputs.model, config, config.rank)
    how = Training(config.steps, config.learning_rate, config.stop)
    return train(inputs, how, lambda groups: Factors(inputs.model, config, len(groups), inputs.seed), apart)


def adapted(model: Bridge, config: Config, rank: int) -> dict[WeightName, tuple[int, int]]:
    """The matrices that learn, with their shapes; EditError for factors that are no thinner than one of them."""
    found = projections(model, config.layers, config.matrices)
    for weight, shape in found.items():
        if rank > min(shape):
            raise EditError(f"rank {rank} is more than {weight}, a matrix of {shape[0]} by {shape[1]}, can have")
    return found


class Factors(Change):
    """A [group d_in rank] and B [group rank d_out] of each matrix; each group begins with the same A."""

    def __init__(self, model: Bridge, config: Config, groups: int, seed: int) -> None:
        shapes, self.scale = adapted(model, config, config.rank), config.alpha / config.rank
        generator, here = torch.Generator().manual_seed(seed), device(model)
        self.weights, self.parts = tuple(shapes), {}
        for weight, (d_in, d_out) in shapes.items():
            left = (2 * torch.rand(d_in, config.rank, generator=generator) - 1) / d_in**0.5
            self.parts[weight, "A"] = left.expand(groups, -1, -1).to(here)
            self.parts[weight, "B"] = torch.zeros(groups, config.rank, d_out, device=here)

    def added(self, parts: Parts, weight: WeightName, read: Tensor) -> Tensor:
        """One thin product after the other."""
        return self.scale * ((read @ parts[weight, "A"].to(read)) @ parts[weight, "B"].to(read))

    def output(self, group: int) -> MethodOutput:
        """s A and B of each matrix."""
        return MethodOutput(
            tuple(
                Delta(
                    str(weight),
                    self.parts[weight, "B"][group].cpu().clone(),
                    (self.scale * self.parts[weight, "A"][group]).cpu(),
                )
                for weight in self.weights
            )
        )


METHOD = MethodSpec(
    "lora",
    "two thin factors instead of a matrix, of MLPs or of attention (matrices=W_Q,W_V)",
    Config,
    compute,
    compute_each,
    place="mlp",
    good_for="small saved edits, and adapters that PEFT loads",
    not_for="facts whose neighbours must stay: a closed form keeps them better",
)
