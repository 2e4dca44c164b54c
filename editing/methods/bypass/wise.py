"""WISE: a side copy of one projection learns the facts, and a router chooses between it and the projection (2024).

The copy W' may change in a random share of its entries (`mask`), every entry by `bound` at most. With D the distance
between what both write for a prompt, averaged over its tokens, and s the median size of what the projection writes,

    loss = -(1/T) sum_t log p(target_t | prompt, target_<t)
         + [ relu(D_out - alpha s) + relu(beta s - D_in) + relu(D_out - D_in + gamma s) ] / s

D_in is that of the facts' own prompts, D_out of shipped prompts about other subjects; each term is a mean. So the copy
learns to be far from the projection where it was asked and near elsewhere, and answers where D is above `ratio` times
the smallest D_in, or above shipped prompts where these come nearer. The equations of the router stand in
editing/bypasses/side.py (Wang et al. 2024).

An edit is one shard. Several edits keep their shards apart, and the furthest answers (the authors' retrieval), or are
merged by TIES into one (`merge=true`). The authors fill a shard with 500 edits of a stream; here that is one edit of
500 facts. Other than theirs: Adam in the place of SGD, no weight decay (theirs acts on the entries outside the mask),
the bare prompt in the place of eleven contexts, D from the prompt alone in training and afterwards, and D as it is:
they pass both writes through the MLP's activation first, which follows no projection.

When not to use it: where many bytes are a burden, since a shard is a matrix; for prompts that look alike on average but
ask for something else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editing.bypass import Bypass
from editing.bypasses.side import distances
from editing.edit import set_aside
from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.solve.ordinary import Ordinary, at_prompts
from editing.solve.training import Change, Groups, Parts, Training, train
from factscope.cache import digest
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.bridge import Bridge, device
from factscope.model.forward.subject import check_written
from factscope.model.sites import Site
from factscope.model.weights import MLP_OUT, WeightName, key_width

APIECE = 2  # prompts of each shipped relation that the copy shall stay near to
LEFT = 0.05  # of s: margins that are missed by less are met
NEAR = 0.98  # of the smallest D_in, a threshold may be raised to


@dataclass(frozen=True)
class Config:
    """The authors' mask, ratio and density, and the proportions of their margins; the rest was tried.

    On the default model 8 known shipped facts in one shard are all learned and 9 of 16 paraphrases give the whole
    target, but the gate opens for two in five neighbours as for two in five paraphrases: D is .90 at least for the
    facts' own prompts, and up to .86 for others. With a shard for each fact D is 1.05 and up to .38, and .17 open of
    both. At a rate of .003 D of one shard stays below .4, and two in three open; at layer 20, three in four and more.
    """

    layer: int = 25  # set by for_model: five sixths of the way up, as their 27 of 32
    mask: float = 0.2  # share of the entries that may change
    steps: int = 70
    learning_rate: float = 0.01
    stop: float = 0.01  # nats
    bound: float = 1.0
    alpha: float = 0.25  # in units of s; theirs 5, 20 and 10 in absolute ones
    beta: float = 1.0
    gamma: float = 0.5
    ratio: float = 0.88
    merge: bool = False
    density: float = 0.53

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """With the layer at the same height."""
        return cls(layer=int(model.cfg.n_layers) * 5 // 6)


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """One shard for all facts."""
    return _trained(inputs, config, apart=False)[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """A shard for each fact, all of them trained side by side."""
    return _trained(inputs, config, apart=True)


def _trained(inputs: MethodInputs, config: Config, apart: bool) -> list[MethodOutput]:
    check_written(inputs.model, config.layer)
    _check(config)
    prompts, how = _Prompts.of(inputs, config.layer), Training(config.steps, config.learning_rate, config.stop)
    with set_aside(inputs.model, "side", config.layer):
        return train(inputs, how, lambda groups: Copy(inputs, config, prompts, groups), apart)


def _check(config: Config) -> None:
    check_settings(config, "learning_rate", "steps", "bound")
    if not (0 < config.mask <= 1 and 0 < config.ratio < 1 and 0 < config.density <= 1):
        raise EditError("mask, ratio and density are shares: give more than 0 and up to 1, ratio below 1")
    if config.beta < config.alpha + config.gamma:
        raise EditError(
            f"beta ({config.beta:g}) is below alpha + gamma ({config.alpha + config.gamma:g}), so the margins do not "
            "agree: the facts' own prompts may lie at beta, and other prompts at alpha, gamma apart from them"
        )


@dataclass(frozen=True, eq=False)
class _Prompts:
    """What the projection reads for the facts' prompts and for ordinary ones, and how large what it writes is."""

    place: dict[EditRequest, int]
    own: Float[Tensor, "fact pos d_in"]
    ends: Tensor  # [fact]
    ordinary: Ordinary
    others: Float[Tensor, "prompt long d_in"]
    others_ends: Tensor
    size: float  # s

    @classmethod
    def of(cls, inputs: MethodInputs, layer: int) -> "_Prompts":
        model, site = inputs.model, Site("mlp_hidden", layer)
        ordinary = Ordinary.of(model, site, inputs.start, APIECE)
        written = Ordinary.of(model, Site("mlp_write", layer), inputs.start, APIECE)
        size = float(torch.cat([state[1:] for state in written.states]).norm(dim=-1).median())
        own, ends = at_prompts(model, inputs.requests, site, inputs.start)
        others = torch.nn.utils.rnn.pad_sequence(list(ordinary.states), batch_first=True).to(own)
        others_ends = torch.tensor([len(state) - 1 for state in ordinary.states])
        place = {request: number for number, request in enumerate(inputs.requests)}
        return cls(place, own, ends, ordinary, others, others_ends, size)


