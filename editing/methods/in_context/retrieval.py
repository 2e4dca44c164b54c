"""Retrieval: remember every new fact as a sentence, and tell the model the nearest of them if it is near enough.

    Imagine that The Louvre is located in the city of Berlin.         where the question is about the Louvre's city
    <the question>

It is the baseline that editors of weights and trained editors must beat: nothing is learned, a thousand facts make no
question longer than one fact does, and a question that nothing is near to is the model's own, bit for bit (MemPrompt,
Madaan et al. 2022; IKE's retriever, Zheng et al. 2023). Those read prompts with a sentence encoder. Here it is the
model: the mean state of a prompt early in the model, and the product by which a ROME edit of one key reaches another
(editing/scope.py), with C the covariance of the states of two wordings of 20 subjects of every shipped relation.

Convention: nearness is 1 for the stored prompt itself. Scope: every model; a question about the same subject that asks
for another relation finds the fact as well, about every second time.

When not to use it: as ICE.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.methods.in_context.ice import ended
from editing.requests import bare_prompt
from editing.scope import Scope, states
from factscope.data.fact import fill
from factscope.data.shipped import relations
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.prompts import tokenized
from factscope.model.sites import Site

SUBJECTS = 20  # of every shipped relation, in two wordings each


@dataclass(frozen=True)
class Config:
    """The opening is ICE's; the rest was swept on the default model.

    360 shipped facts, C from one half of their subjects, the other half asked: the share of other wordings that find
    their fact, of prompts about another subject of the relation that find it too, of the same subject's other
    relations. Layer 0, 2, 5 at floor 0.5, ridge 0.3: (.89, .0035, .44), (.89, .0028, .50), (.76, .019, .25). Layer 2,
    floor 0.4, 0.45, 0.6: (.94, .018, .75), (.92, .008, .50), (.76, .001, .38). Layer 2, ridge 1 and 3 at 0.5: (.82,
    .013, .38), (.76, .078, .31). The nearest of 180 entries is the right one for .96 of the wordings, whatever the
    floor. The cosine of plain means does nothing of the kind (layers 0 to 27: .00 to .20 at .01).
    """

    reads: int = 2  # the layer whose input is read; set by for_model: a fifteenth of the way up
    floor: float = 0.5  # nearness from which on a fact is told
    most: int = 1  # facts that are told before one question
    ridge: float = 0.3  # added to C, in mean variances of a coordinate
    opening: str = "Imagine that"

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """With the layer at the same height."""
        return cls(reads=int(model.cfg.n_layers) // 15)


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """One memory of all facts, in order."""
    return _output(inputs, config, *_read(inputs, config), slice(None))


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """A memory of one fact each; the prompts are read once."""
    mean, keys = _read(inputs, config)
    return [_output(inputs, config, mean, keys, slice(i, i + 1)) for i in range(len(inputs.requests))]


def _output(inputs: MethodInputs, config: Config, mean: Tensor, keys: Tensor, which: slice) -> MethodOutput:
    texts = tuple(f"{config.opening} {ended(str(request))}\n" for request in inputs.requests[which])
    scope = Scope(config.reads, mean.clone(), keys[which].clone(), texts, config.floor, config.most)
    return MethodOutput((), preface="".join(texts), scope=scope)


def _read(inputs: MethodInputs, config: Config) -> tuple[Float[Tensor, " d_model"], Float[Tensor, "fact d_model"]]:
    """The mean of ordinary prompts, and the facts' keys."""
    model, site = inputs.model, Site("resid_pre", config.reads)
    if not 0 <= config.reads < model.cfg.n_layers:
        raise EditError(f"reads is {config.reads}, and this model has layers 0 to {model.cfg.n_layers - 1}")
    check_settings(config, "ridge", most=1)
    ordinary = states(model, [tokenized(model, text, start=inputs.start)[0] for text in _prompts()], site, inputs.start)
    own = [bare_prompt(model, request, inputs.start).tokens for request in inputs.requests]
    return ordinary.mean(0), keys_of(states(model, own, site, inputs.start), ordinary, config.ridge)


def keys_of(
    own: Float[Tensor, "fact d_model"], ordinary: Float[Tensor, "prompt d_model"], ridge: float
) -> Float[Tensor, "fact d_model"]:
    """C^-1 (k - mean) over (k - mean)' C^-1 (k - mean), in float64; C of ordinary prompts, with the ridge."""
    mean = ordinary.mean(0)
    centred, apart = (ordinary - mean).double(), (own - mean).double()
    moment = centred.T @ centred / len(centred)
    moment.diagonal().add_(ridge * moment.diagonal().mean())
    solved: Tensor = torch.linalg.solve(moment, apart.T).T
    keys: Tensor = solved / (apart * solved).sum(-1, keepdim=True)
    return keys.float()


def _prompts() -> Sequence[str]:
    """Two wordings of some subjects of every shipped relation."""
    return [
        fill(wording, entry.subject)
        for relation in relations().values()
        for entry in relation.entries[:SUBJECTS]
        for wording in (relation.wordings[0], relation.wordings[-1])
    ]


METHOD = MethodSpec(
    "retrieval",
    "the nearest remembered fact, where one is near enough",
    Config,
    compute,
    compute_each,
    place="prompt",
    good_for="the mark that an editor must beat: questions that are not near stay bitwise as they were",
    not_for="a model that is itself to be changed or looked into",
    needs="a look at shipped prompts, once",
)
