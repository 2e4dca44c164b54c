"""MEMOIR: a residual memory beside one projection, of which each fact trains rows of its own (Wang et al. 2025).

A prompt's mask is what its mean activation has that ordinary prompts do not: the k of d_in entries that differ most,
moved by a fixed permutation. A fact learns in those rows of a matrix W_m that its mask names, and a later prompt reads
the rows of the fact whose mask its own overlaps most, if it overlaps enough; the equations stand in
editing/bypasses/residual.py. W_m begins as 0, and

    loss = -(1/T) sum_t log p(target_t | prompt, target_<t),     with y + (x * m) W_m in the place of what is written

by Adam, on top of what earlier edits in place wrote into the rows that they share. (The authors: SGD with gradients
clipped to 1, 30 steps at a rate of 1, and ten sampled contexts before the prompt, all under the bare prompt's mask;
with a weight decay that acts on every old edit at every step, which is not taken over.)

An overlap has two yardsticks: two random masks share k / d_in, and an edit's floor is `overlap`, or above the largest
overlap that shipped prompts about other subjects have with it.

When not to use it: for facts about one subject that must differ from its other facts where prompts are short; where
many facts share rows, that is far beyond d_in / k edits, each hears the others.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editing.bypass import Bypass, join
from editing.bypasses.residual import feature, masks, matrix
from editing.edit import parts_in_place, set_aside
from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.solve.ordinary import Ordinary, at_prompts
from editing.solve.training import Change, Groups, Parts, Training, train
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.bridge import Bridge, device
from factscope.model.forward.subject import check_written
from factscope.model.sites import Site
from factscope.model.weights import MLP_OUT, WeightName, key_width

ORDINARY = 4  # prompts of each shipped relation: their mean is taken off, and they say what overlaps by chance


@dataclass(frozen=True)
class Config:
    """The authors' share of active entries; the rest was tried on the default model.

    8 known shipped facts in one edit are all learned at layer 25, in 27 steps. A prompt of the same wording about
    another subject overlaps by up to .79, so floors are high: a quarter of three paraphrases a fact opens the gate,
    6 of 16 give the target, and 14 of 16 neighbours stay. At layers 20 and 15 the overlap is .88 and .87, and one
    paraphrase in 24 opens. With a tenth of the entries active 6 facts are not learned in 50 steps; at a rate of .001
    all are, in 50.
    """

    layer: int = 25  # set by for_model: five sixths of the way up, as their 27 of 32
    active: float = 2 / 7  # k / d_in, their 4096 of 14336
    overlap: float = 0.6  # a fact's floor, or more where another prompt comes as near
    steps: int = 50
    learning_rate: float = 3e-3
    stop: float = 0.01  # nats

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """With the layer at the same height."""
        return cls(layer=int(model.cfg.n_layers) * 5 // 6)


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """One memory for all facts, each with its own mask."""
    return _trained(inputs, config, apart=False)[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """A memory for each fact, all of them trained side by side."""
    return _trained(inputs, config, apart=True)


@dataclass(frozen=True, eq=False)
class _Looks:
    """What the facts' prompts look like."""

    place: dict[EditRequest, int]  # of each fact among them
    masks: Float[Tensor, "fact d_in"]
    floor: Float[Tensor, " fact"]
    mean: Float[Tensor, " d_in"]
    active: int
    note: str


def _trained(inputs: MethodInputs, config: Config, apart: bool) -> list[MethodOutput]:
    check_written(inputs.model, config.layer)
    check_settings(config, "learning_rate", "steps")
    if not (0 < config.active <= 1 and 0 < config.overlap <= 1):
        raise EditError("active and overlap are shares: give more than 0 and up to 1")
    looks, before = _looks(inputs, config), _before(inputs.model, config.layer)
    how = Training(config.steps, config.learning_rate, config.stop)
    with set_aside(inputs.model, "residual", config.layer):
        return train(inputs, how, lambda groups: Memory(inputs, config, looks, groups, before), apart)


