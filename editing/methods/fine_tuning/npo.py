"""NPO: unlearn the old answer by negative preference optimisation on one MLP matrix (Zhang et al. 2024).

What it does: Adam on the down-projection of one layer, all facts in one batch, on

    loss = mean over facts of (2 / beta) log(1 + (p(old | prompt) / p0(old | prompt))^beta)

with p0 the model as it is before the edit and p the probability of the whole old answer. At the first step the gradient
is that of gradient ascent, and it fades as the answer is forgotten, by which the model breaks later. beta -> 0 gives
gradient ascent back, up to a constant.

Convention: nats; the loss begins at (2 / beta) log 2 and falls towards 0.
Scope: requests that say their old answer; others are refused, and the target of the request is not used. The authors'
terms that hold on to other data (NPO+RT) need such data and are not here.

When not to use it: to say something definite instead; edit to a refusal with an editor then.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.methods.fine_tuning.ft_m import tune
from editing.methods.fine_tuning.ga import Begun, check_old, forgetting
from editing.solve.training import Objective
from factscope.errors import EditError
from factscope.model.bridge import Bridge


@dataclass(frozen=True)
class Config:
    """beta is the authors'; layer, steps and step size are `ft_m`'s. docs/suites.md has other settings beside them."""

    layer: int = 1
    steps: int = 25
    learning_rate: float = 1e-3
    beta: float = 0.1
    stop: float = 0.0  # of the loss, which never is below 0
    bound: float | None = None  # L-infinity distance that no entry may leave

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise EditError(f"npo's beta must be above 0, not {self.beta:g}; near 0 it is gradient ascent")

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """The same for every model; a model of one layer has no other."""
        return cls(layer=min(cls.layer, int(model.cfg.n_layers) - 1))


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Prefer every old answer less than the model did."""
    return tune(forgetting(inputs), config, objective=lambda: preference(config.beta))[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """The same for every fact alone, all of them side by side."""
    return tune(forgetting(inputs), config, apart=True, objective=lambda: preference(config.beta))


def preference(beta: float) -> Objective:
    """The loss of each fact [fact] from nats per token and tokens; p0 is of what it is given of a fact first."""
    begun = Begun()

    def loss(nats: Tensor, tokens: Tensor, facts: Tensor) -> Tensor:
        ratio = (begun.of(nats, facts) - nats) * tokens  # log p / p0 of the whole answer
        return 2 / beta * torch.nn.functional.softplus(beta * ratio)

    return loss


METHOD = MethodSpec(
    "npo",
    "negative preference optimisation: ascent that fades as the answer is forgotten",
    Config,
    compute,
    compute_each,
    place="mlp",
    check_requests=check_old,
    good_for="unlearning an answer more surely than by ascent",
    not_for="saying something else instead, or neighbours that must stay",
    needs="facts that name their old answer",
)
