"""GRACE: a codebook beside one projection, one entry a fact (Hartvigsen et al. 2023).

The entry's key is what the down-projection of a high layer reads at the prompt's last token, and its value is trained
to make the model say the target when it stands there in the place of what the projection writes:

    loss = -(1/T) sum_t log p(target_t | prompt, target_<t)          Adam on the value alone

The value begins as what is written there now. (The authors begin with numbers drawn from [0, 1), `begin=random`.) The
radius is `reach` times the median distance of such keys between prompts of the shipped relations, because a distance
means something on the scale of one layer only (the authors give a number for each model), and smaller where one of
these prompts, about another subject, would fall into the ball. How entries share the space
stands in editing/bypasses/codebook.py.

When not to use it: for facts that will be asked in other words. A paraphrase ends in another key, outside of the ball,
and is answered as before; what is left alone is left alone exactly.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from editing.bypass import Bypass
from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.requests import bare_prompt
from editing.solve.adam import Adam
from editing.solve.ordinary import reaches
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.at_once import check_slopes
from factscope.model.forward.batched import padded, states_at
from factscope.model.forward.ends import ending
from factscope.model.forward.onednn import thin_products
from factscope.model.forward.partial import Frame
from factscope.model.forward.subject import check_written
from factscope.model.hooks import hooked
from factscope.model.sites import Site


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
    """One codebook with an entry for each fact, in order."""
    return _output(inputs, config, _learned(inputs, config), slice(None))


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """A codebook of one entry for each fact, all of them trained side by side."""
    learned = _learned(inputs, config)
    return [_output(inputs, config, learned, slice(i, i + 1)) for i in range(len(inputs.requests))]


@dataclass(frozen=True, eq=False)
class _Learned:
    keys: Float[Tensor, "fact d_in"]
    values: Float[Tensor, "fact d_out"]
    curve: Float[Tensor, "step fact"]  # nats; NaN after a fact's stop
    reach: Float[Tensor, " fact"]
    note: str


def _output(inputs: MethodInputs, config: Config, learned: _Learned, which: slice) -> MethodOutput:
    tensors = {"keys": learned.keys, "values": learned.values, "reach": learned.reach}
    own = {name: tensor[which].clone() for name, tensor in tensors.items()}
    targets = tuple(request.target for request in inputs.requests[which])
    part = Bypass("codebook", config.layer, own, {}, targets)
    return MethodOutput((), curve=learned.curve[:, which], notes=(learned.note,), bypasses=(part,))


def _learned(inputs: MethodInputs, config: Config) -> _Learned:
    """Keys as they are, values trained side by side: nothing couples them."""
    model = inputs.model
    check_written(model, config.layer)
    check_settings(config, "reach", "learning_rate", "steps")
    rows = _Rows.of(inputs, config.layer)
    site = Site("mlp_hidden", config.layer)
    reach, note = reaches(inputs.model, site, inputs.start, config.reach, rows.keys, inputs.requests)
    values, curve = _train(inputs, config, rows)
    return _Learned(rows.keys, values, curve, reach, note)


def _train(inputs: MethodInputs, config: Config, rows: "_Rows") -> tuple[Tensor, Tensor]:
    value = rows.written.clone()
    if config.begin == "random":
        value = torch.rand(value.shape, generator=torch.Generator().manual_seed(inputs.seed)).to(value)
    adam, curve = Adam(), []
    active = torch.ones(len(value), dtype=torch.bool, device=value.device)
    for step in range(config.steps):
        value.requires_grad_()
        with torch.enable_grad():
            losses = rows.losses(value)
            (gradient,) = torch.autograd.grad(losses.sum(), value)
        value, losses = value.detach(), losses.detach()
        if not bool(torch.isfinite(losses).all()):
            raise EditError(f"the loss went to NaN at step {step}; nothing was changed. Use a smaller learning rate")
        curve.append(losses.cpu().masked_fill(~active.cpu(), torch.nan))
        if inputs.on_step is not None:
            inputs.on_step(step, curve[-1], (-losses).exp().cpu())
        active = active & (losses >= config.stop)
        if not bool(active.any()) or step + 1 == config.steps:  # the last step only reads
            break
        value = torch.where(active[:, None], value - config.learning_rate * adam.direction(gradient), value)
    return value.float().cpu(), torch.stack(curve)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Prompts with their targets, right-padded, and what one pass of the model as it is left of them."""

    frame: Frame
    tokens: Int[Tensor, "fact pos"]
    layer: int
    resid: Float[Tensor, "fact pos d_model"]  # what enters the layer
    ends: Tensor  # [fact] the position of the prompt's last token
    answers: tuple[tuple[int, ...], ...]
    keys: Float[Tensor, "fact d_in"]
    written: Float[Tensor, "fact d_out"]

    @classmethod
    def of(cls, inputs: MethodInputs, layer: int) -> "_Rows":
        model = inputs.model
        prompts = [bare_prompt(model, request, inputs.start) for request in inputs.requests]
        ids = padded(model, [(*prompt.tokens, *prompt.answer_ids[:-1]) for prompt in prompts])
        ends = torch.tensor([len(prompt.tokens) - 1 for prompt in prompts])
        most = max(len(prompt.answer_ids) for prompt in prompts)
        check_slopes(model, layer, len(ids), ids.shape[1], most, len(ids))
        frame = Frame.of(model, ids)
        sites = Site("resid_pre", layer), Site("mlp_hidden", layer), Site("mlp_write", layer)
        seen = states_at(model, ids, ends, sites)
        resid, hidden, written = (seen[site] for site in sites)
        at = torch.arange(len(ends)), ends
        answers = tuple(tuple(prompt.answer_ids) for prompt in prompts)
        return cls(frame, ids, layer, resid, ends, answers, hidden[at].float().cpu(), written[at].float())

    @thin_products()
    def losses(self, values: Tensor) -> Tensor:
        """Mean loss of each fact's target with its value written at its prompt's end, nats per token."""
        ends = self.ends.to(self.resid.device)
        at = torch.arange(len(ends), device=ends.device), ends
        write = Site("mlp_write", self.layer), lambda y: y.index_put(at, values.to(y))
        with hooked(self.frame.model, [write]), ending(self.ends, tokens=self.tokens):
            out = self.frame.blocks(self.resid, self.layer)
        row = torch.tensor([r for r, answer in enumerate(self.answers) for _ in answer])
        offset = torch.tensor([t for answer in self.answers for t in range(len(answer))])
        ids = torch.tensor([token for answer in self.answers for token in answer], device=out.device)
        logp = self.frame.logits(out[row, self.ends[row] + offset]).float().log_softmax(-1)
        nll = -logp.gather(1, ids[:, None])[:, 0]
        count = torch.bincount(row).to(nll)
        return torch.zeros(len(self.answers), device=nll.device).index_add(0, row.to(nll.device), nll) / count


METHOD = MethodSpec(
    "grace",
    "a codebook beside one projection: the prompt itself and hardly anything else is answered anew",
    Config,
    compute,
    compute_each,
    place="beside",
)
