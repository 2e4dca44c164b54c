"""LoRA: fine-tune two thin factors instead of a matrix (Hu et al. 2021), as an editor of facts (EasyEdit's LoRA).

What it does: in each of the layers, the down-projection W becomes

    W + s A B        A [d_in rank] drawn as torch draws a linear layer, B [rank d_out] zero, s = alpha / rank

and Adam moves A and B, all facts in one batch, on FT-M's loss until it is below `stop`. At the start B is zero, so
nothing is changed before the first step. A B is never formed: the saved edit is the two factors, and whatever works on
an edit of low rank works on it (stacks, spectra, restraints, nulls, `edit export --peft`).

Scope: down-projections alone, where EasyEdit adapts queries and values. No dropout, and the change is one edit's own:
EasyEdit trains the same adapter further with each edit.

When not to use it: as any fine-tuning it protects no other fact; a closed form keeps neighbours better.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from editing.delta import Delta
from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.solve.layers import weight_name
from editing.solve.training import Change, Parts, Training, train
from factscope.errors import EditError
from factscope.model.bridge import Bridge, device
from factscope.model.weights import key_width


@dataclass(frozen=True)
class Config:
    """Rank, alpha, steps and step size are EasyEdit's; layer and stop are FT-M's, and no other setting was tried yet.

    Eight known CounterFact facts of the default model, edited alone (reliability, PS, next token unchanged, NS, and
    locality KL in nats): these settings 1.00, .75, .88, .75, .77; FT-M at its own 1.00, .75, .88, .88, .49.
    """

    layers: tuple[int, ...] = (1,)
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
    check_rank(inputs.model, config.layers, config.rank)
    how = Training(config.steps, config.learning_rate, config.stop)
    return train(inputs, how, lambda groups: Factors(inputs.model, config, groups, inputs.seed), apart)


def check_rank(model: Bridge, layers: tuple[int, ...], rank: int) -> None:
    """EditError for factors that are no thinner than one of the matrices."""
    for layer in layers:
        shape = key_width(model, layer), int(model.cfg.d_model)
        if rank > min(shape):
            raise EditError(f"rank {rank} is more than a matrix of {shape[0]} by {shape[1]} (layer {layer}) can have")


class Factors(Change):
    """A [group d_in rank] and B [group rank d_out] of each layer; each group begins with the same A."""

    def __init__(self, model: Bridge, config: Config, groups: int, seed: int) -> None:
        self.layers, self.scale = tuple(sorted(config.layers)), config.alpha / config.rank
        generator, here = torch.Generator().manual_seed(seed), device(model)
        self.parts = {}
        for layer in self.layers:
            width = key_width(model, layer)
            left = (2 * torch.rand(width, config.rank, generator=generator) - 1) / width**0.5
            self.parts[layer, "A"] = left.expand(groups, -1, -1).to(here)
            self.parts[layer, "B"] = torch.zeros(groups, config.rank, model.cfg.d_model, device=here)

    def added(self, parts: Parts, layer: int, read: Tensor) -> Tensor:
        """One thin product after the other."""
        return self.scale * ((read @ parts[layer, "A"].to(read)) @ parts[layer, "B"].to(read))

    def deltas(self, group: int) -> tuple[Delta, ...]:
        """s A and B of each layer."""
        return tuple(
            Delta(
                weight_name(layer),
                self.parts[layer, "B"][group].cpu().clone(),
                (self.scale * self.parts[layer, "A"][group]).cpu(),
            )
            for layer in self.layers
        )


METHOD = MethodSpec(
    "lora",
    "fine-tune two thin factors of MLP matrices on the whole target",
    Config,
    compute,
    compute_each,
    place="mlp",
)
