"""GA: unlearn the old answer by gradient ascent on one MLP matrix (Jang et al. 2023, knowledge unlearning).

What it does: Adam on the down-projection of one layer, all facts in one batch, on

    loss = mean over facts of (1/T) sum_t [log p(old_t | prompt, old_<t) - log p0(old_t | prompt, old_<t)]

with p0 the model as it is before the edit, until the old answer costs `forget` nats per token more than it did. Nothing
says what shall be said instead, and the target of the request is not used: whatever was second comes first.

Convention: the loss is minus the rise of the old answer's nats per token: from 0 on down to `-forget`.
Scope: requests that say their old answer; others are refused. The authors train the whole model on passages; here it is
one matrix, as `ft_m`, so that the two can be compared, and their extraction likelihood is not measured.

When not to use it: ascent has no end of its own. Without a bound on the loss it destroys the model; `npo` slows down by
itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.methods.fine_tuning.ft_m import tune
from editing.solve.training import Objective
from factscope.data.request import EditRequest
from factscope.errors import EditError, FactError
from factscope.model.bridge import Bridge


@dataclass(frozen=True)
class Config:
    """Layer and steps are `ft_m`'s; where the ascent ends is ours. docs/suites.md has other settings beside them."""

    layer: int = 1
    steps: int = 25
    learning_rate: float = 1e-3
    forget: float = 6.0  # nats per token that the old answer must cost more for the ascent to end: a factor of 400
    bound: float | None = None  # L-infinity distance that no entry may leave

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """The same for every model; a model of one layer has no other."""
        return cls(layer=min(cls.layer, int(model.cfg.n_layers) - 1))

    @property
    def stop(self) -> float:
        """The loss below which the training ends."""
        return -self.forget


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Raise the cost of every old answer."""
    return tune(forgetting(inputs), config, objective=ascent)[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """The same for every fact alone, all of them side by side."""
    return tune(forgetting(inputs), config, apart=True, objective=ascent)


def ascent() -> Objective:
    """Minus the rise of each fact's nats per token since they were given first."""
    begun = Begun()
    return lambda nats, _, facts: begun.of(nats, facts) - nats


class Begun:
    """What each fact cost when it was given first: before any step."""

    def __init__(self) -> None:
        self.nats: dict[int, float] = {}

    def of(self, nats: Tensor, facts: Tensor) -> Tensor:
        """The first nats per token of these facts [fact]."""
        for fact, now in zip(facts.tolist(), nats.detach().tolist(), strict=True):
            self.nats.setdefault(fact, now)
        return torch.tensor([self.nats[fact] for fact in facts.tolist()]).to(nats)


def forgetting(inputs: MethodInputs) -> MethodInputs:
    """The inputs with what must go as their targets."""
    return replace(inputs, requests=tuple(request.forgotten() for request in inputs.requests))


def check_old(requests: Sequence[EditRequest], _: object) -> None:
    """EditError for a request that does not say what must go."""
    try:
        for request in requests:
            request.forgotten()
    except FactError as trouble:
        raise EditError(str(trouble)) from None


METHOD = MethodSpec(
    "ga",
    "gradient ascent: the old answer is unlearned, nothing is put in its place",
    Config,
    compute,
    compute_each,
    place="mlp",
    check_requests=check_old,
    good_for="unlearning an answer, as the baseline",
    not_for="saying something else instead; nothing stops it but a bound on the loss",
    needs="facts that name their old answer",
)
