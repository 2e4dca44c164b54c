"""CaliNET: a small MLP beside one of the model's, trained on all facts at once (Dong et al. 2022).

    y' = y + relu(x K) V                              x: what the MLP reads, y: what it writes; K, V: `slots` neurons

    loss = mean over facts of -(1/T) sum_t log p(target_t | prompt, target_<t)
         + quiet * mean over states m of ||relu(m K) V||^2 / mean over them of ||y||^2

over the states m that shipped prompts about other subjects have there. K begins random, V as 0, so that the edit begins
as the unedited model (the authors draw both). Adam on both; nothing else of the model learns. The paper's loss is the
first line alone (`quiet=0`): it says nothing of what must stay, and what must stay does not. Its activation is the
model's own; ReLU is taken here whatever the model's is, so that CaliNET's slots are neurons as T-Patcher's are. The
paper trains each fact in several wordings; here it learns the bare prompt, because paraphrases are what it is asked.

When not to use it: for one fact, or where other facts must stay: there is no gate, the slots are asked at every token
of every prompt, and `quiet` only makes them whisper where they were not trained.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editing.bypass import Bypass
from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.solve.ordinary import Ordinary
from editing.solve.training import Change, Groups, Parts, Training, train
from factscope.model.bridge import Bridge, device
from factscope.model.forward.subject import check_written
from factscope.model.sites import Site
from factscope.model.weights import MLP_OUT, WeightName


@dataclass(frozen=True)
class Config:
    """The authors' slots and rate; the rest was tried on the default model.

    8 known shipped facts in one edit, judged by 16 paraphrases (share that gives the whole target) and 16 neighbours
    (share that still prefers its own answer). All are learned each time. At layer 22, three quarters of the way up:
    quiet 0 (the paper) .81 and .00, 1 .62 and .25, 10 .50 and .38, 100 .31 and .94. At the last layer with quiet 1:
    1.00 and .00. No setting has both.
    """

    layer: int = 22  # set by for_model: three quarters of the way up
    slots: int = 64
    steps: int = 100  # at most, where they take 5,000
    learning_rate: float = 0.01
    stop: float = 0.01  # nats
    quiet: float = 100.0  # 0: the paper
    apiece: int = 4  # prompts of each shipped relation at whose states the slots shall be quiet

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """With the layer at the same height."""
        return cls(layer=int(model.cfg.n_layers) * 3 // 4)


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """The same slots for all facts."""
    return _trained(inputs, config, apart=False)[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """Slots for each fact, all of them trained side by side."""
    return _trained(inputs, config, apart=True)


def _trained(inputs: MethodInputs, config: Config, apart: bool) -> list[MethodOutput]:
    check_written(inputs.model, config.layer)
    check_settings(config, "learning_rate", "steps", "slots", "apiece", quiet=0)
    site, written = Site("mlp_read", config.layer), Site("mlp_write", config.layer)
    ordinary = Ordinary.of(inputs.model, site, inputs.start, config.apiece)
    size = float(Ordinary.of(inputs.model, written, inputs.start, config.apiece).all().pow(2).sum(-1).mean())
    how = Training(config.steps, config.learning_rate, config.stop)
    return train(inputs, how, lambda groups: Slots(inputs, config, groups, ordinary, size), apart)


class Slots(Change):
    """Keys and values [group, slot, d_model]; the keys begin random, the values as 0."""

    def __init__(self, inputs: MethodInputs, config: Config, groups: Groups, ordinary: Ordinary, size: float) -> None:
        self.weights, self.config, self.size = (WeightName(config.layer, MLP_OUT),), config, size
        self.groups = groups
        here = device(inputs.model)
        self.states = ordinary.all().to(here)
        about = [[ordinary.others(request, each=True) for request in own] for own in groups]
        self.allowed = torch.stack([torch.stack(some).all(0) for some in about]).to(self.states)  # [group state]
        drawn = torch.randn(
            config.slots, self.states.shape[1], generator=torch.Generator().manual_seed(inputs.seed)
        ).to(here)
        keys = drawn / self.states.norm(dim=-1).mean()  # so that what a slot hears is of size 1
        self.parts = {
            (self.weights[0], name): tensor.expand(len(groups), *tensor.shape).clone()
            for name, tensor in (("keys", keys), ("values", torch.zeros_like(keys)))
        }
        self.some = torch.arange(len(groups))

    def sites(self, _: WeightName) -> tuple[str, str]:
        """Beside the whole MLP."""
        return "mlp_read", "mlp_write"

    def meets(self, _: object, some: Tensor, /) -> None:
        """The groups that these rows are of."""
        self.some = some if len(self.allowed) > 1 else torch.zeros(1, dtype=torch.long)

    def added(
        self, parts: Parts, weight: WeightName, read: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "row pos d_model"]:
        """What the slots write."""
        return _written(read, parts[weight, "keys"], parts[weight, "values"])

    def penalty(self, parts: Parts, /) -> Tensor:
        """How loud the slots are at states of other prompts, as a share of what the MLP writes there [group]."""
        loud = _written(self.states, *parts.values()).pow(2).sum(-1)
        allowed = self.allowed[self.some.to(loud.device)]
        return self.config.quiet * (loud * allowed).sum(1) / allowed.sum(1) / self.size

    def output(self, group: int) -> MethodOutput:
        """One group's slots, as neurons without a bias."""
        keys, values = (part[group].detach().cpu().clone() for part in self.parts.values())
        tensors = {"keys": keys, "bias": torch.zeros(len(keys)), "values": values}
        words = (" / ".join(request.target for request in self.groups[group]),) * len(keys)
        return MethodOutput((), bypasses=(Bypass("neurons", self.config.layer, tensors, {}, words),))


def _written(read: Tensor, keys: Float[Tensor, "group slot d_model"], values: Tensor) -> Tensor:
    """What the slots write where the MLP reads `read` [row pos d_model], or [pos d_model] for all groups."""
    return (read.float() @ keys.mT).relu() @ values


METHOD = MethodSpec(
    "calinet",
    "a small MLP beside one of the model's, trained on all facts at once",
    Config,
    compute,
    compute_each,
    place="beside",
    good_for="facts that will be asked in other words, where nothing else must stay",
    not_for="one fact, or others that must stay: there is no gate",
)