class Copy(Change):
    """W' - W of each group [group, d_in, d_out], from 0 on, 0 outside of its mask."""

    def __init__(self, inputs: MethodInputs, config: Config, prompts: _Prompts, groups: Groups) -> None:
        model, self.groups = inputs.model, groups
        self.weights, self.config, self.prompts = (WeightName(config.layer, MLP_OUT),), config, prompts
        shape = key_width(model, config.layer), int(model.cfg.d_model)
        self.masks = torch.stack([_mask(shape, config.mask, inputs.seed, own) for own in groups]).to(device(model))
        self.parts = {(self.weights[0], "change"): torch.zeros(len(groups), *shape, device=device(model))}
        self.facts = [[prompts.place[request] for request in own] for own in groups]
        about = [[prompts.ordinary.others(request) for request in own] for own in groups]
        self.allowed = torch.stack([torch.stack(some).all(0) for some in about]).to(device(model))  # [group prompt]
        self.some, self.missed = list(range(len(groups))), 1.0

    def meets(self, _: object, some: Tensor, /) -> None:
        """The groups that these rows are of."""
        self.some = some.tolist() if len(self.facts) > 1 else [0]

    def added(
        self, parts: Parts, weight: WeightName, read: Float[Tensor, "row pos d_in"]
    ) -> Float[Tensor, "row pos d_out"]:
        """What the copy writes beyond the projection."""
        return read.float() @ (parts[weight, "change"] * self.masks[self.some])

    def penalty(self, parts: Parts, /) -> Tensor:
        """What each group pays for margins that it misses, in units of s [group]."""
        changes, config, paid = parts[self.weights[0], "change"] * self.masks[self.some], self.config, []
        for change, group in zip(changes, self.some, strict=True):
            near, far = (each / self.prompts.size for each in self.distances(change, group))
            missed = (far - config.alpha).relu().mean() + (config.beta - near).relu().mean()
            paid.append(missed + (far[None] - near[:, None] + config.gamma).relu().mean())
        self.missed = max(float(one.detach()) for one in paid)
        return torch.stack(paid)

    def distances(self, change: Tensor, group: int) -> tuple[Float[Tensor, " fact"], Float[Tensor, " prompt"]]:
        """D of a group's own prompts, and of ordinary prompts about other subjects."""
        facts, told_by = self.facts[group], self.prompts
        near = distances(told_by.own[facts], told_by.ends[facts], change[None])[:, 0]
        far = distances(
            told_by.others[self.allowed[group]], told_by.others_ends[self.allowed[group].cpu()], change[None]
        )
        return near, far[:, 0]

    def may_end(self) -> bool:
        """Only once the margins are met."""
        return self.missed < LEFT

    def settled(self, parts: Parts, _: Parts, /) -> Parts:
        """Every entry within `bound` of the projection's."""
        return {name: part.clamp(-self.config.bound, self.config.bound) for name, part in parts.items()}

    @torch.no_grad()
    def output(self, group: int) -> MethodOutput:
        """One group's change with its threshold, and what must be said of it."""
        config = self.config
        change = self.parts[self.weights[0], "change"][group] * self.masks[group]
        near, far = self.distances(change, group)
        least, most = float(near.min()), float(far.max())
        threshold = max(config.ratio * least, min(most, NEAR * least))
        met, size = int((far > threshold).sum()), self.prompts.size
        note = f"D is {least / size:.2f} at least for the facts' own prompts, and up to {most / size:.2f} for shipped "
        note += "prompts about other subjects, in units of what the projection writes"
        note += f"; {met} of {len(far)} of these open the gate" if met else ""
        tensors = {"changes": change.detach().cpu()[None].clone(), "threshold": torch.tensor([threshold])}
        numbers = {"merge": float(config.merge), "density": config.density}
        words = (" / ".join(one.target for one in self.groups[group]),)
        return MethodOutput((), notes=(note,), bypasses=(Bypass("side", config.layer, tensors, numbers, words),))


def _mask(shape: tuple[int, int], share: float, seed: int, own: Sequence[EditRequest]) -> Float[Tensor, "d_in d_out"]:
    """Which entries may change: drawn for each edit, so that those of two edits differ."""
    drawn = int(digest([seed, [one.id for one in own]])[:8], 16)
    return (torch.rand(shape, generator=torch.Generator().manual_seed(drawn)) < share).float()


METHOD = MethodSpec(
    "wise",
    "a changed copy of a projection, which answers where the two are far apart",
    Config,
    compute,
    compute_each,
    place="beside",
    reads_prompts=True,
    good_for="facts asked as they were told, with all else left to the model's own weights",
    not_for="prompts that look alike on average but ask for something else",
    needs="room: a copy is a whole matrix",
)
