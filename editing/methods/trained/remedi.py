"""REMEDI: a linear map turns a statement into a vector, which is added where the entity's name ends (2023).

    h = mean state after block l over the tokens of the new answer, in "prompt answer", read by the model itself
    d = h W + b                                                 W [d_model d_model], learnt on other facts
    state after block l, at the last token of the entity  :=  state + alpha d

Whatever is asked about the entity is then answered as if the statement held of it (Hernandez, Li and Andreas, arXiv
2304.00740, section 3). It is learnt so that another wording gives the new answer, and prompts that name the entity and
ask something else stay: NLL + `keep_weight` times KL(unedited || edited).

Convention: d is added; W = 0 is the model itself, where the training begins. Differences, each a choice: the loss has
no term against the old answer, which training facts need not say, and none for the entity's essence; the KL is behind
prompts that must stay, theirs at the positions between the entity and the prompt's end; what the map reads is the
answer's tokens. The shift is added to what the MLP of layer l writes, in training as in use: the stream takes it as it
is, unless a norm follows the MLP (Gemma 3), which the shift then passes, too.

The same vector asks what the model holds already, the paper's section 5: `beliefs` compares d of the new and of the old
answer with the unedited state where the subject's name ends, by cosine, both less their means over shipped facts (the
paper takes a product, which the vectors' lengths decide, too). An edit keeps both numbers for its page.

Scope: every layer but the last. Prompts that name the entity: all
others are bitwise as they were. When not to use it: for questions that call the entity by another name, or name none.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from editing.bypass import Bypass
from editing.edit import set_aside
from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.requests import bare_prompt
from editing.scope import name_ends
from editing.trained.changing import ChangeLearner
from editing.trained.editor import Trained
from editing.trained.examples import Asker, TrainingInputs
from editing.trained.facts import Example
from editing.trained.learning import Parts
from editing.trained.tail import Row, Tail
from factscope.data.request import EditRequest
from factscope.data.shipped import relations
from factscope.errors import EditError
from factscope.model.bridge import Bridge, device
from factscope.model.forward.scoring import Pair
from factscope.model.hooks import hooked
from factscope.model.sites import Site

USUAL = 2  # facts of each shipped relation whose states and vectors are the means of the probe


@dataclass(frozen=True)
class Config:
    """The authors' map and rate; layer, weight and steps are scaled guesses. Theirs: layers 0 and 1, KL weight 10.

    A pilot on the default model found layer 12 better than 5 (.82 and .72 of other wordings after eight minutes).
    """

    layer: int = 12  # set by for_model: two fifths of the way up
    alpha: float = 1.0
    keep_weight: float = 1.0
    learning_rate: float = 1e-3
    steps: int = 600
    batch: int = 16
    every: int = 100  # steps between two scores on validation facts

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """The same height."""
        return cls(layer=max(0, min(int(model.cfg.n_layers) * 2 // 5, int(model.cfg.n_layers) - 2)))


def statements(tail: Tail, pairs: Sequence[Pair]) -> Float[Tensor, "pair d_model"]:
    """h: the mean state over each answer's tokens, behind its prompt, after the first block of the tail."""
    rows = [(*pair.prompt, *pair.answer) for pair in pairs]
    states = tail.states(rows, Site("resid", tail.first))
    return torch.stack(
        [one[len(pair.prompt) : len(row)].mean(0) for one, pair, row in zip(states, pairs, rows, strict=True)]
    ).float()


class Shifted(Asker):
    """Examples whose change is a vector [example d_model] at the end of the entity's name."""

    def changed(
        self, changes: Tensor, owner: Int[Tensor, " row"], batch: Sequence[Example], prompts: Sequence[Row], /
    ) -> AbstractContextManager[None]:
        """Each example's vector is added where its entity's name ends; prompts that do not name it are as they were."""
        whose = owner.tolist()
        ends = [name_ends(self.model, one, batch[i].subject) for one, i in zip(prompts, whose, strict=True)]
        here = [(row, end, i) for row, (end, i) in enumerate(zip(ends, whose, strict=True)) if end is not None]
        row, pos, which = torch.tensor(here, device=device(self.model)).T
        shift = lambda y: y.index_put((row, pos), changes[which].to(y), accumulate=True)  # noqa: E731
        return hooked(self.model, [(Site("mlp_write", self.tail.first), shift)])


class Editor(ChangeLearner):
    """REMEDI while it learns."""

    def __init__(self, asker: Shifted, config: Config) -> None:
        super().__init__(asker, keep_weight=config.keep_weight)
        self.config = config
        width, at = int(asker.model.cfg.d_model), device(asker.model)
        self.parts = {"W": torch.zeros(width, width, device=at), "b": torch.zeros(width, device=at)}
        self.rates = dict.fromkeys(self.parts, config.learning_rate)
        self.state = {}

    def changes(self, parts: Parts, batch: Sequence[Example]) -> Float[Tensor, "example d_model"]:
        """The vector of each example."""
        return self.config.alpha * (statements(self.asker.tail, self.asker.edits(batch)) @ parts["W"] + parts["b"])


