"""FT-M: fine-tune one MLP matrix on the target, prompt masked (the survey's name; Zhang et al. 2024).

What it does: Adam on the down-projection of one layer, all facts in one batch, on

    loss = mean over facts of -(1/T) sum_t log p(target_t | prompt, target_<t)        each token after the true ones

until the loss is below `stop`. With `bound`, every entry stays within that distance of where it was (the ROME paper's
"FT+L" clamp). No context is sampled, nothing protects other facts; the published settings (Llama-2 layer 21, step
0.0005, no bound) come from a model fifty times the size. Layer and step here were tried on the default model: early
layers change the fact, later ones the wording (docs/editing.md).

The loop is `editing.solve.training`'s, as of all methods here.

When not to use it: it is a baseline. The change has full rank, so the saved edit is megabytes.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from editing.delta import Delta
from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.solve.training import Change, Parts, Training, train
from factscope.model.bridge import Bridge, device
from factscope.model.weights import MLP_OUT, WeightName, key_width


@dataclass(frozen=True)
class Config:
    """Steps, stop and Adam are EasyEdit's; layer and step size the best of seven pairs on 16 facts."""

    layer: int = 1  # paraphrase success .69, at layer 3 .62, 6 .56, 12 and 18 .31
    steps: int = 25
    learning_rate: float = 1e-3  # half of it leaves one fact in ten unlearned, a fifth of it three
    stop: float = 0.01  # nats
    bound: float | None = None  # L-infinity distance that no entry may leave

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """The same for every model; a model of one layer has no other."""
        return cls(layer=min(cls.layer, int(model.cfg.n_layers) - 1))


class Tuned(Protocol):
    """What `tune` reads of a configuration."""

    @property
    def layer(self) -> int:
        """Of the down-projection."""

    @property
    def steps(self) -> int:
        """At most."""

    @property
    def learning_rate(self) -> float:
        """Adam's."""

    @property
    def bound(self) -> float | None:
        """L-infinity distance that no entry may leave."""

    @property
    def stop(self) -> float:
        """The loss below which the training ends, nats."""


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Fine-tune on every target token at its own position."""
    return tune(inputs, config)[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """The same for every fact alone, all of them side by side."""
    return tune(inputs, config, apart=True)


def tune(inputs: MethodInputs, config: Tuned, apart: bool = False, **how: Any) -> list[MethodOutput]:
    """One whole matrix for all facts, or with `apart` one a fact; `how` are further fields of `Training`."""
    training = Training(config.steps, config.learning_rate, config.stop, **how)
    return train(inputs, training, lambda groups: Matrix(inputs.model, config.layer, len(groups), config.bound), apart)


class Matrix(Change):
    """One down-projection, every entry of it [group, d_in, d_out], from no change on."""

    def __init__(self, model: Bridge, layer: int, groups: int, bound: float | None) -> None:
        self.weights, self.bound = (WeightName(layer, MLP_OUT),), bound
        shape = groups, key_width(model, layer), model.cfg.d_model
        self.parts = {(self.weights[0], "change"): torch.zeros(shape, device=device(model))}

    def added(self, parts: Parts, weight: WeightName, read: Tensor) -> Tensor:
        """The change, applied to what is read."""
        return read @ parts[weight, "change"].to(read)

    def settled(self, parts: Parts, _: Parts, /) -> Parts:
        """Every entry within `bound`."""
        return parts if self.bound is None else {n: part.clamp(-self.bound, self.bound) for n, part in parts.items()}

    def output(self, group: int) -> MethodOutput:
        """The matrix, of full rank."""
        return MethodOutput(
            tuple(Delta(str(weight), part[group].cpu().clone()) for (weight, _), part in self.parts.items())
        )


METHOD = MethodSpec(
    "ft_m",
    "Adam on one matrix, every token of the target",
    Config,
    compute,
    compute_each,
    place="mlp",
    good_for="a baseline that learns nearly every fact alone",
    not_for="facts whose neighbours must stay: nothing protects them",
)
