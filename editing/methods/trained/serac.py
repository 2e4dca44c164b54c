"""SERAC: a memory of edits, and a trained gate that says which question is about which (Mitchell et al. 2022).

    s_i = exp(-|phi(question) - phi(entry_i)|^2)          open for the largest s_i, if it is above `floor`

phi is trained on other facts to be near for two wordings of a fact and apart for everything else: the binary
cross-entropy of s, of (another wording, prompt) against (a prompt that must stay, prompt), balanced. Open, the
counterfactual model answers; closed, the model as it is, bit for bit.

Three choices. phi is W' times the model's own state, the mean over the prompt's tokens at the input of one layer,
standardised over training prompts: no second encoder. The counterfactual model is the model itself, told the fact
before the question as ICE tells it (the authors' `freeze_cntr`); nothing else is trained. The switch is hard, in the
scores of training as in use, and the decision is taken from the prompt alone, once.

Convention: s is 1 for the stored prompt. Scope: every model; what it learns is the gate, and its scores are the gate's.
When not to use it: as ICE; and where `retrieval`, which is trained on nothing, opens as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.methods.in_context.ice import ended
from editing.requests import BARE, target_prompts
from editing.scope import Scope, states
from editing.trained.examples import TrainingInputs
from editing.trained.facts import Example
from editing.trained.learning import Learner, Parts
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.prompts import tokenized
from factscope.model.sites import Site

LEAST = 1e-6  # of a squared distance, under a logarithm
TINY = 1e-6  # added to a standard deviation
CLOSED = ("closed for a neighbour", "closed for a hard neighbour", "closed for other facts")  # as Example.keep


@dataclass(frozen=True)
class Config:
    """Rate and steps are scaled guesses (the authors train DistilBERT at 1e-5); layer and width were swept.

    On the default model, 180 shipped facts trained and 180 of other subjects asked, in two wordings: the share of other
    wordings that find their fact, of prompts about another subject of the relation that find it, of the same subject's
    other relations that do. Layers 0, 2, 5, 10, 15 at width 64: (.86, .004, 0), (.83, 0, 0), (.74, 0, 0), (.63, 0, 0),
    (.53, 0, 0); layer 2 at width 256: (.79, 0, 0). At a floor of 0.2, layer 2: .89 and .017. `retrieval`, untrained, on
    the same facts: (.89, .003, .50). Trained on all shipped facts, the loss on validation facts is smallest after 100
    of 600 steps; of facts of relations that it never met, it then opens for .02 of the other wordings.
    """

    reads: int = 2  # the layer whose input is read; set by for_model: a fifteenth of the way up, as `retrieval`
    width: int = 64  # of phi
    floor: float = 0.5  # theirs
    opening: str = "Imagine that"  # ICE's
    learning_rate: float = 2e-3
    steps: int = 300
    batch: int = 64
    every: int = 25  # steps between two scores on validation facts

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """With the layer at the same height."""
        return cls(reads=int(model.cfg.n_layers) // 15)


class Gate(Learner):
    """SERAC's scope classifier while it learns."""

    def __init__(self, inputs: TrainingInputs, config: Config) -> None:
        texts = list(dict.fromkeys(text for fact in inputs.every for text in fact.wordings))
        rows = [tokenized(inputs.model, text, start=inputs.start)[0] for text in texts]
        found = states(inputs.model, rows, Site("resid_pre", config.reads), inputs.start)
        number = {text: i for i, text in enumerate(texts)}
        own = found[[number[text] for fact in inputs.facts.trained for text in fact.wordings]].double()
        mean, std = own.mean(0).float(), own.std(0, correction=0).float() + TINY
        self.state = {"mean": mean, "std": std}
        self.seen = {text: (found[i] - mean) / std for text, i in number.items()}
        draw = torch.Generator().manual_seed(inputs.seed)
        size = found.shape[1]
        self.parts = {"W": 0.1 * torch.randn(size, config.width, generator=draw) / size**0.5}
        self.rates = {"W": config.learning_rate}
        self.floor = config.floor

    def _distances(self, parts: Parts, texts: Sequence[str], entries: Sequence[str]) -> Float[Tensor, " pair"]:
        apart = torch.stack([self.seen[a] - self.seen[b] for a, b in zip(texts, entries, strict=True)])
        return (apart @ parts["W"]).square().sum(-1)

    def _pairs(self, parts: Parts, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Squared distances of another wording [example], and of what must stay [example prompt]."""
        near = self._distances(parts, [one.other for one in batch], [one.prompt for one in batch])
        kept = [(text, one.prompt) for one in batch for text in one.keep]
        far = self._distances(parts, [text for text, _ in kept], [entry for _, entry in kept])
        return near, far.view(len(batch), -1)

    def losses(self, parts: Parts, batch: Sequence[Example]) -> dict[str, Tensor]:
        """-log s where it should open, -log(1 - s) where not, each a mean."""
        near, far = self._pairs(parts, batch)
        opening = near.mean()
        closing = -torch.log(-torch.expm1(-far.clamp_min(LEAST))).mean()
        return {"loss": opening + closing, "open": opening, "closed": closing}

    def answers(self, parts: Parts, batch: Sequence[Example]) -> dict[str, list[float]]:
        """Whether the gate opens for another wording, and stays closed for the rest."""
        near, far = self._pairs(parts, batch)
        met = ((-near).exp() > self.floor).float().tolist()
        shut = ((-far).exp() <= self.floor).float().T.tolist()
        loss = float(self.losses(parts, batch)["loss"])
        return {"open for another wording": met} | dict(zip(CLOSED, shut, strict=True)) | {"loss": [loss] * len(batch)}


def train(inputs: TrainingInputs, config: Config) -> Gate:
    """The gate at its start."""
    if config.width < 1 or config.batch < 1 or config.steps < 0 or config.every < 1:
        raise EditError("width, batch and every must be at least 1, and steps not below 0")
    if not 0 <= config.reads < inputs.model.cfg.n_layers:
        raise EditError(f"reads is {config.reads}, and this model has layers 0 to {inputs.model.cfg.n_layers - 1}")
    return Gate(inputs, config)


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """One memory of all facts, in order."""
    return _output(inputs, config, _metric(inputs), slice(None))


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """A memory of one fact each."""
    metric = _metric(inputs)
    return [_output(inputs, config, metric, slice(i, i + 1)) for i in range(len(inputs.requests))]


def _metric(inputs: MethodInputs) -> Float[Tensor, "d_model width"]:
    editor = inputs.editor
    assert editor is not None  # editing/compute.py has seen to it
    return editor.tensors["W"] / editor.tensors["std"][:, None]


def _output(inputs: MethodInputs, config: Config, metric: Tensor, which: slice) -> MethodOutput:
    assert inputs.editor is not None
    requests, mean = inputs.requests[which], inputs.editor.tensors["mean"]
    own = [target_prompts(inputs.model, request, BARE, inputs.start)[0].tokens for request in requests]
    keys = (states(inputs.model, own, Site("resid_pre", config.reads), inputs.start) - mean) @ metric
    texts = tuple(f"{config.opening} {ended(str(request))}\n" for request in requests)
    scope = Scope(config.reads, mean.clone(), keys, texts, config.floor, 1, metric.clone())
    return MethodOutput((), preface="".join(texts), scope=scope)


METHOD = MethodSpec(
    "serac",
    "a memory of facts with a trained gate that says which question is about which; in context",
    Config,
    compute,
    compute_each,
    place="prompt",
    train=train,
)
