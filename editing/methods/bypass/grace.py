"""GRACE: a codebook beside one projection, one entry a fact (Hartvigsen et al. 2023).

The entry's key is what the down-projection of a high layer reads at the prompt's last token, and its value is trained
to make the model say the target when it stands there in the place of what the projection writes:

    loss = -(1/T) sum_t log p(target_t | prompt, target_<t)          Adam on the value alone

The value begins as what is written there now. (The authors begin with numbers drawn from [0, 1), `begin=random`.) The
radius is `reach` times the median distance of such keys between prompts of the shipped relations, because a distance
means something on the scale of one layer only (the authors give a number for each model), and smaller where one of
these prompts, about another subject, would fall into the ball. How entries share the space stands in
editing/bypasses/codebook.py.

When not to use it: for facts that will be asked in other words. A paraphrase ends in another key, outside of the ball,
and is answered as before; what is left alone is left alone exactly.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from editing.bypass import Bypass, concatenated
from editing.bypasses.codebook import SHAPES
from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.solve.ordinary import at_ends, reaches
from editing.solve.training import Change, Groups, Parts, Rows, Training, train
from editing.solve.values import side_by_side
from factscope.data.request import EditRequest
from factscope.model.bridge import Bridge
from factscope.model.forward.subject import check_written
from factscope.model.sites import Site
from factscope.model.weights import MLP_OUT, WeightName


@dataclass(frozen=True)
class Config:
    """The authors' steps and rate; the rest is scaled to the model at hand.

    An answer of several tokens needs the steps: of 24 zsRE facts half as many at half the rate leave a third without
    their answer in full, these none, and a CounterFact answer, of one token mostly, is there long before.
    `reach` is below the nearest neighbour of 30 known CounterFact facts of the default model: in median distances, a
    tenth of the neighbours lies within .28 of the fact at layer 25 (the nearest .18), half within .44; of the
    paraphrases a tenth within .34 (.18), half within .52. No radius parts the two, at layers 20 and 27 neither.
    """

    layer: int = 25  # set by for_model: five sixths of the way up, as their 27 of 32
    reach: float = 0.15  # radius of a new ball, in median distances between keys of unlike prompts
    steps: int = 100  # at most
    learning_rate: float = 1.0
    stop: float = 0.01  # nats
    begin: Literal["written", "random"] = "written"

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """With the layer at the same height."""
        return cls(layer=int(model.cfg.n_layers) * 5 // 6)


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """One codebook with an entry for each fact, in order; nothing couples their training."""
    each = compute_each(inputs, config)
    curve = side_by_side([one.curve for one in each if one.curve is not None])
    return replace(each[0], curve=curve, bypasses=(concatenated([one.bypasses[0] for one in each], SHAPES),))


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """A codebook of one entry for each fact, all of them trained side by side."""
    check_written(inputs.model, config.layer)
    check_settings(config, "reach", "learning_rate", "steps")
    known, how = _Known.of(inputs, config), Training(config.steps, config.learning_rate, config.stop)
    return train(inputs, how, lambda groups: Entries(config.layer, known, groups), apart=True)


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known of the entries before any learns."""

    place: dict[EditRequest, int]  # of each fact among them
    keys: Float[Tensor, "fact d_in"]
    reach: Float[Tensor, " fact"]
    written: Float[Tensor, "fact d_out"]  # what the projection writes at the keys
    begin: Float[Tensor, "fact d_out"]
    note: str

    @classmethod
    def of(cls, inputs: MethodInputs, config: Config) -> "_Known":
        model, requests, start = inputs.model, inputs.requests, inputs.start
        site = Site("mlp_hidden", config.layer)
        keys = at_ends(model, requests, site, start).cpu()
        reach, note = reaches(model, site, start, config.reach, keys, requests)
        begin = written = at_ends(model, requests, Site("mlp_write", config.layer), start)
        if config.begin == "random":
            begin = torch.rand(written.shape, generator=torch.Generator().manual_seed(inputs.seed)).to(written)
        return cls({request: number for number, request in enumerate(requests)}, keys, reach, written, begin, note)


class Entries(Change):
    """The value of each fact [group, d_out], in the place of what is written at its prompt's last token."""

    def __init__(self, layer: int, known: _Known, groups: Groups) -> None:
        self.weights, self.known = (WeightName(layer, MLP_OUT),), known
        self.requests = [request for (request,) in groups]
        self.facts = torch.tensor([known.place[request] for request in self.requests])
        self.parts = {(self.weights[0], "values"): known.begin[self.facts.to(known.begin.device)]}

    def meets(self, rows: Rows, some: Tensor, /) -> None:
        """Where the prompts of these facts end, and what is written there."""
        written = self.known.written
        self.written = written[self.facts[some].to(written.device)]
        self.ends = torch.arange(len(some), device=written.device), rows.ends[some].to(written.device)

    def added(
        self, parts: Parts, weight: WeightName, read: Float[Tensor, "row pos d_in"]
    ) -> Float[Tensor, "row pos d_out"]:
        """The value less what it takes the place of."""
        apart = parts[weight, "values"] - self.written
        return apart.new_zeros(*read.shape[:2], apart.shape[-1]).index_put(self.ends, apart)

    def output(self, group: int) -> MethodOutput:
        """One fact's entry."""
        (value,), fact, known = self.parts.values(), self.facts[group : group + 1], self.known
        own = {"keys": known.keys[fact], "values": value[group, None].cpu().clone(), "reach": known.reach[fact]}
        part = Bypass("codebook", self.weights[0].layer, own, {}, (self.requests[group].target,))
        return MethodOutput((), notes=(known.note,), bypasses=(part,))


METHOD = MethodSpec(
    "grace",
    "a codebook with a ball around each fact's key",
    Config,
    compute,
    compute_each,
    place="beside",
    good_for="a long sequence of edits that may change nothing else",
    not_for="facts that will be asked in other words",
)