def check(model: Bridge, layers: Sequence[int]) -> None:
    """EditError for a layer that the model lacks, and for the last, above which nothing reads the shift."""
    most = int(model.cfg.n_layers) - 2
    for layer in layers:
        if not 0 <= layer <= most:
            raise EditError(f"a shift stands in layers 0 to {most} of this model, not in {layer}")


def train(inputs: TrainingInputs, config: Config) -> Editor:
    """The editor at its start."""
    check_settings(config, batch=1, steps=0, every=1)
    return Editor(Shifted(inputs, config.layer), config)


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """One vector for each fact, all beside one layer."""
    return _output(inputs, config, *_read(inputs, config), slice(None))


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """A vector for every fact alone."""
    vectors, held = _read(inputs, config)
    return [_output(inputs, config, vectors, held, slice(i, i + 1)) for i in range(len(inputs.requests))]


def _read(inputs: MethodInputs, config: Config) -> tuple[Tensor, Tensor]:
    """Each fact's vector [fact d_model], what is held already [fact answer]; without the shifts of edits in place."""
    model, editor = inputs.model, inputs.editor
    assert editor is not None  # editing/compute.py has seen to it
    with set_aside(model, "shift", config.layer):
        vectors = config.alpha * directions(model, editor, inputs.requests, inputs.start)
        return vectors, beliefs(model, editor, inputs.requests, inputs.start)


def _output(inputs: MethodInputs, config: Config, vectors: Tensor, held: Tensor, which: slice) -> MethodOutput:
    words = tuple(request.subject for request in inputs.requests[which])
    part = Bypass("shift", config.layer, {"values": vectors[which].clone()}, {}, words)
    asked = [both for both, one in zip(held[which].tolist(), inputs.requests[which], strict=True) if one.old]
    old = sum(both[1] > both[0] for both in asked)
    note = f"before the edit the subject's state was nearer to the old answer in {old} of {len(asked)} facts"
    notes = (note,) if asked else ()
    return MethodOutput((), bypasses=(part,), memory={"probe": held[which].clone()}, notes=notes)


# ---- what the model holds already


@torch.no_grad()
def directions(
    model: Bridge, editor: Trained, requests: Sequence[EditRequest], start: str = "auto"
) -> Float[Tensor, "fact d_model"]:
    """d of each request's target, behind its prompt; on the CPU."""
    prompts = [bare_prompt(model, request, start) for request in requests]
    pairs = [Pair(tuple(prompt.tokens), tuple(prompt.answer_ids)) for prompt in prompts]
    tail = Tail(model, int(editor.config["layer"]), [(*pair.prompt, *pair.answer) for pair in pairs])
    return statements(tail, pairs).cpu() @ editor.tensors["W"] + editor.tensors["b"]


@torch.no_grad()
def entities(
    model: Bridge, editor: Trained, requests: Sequence[EditRequest], start: str = "auto"
) -> Float[Tensor, "fact d_model"]:
    """The state after the editor's block where each subject's name ends in its prompt; on the CPU."""
    rows = [tuple(bare_prompt(model, request, start).tokens) for request in requests]
    ends = [name_ends(model, row, request.subject) for row, request in zip(rows, requests, strict=True)]
    layer = int(editor.config["layer"])
    states = Tail(model, layer, rows).states(rows, Site("resid", layer))
    at = [end for end in ends if end is not None]  # a request's prompt names its subject
    return states[torch.arange(len(rows)), at].float().cpu()


def beliefs(
    model: Bridge, editor: Trained, requests: Sequence[EditRequest], start: str = "auto"
) -> Float[Tensor, "fact answer"]:
    """Cosine of the subject's state with d of the new answer, and with d of the old one; the model as it runs.

    0 where the old answer is not known. Means are over shipped facts' own answers (Hernandez et al. 2023, section 5).
    """
    usual = [
        EditRequest.of_truth(relation.fact(entry, relation.templates[0]))
        for relation in relations().values()
        for entry in relation.entries[:USUAL]
    ]
    centre, middle = (ask(model, editor, usual, start).mean(0) for ask in (entities, directions))
    states = entities(model, editor, requests, start) - centre
    out = torch.zeros(len(requests), 2)
    told = {0: [(i, one) for i, one in enumerate(requests)]}
    told[1] = [(i, replace(one, target=one.old, old=None, aliases=())) for i, one in told[0] if one.old]
    for side, some in told.items():
        if some:
            own = [number for number, _ in some]
            said = directions(model, editor, [one for _, one in some], start) - middle
            out[own, side] = torch.nn.functional.cosine_similarity(states[own], said, dim=-1)
    return out


METHOD = MethodSpec(
    "remedi",
    "a trained linear map turns the statement into a vector, added in one layer where the subject's name ends",
    Config,
    compute,
    compute_each,
    place="beside",
    train=train,
    check_layers=check,
    reads_prompts=True,
    good_for="facts that will be asked in other words behind their subject, with all else left as it was",
    not_for="questions that name the subject otherwise or not at all; a subject whose other facts must surely stay",
)