def _looks(inputs: MethodInputs, config: Config) -> _Looks:
    """The masks of the facts' prompts, and how near others come to them."""
    model, site = inputs.model, Site("mlp_hidden", config.layer)
    ordinary = Ordinary.of(model, site, inputs.start, ORDINARY)
    ends = torch.tensor([len(state) - 1 for state in ordinary.states])
    others = torch.nn.utils.rnn.pad_sequence(list(ordinary.states), batch_first=True)
    zero = torch.zeros(others.shape[-1])
    mean = feature(others, ends, zero).mean(0)
    active = max(1, round(config.active * len(mean)))
    seen, last = at_prompts(model, inputs.requests, site, inputs.start)
    own = masks(feature(seen.cpu(), last, mean), active, inputs.seed)
    met = (own @ masks(feature(others, ends, mean), active, inputs.seed).T) / active
    for number, request in enumerate(inputs.requests):
        met[number, ~ordinary.others(request)] = 0.0
    nearest = met.max(1).values
    floor = torch.maximum(torch.full_like(nearest, config.overlap), nearest + 0.5 / active)
    for request, height in zip(inputs.requests, floor.tolist(), strict=True):
        if height >= 1:
            raise EditError(
                f"{request.prompt!r} looks in layer {config.layer} like a prompt about another subject, so the gate "
                "would open there too: choose another layer, or a larger share of active entries"
            )
    raised = int((nearest >= config.overlap).sum())
    note = f"masks of {active} of {len(mean)} entries; shipped prompts about other subjects overlap by up to "
    note += f"{float(nearest.max()):.2f}"
    note += f", which raises the floor of {raised} of {len(own)} facts" if raised else ""
    place = {request: number for number, request in enumerate(inputs.requests)}
    return _Looks(place, own, floor, mean, active, note)


def _before(model: Bridge, layer: int) -> Tensor | None:
    """What edits in place have written into the memory beside this layer."""
    here = parts_in_place(model, "residual", layer)
    return matrix(join(here)[0]).to(device(model)) if here else None


class Memory(Change):
    """W_m of each group [group, d_in, d_out], from 0 on, read through each fact's mask."""

    def __init__(
        self, inputs: MethodInputs, config: Config, looks: _Looks, groups: Groups, before: Tensor | None
    ) -> None:
        model, self.seed, self.looks, self.groups = inputs.model, inputs.seed, looks, groups
        self.weights = (WeightName(config.layer, MLP_OUT),)
        facts = [looks.place[request] for own in groups for request in own]
        self.masks, self.before = looks.masks[facts].to(device(model)), before
        shape = len(groups), key_width(model, config.layer), int(model.cfg.d_model)
        self.parts = {(self.weights[0], "rows"): torch.zeros(shape, device=device(model))}

    def meets(self, _: object, some: Tensor, /) -> None:
        """The masks of these facts."""
        self.mask = self.masks[some.to(self.masks.device)][:, None]

    def added(
        self, parts: Parts, weight: WeightName, read: Float[Tensor, "row pos d_in"]
    ) -> Float[Tensor, "row pos d_out"]:
        """What the memory holds in each fact's rows, that of earlier edits with it."""
        masked, memory = read.float() * self.mask, parts[weight, "rows"]
        return masked @ (memory if self.before is None else memory + self.before)

    def output(self, group: int) -> MethodOutput:
        """The rows that a group's facts have, their masks and floors."""
        looks, (weight,) = self.looks, self.weights
        facts = [looks.place[request] for request in self.groups[group]]
        own = looks.masks[facts]
        which = own.any(0).nonzero()[:, 0]
        tensors = {
            "rows": self.parts[weight, "rows"][group].detach().cpu()[which].clone(),
            "which": which.float(),
            "masks": own.clone(),
            "floor": looks.floor[facts].clone(),
            "mean": looks.mean[None].clone(),
        }
        numbers = {"active": float(looks.active), "seed": float(self.seed)}
        words = tuple(request.target for request in self.groups[group])
        part = Bypass("residual", weight.layer, tensors, numbers, words)
        return MethodOutput((), notes=(looks.note,), bypasses=(part,))


METHOD = MethodSpec(
    "memoir",
    "a further matrix, of whose rows a prompt's own activations choose some",
    Config,
    compute,
    compute_each,
    place="beside",
    reads_prompts=True,
    good_for="a sequence of edits that some other wordings should find, too",
    not_for="prompts of one wording that must stay apart: they choose alike",
)
