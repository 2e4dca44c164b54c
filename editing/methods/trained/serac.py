"""SERAC: a memory of edits, and a trained gate that says which question is about which (Mitchell et al. 2022).

    s_i = exp(-|phi(question) - phi(entry_i)|^2)          open for the largest s_i, if it is above `floor`

phi is trained on other facts to be near for two wordings of a fact and apart for everything else: the binary
cross-entropy of s, of (another wording, prompt) against (a prompt that must stay, prompt), balanced. Open, the
counterfactual model answers; closed, the model as it is, bit for bit.

Four choices. phi is W' times the model's own state, the mean over the prompt's tokens at the input of one layer,
standardised over training prompts: no second encoder. With `scope="subject"` an entry is asked about by questions alone
in which its subject stands, and s has only to tell the subject's relations apart; with "states" s decides alone, as
theirs. `floor` is not theirs, 0.5: on relations that a gate was not trained on all distances are larger, and it stays
shut. So the relations of training are left out in turn, `folds` times, and the floor is the one that parts other
wordings of the left-out facts best from prompts that must stay (share rightly open less share wrongly open, Youden's
J). The counterfactual model is the model itself, told the fact before the question as ICE tells it (the authors'
`freeze_cntr`); nothing else is trained. The switch is hard, in the scores of training as in use, and the decision is
taken from the prompt alone, once.

Convention: s is 1 for the stored prompt. Scope: every model; what it learns is the gate, and its scores are the gate's.
When not to use it: as ICE; and with "subject", for questions that call the subject by another name.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.methods.in_context.ice import ended
from editing.requests import bare_prompt
from editing.scope import Scope, names, states
from editing.trained.examples import TrainingInputs
from editing.trained.facts import Example, Split, examples
from editing.trained.learning import Learner, Parts, Schedule, learn
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

    On the default model, 180 shipped facts trained and 180 of other subjects asked, in two wordings, by states alone
    at a floor of 0.5: the share of other wordings that find their fact, of prompts about another subject of the
    relation that find it, of the same subject's other relations that do. Layers 0, 2, 5, 10, 15 at width 64: (.86,
    .004, 0), (.83, 0, 0), (.74, 0, 0), (.63, 0, 0), (.53, 0, 0); layer 2 at width 256: (.79, 0, 0). `retrieval`,
    untrained, on the same facts: (.89, .003, .50). Trained on all shipped facts, the loss on validation facts is
    smallest after 100 of 300 steps. It then opens, at 0.5, for .06 of the other wordings of facts whose relations it
    never met. The floor that is chosen opens for .59 of these by states alone, and by states of trained relations for
    half of the neighbours, too; with the subject's name, where the floor may be lower still (0.07), for .82, of no
    neighbour, and of .17 of the hard ones.
    """

    reads: int = 2  # the layer whose input is read; set by for_model: a fifteenth of the way up, as `retrieval`
    width: int = 64  # of phi
    scope: str = "subject"  # the question names the entry's subject, and s; or "states": s alone, as theirs
    floor: float = 0.0  # theirs is 0.5; 0: chosen on relations that were left out
    folds: int = 4  # how often relations are left out to choose the floor
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
        self.seen = {text: (found[i] - mean) / std for text, i in number.items()}
        draw = torch.Generator().manual_seed(inputs.seed)
        size = found.shape[1]
        self.parts = {"W": 0.1 * torch.randn(size, config.width, generator=draw) / size**0.5}
        self.rates = {"W": config.learning_rate}
        self.by_subject = config.scope == "subject"
        self.state = {"mean": mean, "std": std, "floor": torch.tensor(config.floor or 0.5)}

    def _distances(self, parts: Parts, texts: Sequence[str], entries: Sequence[str]) -> Float[Tensor, " pair"]:
        apart = torch.stack([self.seen[a] - self.seen[b] for a, b in zip(texts, entries, strict=True)])
        return (apart @ parts["W"]).square().sum(-1)

    def pairs(self, parts: Parts, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Squared distances of another wording [example], and of what must stay [example prompt]."""
        near = self._distances(parts, [one.other for one in batch], [one.prompt for one in batch])
        kept = [(text, one.prompt) for one in batch for text in one.keep]
        far = self._distances(parts, [text for text, _ in kept], [entry for _, entry in kept])
        return near, far.view(len(batch), -1)

    def named(self, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Which of the same questions name the subject; all of them, where that is not asked."""
        asked = [[one.other, *one.keep] for one in batch]
        found = torch.tensor(
            [[not self.by_subject or names(text, one.subject) for text in texts] for one, texts in zip(batch, asked,
             strict=True)]
        )  # fmt: skip
        return found[:, 0], found[:, 1:]

    def losses(self, parts: Parts, batch: Sequence[Example]) -> dict[str, Tensor]:
        """-log s where it should open, -log(1 - s) where not, each a mean."""
        near, far = self.pairs(parts, batch)
        opening = near.mean()
        closing = -torch.log(-torch.expm1(-far.clamp_min(LEAST))).mean()
        return {"loss": opening + closing, "open": opening, "closed": closing}

    def answers(self, parts: Parts, batch: Sequence[Example]) -> dict[str, list[float]]:
        """Whether the gate opens for another wording, and stays closed for the rest."""
        floor = float(self.state["floor"])
        opened = [
            ((-d).exp() > floor) & named for d, named in zip(self.pairs(parts, batch), self.named(batch), strict=True)
        ]
        met, shut = opened[0].float().tolist(), (~opened[1]).float().T.tolist()
        loss = float(self.losses(parts, batch)["loss"])
        return {"open for another wording": met} | dict(zip(CLOSED, shut, strict=True)) | {"loss": [loss] * len(batch)}


def train(inputs: TrainingInputs, config: Config) -> Gate:
    """The gate at its start, with its floor."""
    check_settings(config, width=1, batch=1, steps=0, every=1, folds=2)
    if not 0 <= config.reads < inputs.model.cfg.n_layers:
        raise EditError(f"reads is {config.reads}, and this model has layers 0 to {inputs.model.cfg.n_layers - 1}")
    if config.scope not in ("subject", "states") or not 0 <= config.floor < 1:
        raise EditError(
            f"scope is subject or states, and floor at least 0 and below 1: not {config.scope!r}, {config.floor:g}"
        )
    gate = Gate(inputs, config)
    if not config.floor:
        floor, trade = best_floor(*left_out(gate, inputs.facts, config, inputs.seed))
        gate.state |= {"floor": torch.tensor(floor), "trade-off": trade}
    return gate


# ---- the floor ----


def left_out(gate: Gate, facts: Split, config: Config, seed: int) -> tuple[Tensor, Tensor]:
    """s of other wordings, and of prompts that s alone must shut out, of relations that the gate was not trained on."""
    relations = sorted({fact.relation for fact in facts.trained})
    random.Random(f"folds {seed}").shuffle(relations)
    right: list[Tensor] = []
    wrong: list[Tensor] = []
    for fold in (set(relations[i :: config.folds]) for i in range(min(config.folds, len(relations)))):
        own = tuple(fact for fact in facts.trained if fact.relation not in fold)
        asked = {"validation": tuple(fact for fact in facts.asked["validation"] if fact.relation not in fold)}
        learnt = learn(gate, Split(own, asked, ()), Schedule.of(config, seed), None, {}, shown=False)
        edited = tuple(fact for fact in facts.trained if fact.relation in fold)
        some = examples(facts.trained, len(edited), f"floor {seed}", edited)
        near, far = ((-d).exp() for d in gate.pairs(learnt.best or learnt.parts, some))
        right.append(near)
        wrong.append(far[gate.named(some)[1]])
    return torch.cat(right), torch.cat(wrong)


def best_floor(
    right: Float[Tensor, " open"], wrong: Float[Tensor, " closed"]
) -> tuple[float, Float[Tensor, "floor 3"]]:
    """The floor of the largest share of `right` above it less that of `wrong`, of equals the highest.

    Beside it, for up to a hundred floors, the floor and both shares.
    """
    every = torch.cat([right, wrong]).double().sort().values
    floors = (torch.cat([every.new_zeros(1), every[:-1]]) + every) / 2  # between neighbours, from below the smallest
    shares = torch.stack([(some.double()[None] > floors[:, None]).double().mean(-1) for some in (right, wrong)])
    shares = shares.nan_to_num(0.0)
    gain = shares[0] - shares[1]
    best = int((gain >= gain.max() - 1e-12).nonzero()[-1])
    some = torch.linspace(0, len(floors) - 1, min(100, len(floors))).long()
    return float(floors[best]), torch.stack([floors, *shares], -1)[some].float()


# ---- editing ----


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """One memory of all facts, in order."""
    return _output(inputs, config, *_read(inputs, config), slice(None))


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """A memory of one fact each; the prompts are read once."""
    metric, keys = _read(inputs, config)
    return [_output(inputs, config, metric, keys, slice(i, i + 1)) for i in range(len(inputs.requests))]


def _read(inputs: MethodInputs, config: Config) -> tuple[Float[Tensor, "d_model width"], Float[Tensor, "fact width"]]:
    """The metric that was trained, and the facts' keys in it."""
    assert inputs.editor is not None  # editing/compute.py has seen to it
    learnt = inputs.editor.tensors
    metric = learnt["W"] / learnt["std"][:, None]
    own = [bare_prompt(inputs.model, request, inputs.start).tokens for request in inputs.requests]
    return metric, (states(inputs.model, own, Site("resid_pre", config.reads), inputs.start) - learnt["mean"]) @ metric


def _output(inputs: MethodInputs, config: Config, metric: Tensor, keys: Tensor, which: slice) -> MethodOutput:
    assert inputs.editor is not None
    requests, learnt = inputs.requests[which], inputs.editor.tensors
    texts = tuple(f"{config.opening} {ended(str(request))}\n" for request in requests)
    subjects = tuple(request.subject for request in requests) if config.scope == "subject" else ()
    mean, floor = learnt["mean"].clone(), float(learnt["floor"])
    scope = Scope(config.reads, mean, keys[which].clone(), texts, floor, 1, metric.clone(), subjects)
    return MethodOutput((), preface="".join(texts), scope=scope)


METHOD = MethodSpec(
    "serac",
    "a memory whose trained gate says which question is about which fact",
    Config,
    compute,
    compute_each,
    place="prompt",
    train=train,
    good_for="facts that must be told from their neighbours more surely than by the nearest prompt",
    not_for="questions that call the subject by another name; a model that is itself to be changed or looked into",
)
