"""AdaLoRA: LoRA whose rank goes where it matters (Zhang et al. 2023), as an editor of facts (EasyEdit's default LoRA).

What it does: in each of the layers, each of `matrices` W (by default the down-projection alone) becomes

    W + s P diag(l) Q        P [d_in r], l [r], Q [r d_out];  l zero at the start, P and Q small and random

and Adam moves all three on FT-M's loss plus `orthogonality` times the mean, over all P and Q, of ||P'P - I|| (or
||Q Q' - I||), Frobenius, so that l comes to be singular values. The triplets (P_i, l_i, Q_i) of all layers compete:
after each step those with the least importance get l_i = 0, and as many stay as the budget allows. It falls from
`start_rank` a layer to `rank` a layer, by the cube of what is left of `allocate` steps. Importance of a number w is

    U1 := beta U1 + (1 - beta) |w g|     U2 := beta U2 + (1 - beta) ||w g| - U1|     U1 U2

and of a triplet that of l_i, plus the mean of that of P_i, plus the mean of that of Q_i. A triplet at zero keeps
learning and may come back while the budget falls. "A layer" is a matrix here, where several of a layer are adapted.

Scope: as LoRA. EasyEdit's AdaLoRA never lets PEFT allocate, so its ranks stay at PEFT's start rank of 12: that is
`--set rank=12`. The training cannot end before the ranks are allocated.

When not to use it: with one layer there is little to allocate, and LoRA does the same with less.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from editing.delta import Delta
from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.methods.fine_tuning import lora
from editing.solve.training import Change, Parts, Training, train
from factscope.errors import EditError
from factscope.model.bridge import Bridge, device
from factscope.model.weights import WeightName


@dataclass(frozen=True)
class Config(lora.Config):
    """Ranks, beta and orthogonality are PEFT's (EasyEdit's rank 8 is ignored there), step size EasyEdit's.

    Swept by `python benchmarks/editor_defaults.py adalora`, eight known CounterFact facts of the default model, edited
    alone (ES, PS, generality, next token unchanged at neighbours, KL there in nats): EasyEdit's alpha of 32 .88, .38,
    .12, .81, .18; with four times its step size 1.00, .38, .12, .94, .39; alpha 128 1.00, .88, .25, .94, .31. Layer,
    steps and `allocate` were not swept.
    """

    alpha: float = 128.0
    start_rank: int = 12
    allocate: int = 15  # steps in which the ranks fall from `start_rank` to `rank`
    orthogonality: float = 0.5
    beta: float = 0.85

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start_rank < self.rank:
            raise EditError(f"ranks cannot fall from {self.start_rank} to {self.rank}: give a larger start_rank")


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Train the triplets on all facts."""
    return _train(inputs, config, apart=False)[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """Triplets for every fact alone, all of them side by side."""
    return _train(inputs, config, apart=True)


def _train(inputs: MethodInputs, config: Config, apart: bool) -> list[MethodOutput]:
    lora.adapted(inputs.model, config, config.start_rank)
    how = Training(config.steps, config.learning_rate, config.stop)
    return train(inputs, how, lambda groups: Triplets(inputs.model, config, len(groups), inputs.seed), apart)


class Triplets(Change):
    """P [group d_in r], l [group r] and Q [group r d_out] of each matrix; each group begins with the same P and Q."""

    def __init__(self, model: Bridge, config: Config, groups: int, seed: int) -> None:
        found = lora.adapted(model, config, config.start_rank)
        self.config, self.weights, self.steps = config, tuple(found), 0
        self.allocate = max(1, min(config.allocate, config.steps))
        self.scale = config.alpha / config.start_rank
        generator, here = torch.Generator().manual_seed(seed), device(model)
        self.parts = {}
        for weight, (d_in, d_out) in found.items():
            for name, shape in {"P": (d_in, config.start_rank), "Q": (config.start_rank, d_out)}.items():
                drawn = 0.02 * torch.randn(*shape, generator=generator)
                self.parts[weight, name] = drawn.expand(groups, -1, -1).to(here)
            self.parts[weight, "l"] = torch.zeros(groups, config.start_rank, device=here)
        self.mean = {name: torch.zeros_like(part) for name, part in self.parts.items()}
        self.spread = {name: torch.zeros_like(part) for name, part in self.parts.items()}

    def added(self, parts: Parts, weight: WeightName, read: Tensor) -> Tensor:
        """One thin product after the other."""
        left, size, right = (parts[weight, name].to(read) for name in "PlQ")
        return self.scale * (((read @ left) * size[:, None]) @ right)

    def penalty(self, parts: Parts, /) -> Tensor:
        """How far P and Q are from orthonormal."""
        off = []
        for weight in self.weights:
            left, right = parts[weight, "P"], parts[weight, "Q"]
            one = torch.eye(left.shape[-1], device=left.device)
            off += [torch.linalg.matrix_norm(left.mT @ left - one), torch.linalg.matrix_norm(right @ right.mT - one)]
        return self.config.orthogonality * torch.stack(off).mean(0)

    def settled(self, parts: Parts, gradients: Parts, /) -> Parts:
        """The least important triplets at zero, as many as the budget says."""
        self.steps += 1
        beta, worth = self.config.beta, {}
        for name, part in self.parts.items():  # as they were when the gradients were taken
            sensitive = (part * gradients[name]).abs()
            self.mean[name] = beta * self.mean[name] + (1 - beta) * sensitive
            self.spread[name] = beta * self.spread[name] + (1 - beta) * (sensitive - self.mean[name]).abs()
            worth[name] = self.mean[name] * self.spread[name]
        triplets = torch.cat(
            [worth[one, "l"] + worth[one, "P"].mean(1) + worth[one, "Q"].mean(2) for one in self.weights], 1
        )
        kept = torch.zeros_like(triplets).scatter(1, triplets.topk(self.budget(), dim=1).indices, 1.0)
        masks = kept.split(self.config.start_rank, dim=1)
        held = {(one, "l"): parts[one, "l"] * mask for one, mask in zip(self.weights, masks, strict=True)}
        return parts | held

    def budget(self) -> int:
        """How many triplets stay after this step, of all matrices together."""
        first, last = (rank * len(self.weights) for rank in (self.config.start_rank, self.config.rank))
        left = max(0.0, 1 - self.steps / self.allocate)
        return last + int((first - last) * left**3)

    def may_end(self) -> bool:
        """Once the ranks are allocated."""
        return self.steps >= self.allocate

    def output(self, group: int) -> MethodOutput:
        """s P diag(l) and Q of each matrix, for the triplets that are left; one that has none is not changed."""
        out = []
        for weight in self.weights:
            left, size, right = (self.parts[weight, name][group].cpu() for name in "PlQ")
            on = size != 0
            if bool(on.any()):
                out.append(Delta(str(weight), right[on], self.scale * left[:, on] * size[on]))
        return MethodOutput(tuple(out))


METHOD = MethodSpec(
    "adalora",
    "LoRA whose rank goes where it matters",
    Config,
    compute,
    compute_each,
    place="mlp",
    good_for="several layers or matrices that share one budget of rank",
    not_for="one layer, where LoRA does the same with less",
)
