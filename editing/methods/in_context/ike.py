"""IKE: demonstrations of what an edit is, then the new fact, before every question (Zheng et al. 2023).

Each demonstration is a new fact and a prompt with its answer, of one of three kinds, in the paper's shares of 1:3:4:

    copy      the fact's own prompt           -> the new answer
    update    the fact in other words         -> the new answer
    retain    a neighbour of the fact         -> its true answer, which stays

They come from the shipped facts, the most alike last. The authors measure likeness with a sentence encoder; here it is
the cosine of the model's own states, the mean over a sentence's tokens of the residual stream in the middle of the
model, after the mean over all sentences is taken away (a common direction would drown the rest).

When not to use it: as ICE. It also makes every question longer by all of its demonstrations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.scope import states as means
from factscope.data.load import load_facts
from factscope.data.request import EditRequest
from factscope.model.bridge import Bridge
from factscope.model.prompts import start_ids, token_ids
from factscope.model.sites import Site

KINDS = ("copy", "update", "update", "update", "retain", "retain", "retain", "retain")  # in turn


@dataclass(frozen=True)
class Config:
    """The authors give 32 demonstrations; 8, one of each share, keep a question affordable on a CPU."""

    demonstrations: int = 8
    corpus: int = 256  # shipped facts, drawn with the seed, from which they are retrieved

    @classmethod
    def for_model(cls, _: Bridge) -> "Config":
        """The same for every model."""
        return cls()


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """The demonstrations for each fact, then all new facts."""
    (one,) = _made(inputs, config, [inputs.requests])
    return one


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """One edit a fact; the corpus is read once."""
    return _made(inputs, config, [(request,) for request in inputs.requests])


def _made(inputs: MethodInputs, config: Config, groups: Sequence[tuple[EditRequest, ...]]) -> list[MethodOutput]:
    edited = {request.subject.casefold() for group in groups for request in group}
    corpus = [
        EditRequest.of(fact)
        for fact in load_facts(seed=inputs.seed)
        if fact.foil and fact.paraphrases and fact.neighbours and fact.subject.casefold() not in edited
    ][: config.corpus if config.demonstrations else 0]
    flat = [request for group in groups for request in group]
    vectors = states(inputs, list(map(str, (*flat, *corpus)))) if corpus else torch.zeros(len(flat), 1)
    made, at = [], 0
    for group in groups:
        own = vectors[at : at + len(group)].mean(0)
        at += len(group)
        near = (vectors[len(flat) :] @ own).argsort(descending=True)[: config.demonstrations].tolist() if corpus else []
        shown = [demonstration(corpus[i], KINDS[rank % len(KINDS)]) for rank, i in enumerate(near)]
        told = "".join(f"New Fact: {request}\n" for request in group)
        made.append(MethodOutput((), preface="".join(reversed(shown)) + told + "Prompt:\n"))
    return made


def demonstration(request: EditRequest, kind: str) -> str:
    """One new fact, one prompt, its answer."""
    neighbour = request.neighbours[0]
    asked = {
        "copy": str(request),
        "update": f"{request.paraphrases[0]} {request.target}",
        "retain": f"{neighbour.prompt} {neighbour.answer}",
    }[kind]
    return f"New Fact: {request}\nPrompt:\n{asked}\n\n"


def states(inputs: MethodInputs, texts: Sequence[str]) -> Float[Tensor, "text d_model"]:
    """Unit vectors of sentences; see the module's text."""
    model = inputs.model
    first = start_ids(model, inputs.start)
    rows = [[*first, *token_ids(model, text)] for text in texts]
    stacked = means(model, rows, Site("resid", model.cfg.n_layers // 2), inputs.start)
    return torch.nn.functional.normalize(stacked - stacked.mean(0), dim=-1)


METHOD = MethodSpec(
    "ike",
    "demonstrations of what an edit is, then the fact, before every question",
    Config,
    compute,
    compute_each,
    place="prompt",
    good_for="a baseline that answers more other wordings than ICE",
    not_for="a model that is itself to be changed or looked into; every question becomes longer by all demonstrations",
    needs="room in the context for the demonstrations",
)
