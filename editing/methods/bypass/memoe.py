"""MEMoE: a mixture of experts beside one projection, routed by the token and the sentence's knowledge anchor.

The projection W_0 stays as it is; beside it stand E linear maps, and a router chooses the k that answer a token (Wang
and Li 2024):

    G    = top_k(softmax(W_g [x / rms(x) ; a / rms(a)] + noise))                                 equations 9 and 12
    h    = W_0 x + lambda * sum_e G_e W_e x                                                     equations 10 and 11
    loss = mean over facts of -(1/T) sum_t log p(target_t | prompt, target_<t)  +  beta * E * sum_e f_e P_e

f_e is the share of tokens whose most likely expert is e, P_e that expert's mean probability (the balance of Switch
Transformers, 1 where all are used alike). Adam on experts and router, all facts in one batch.

The paper leaves thirteen things open. What is chosen here, and the setting that says otherwise; `choices` says them of
one configuration, for the edit's page:

     1  which W_0                 the down-projection, where every method here writes
     2  gates after the top k     as they are: with k = 1 a gate of 1 would leave the router without a gradient
                                  (`renormalised=true`: scaled up to a sum of 1, with k above 1)
     3  the noise                 N(0, 1/E^2) while learning, none afterwards (`noise`, in units of 1/E)
     4  which anchors             an edit's subject, found as whole words, of overlapping ones the longest; the mean of
                                  its tokens' embeddings, written as in the middle of a text; several anchors: their
                                  mean; none: 0. No recogniser of names gives the paper's example, which calls
                                  "president" an entity. `anchored=false`: the router reads the token alone
     5  the scale of both halves  each over its root mean square, or the anchor would not be seen beside the token
     6  scope                     rows whose prompt names an anchor (`scope=anchor`): a locality of 100 does not follow
                                  from the equations, by which every row changes (`scope=always`)
     7  lambda                    1 (`strength`)
     8  how experts begin         as 0, the router as N(0, 0.02^2): the edit begins as the unedited model
     9  optimiser                 Adam, `learning_rate`, `steps`, `stop`
    10  an expert's size          a whole matrix
    11  contexts                  the bare prompt
    12  edit after edit           each edit has its own experts, and the latest in scope speaks (`sequence=own`);
                                  `sequence=continue`: an edit goes on from the experts of the one before it, as in the
                                  paper, and speaks for its facts too
    13  what is routed            every token

When not to use it: for other facts about a subject that must stay as they are, since the anchor opens there too; for
prompts that do not name the subject, where it stays closed; for a model that will be exported, because nothing is in
the weights. It is large: E matrices of the size of the projection an edit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from editing.bypass import Bypass
from editing.bypasses.experts import Mixture, Rule, gates, mixtures, scores
from editing.edit import parts_in_place, set_aside
from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.solve.training import Change, Groups, Parts, Rows, Training, train
from factscope.data.fact import whole_words
from factscope.data.request import EditRequest
from factscope.data.shipped import relations
from factscope.errors import EditError
from factscope.model.bridge import Bridge, device
from factscope.model.forward.subject import check_written
from factscope.model.prompts import token_ids
from factscope.model.weights import MLP_OUT, WeightName, key_width

APART = 4  # facts that learn side by side: each has experts, their gradient and Adam's two moments
SPREAD = 0.02  # of the router's first numbers
EVERYWHERE = 0.01  # of the shipped prompts: an anchor that stands in more of them is no anchor


@dataclass(frozen=True)
class Config:
    """The paper's, where it gives them; the rest was tried on the default model: one edit of 8 shipped facts that it
    knows, all learned, judged by 16 paraphrases. *Generality* is the share that is answered with the whole target.
    """

    layer: int = 22  # three quarters of the way up: generality .81, at 5 and 15 (half, as in the paper) .69
    experts: int = 4  # the paper's best of 1 to 6; at layer 15, generality .69, with 1 expert .62
    top_k: int = 1
    strength: float = 1.0  # lambda
    steps: int = 50
    learning_rate: float = 1e-3  # at 3e-4, half of the facts are not learned in 50 steps
    stop: float = 0.01  # nats
    balance: float = 0.01  # beta, Switch Transformers'
    noise: float = 1.0  # in units of 1/E
    scope: Literal["anchor", "always"] = "anchor"
    renormalised: bool = False
    anchored: bool = True  # at layer 15, .88 of the paraphrases prefer the target; without anchors .75
    sequence: Literal["own", "continue"] = "own"

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """With the layer at the same height."""
        return cls(layer=int(model.cfg.n_layers) * 3 // 4)


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """One mixture for all facts."""
    _check(inputs, config)
    return _trained(inputs, config, apart=False)[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """A mixture for each fact, some of them trained side by side."""
    _check(inputs, config)
    chunks = [inputs.requests[i : i + APART] for i in range(0, len(inputs.requests), APART)]
    return [made for some in chunks for made in _trained(replace(inputs, requests=some), config, apart=True)]


def _check(inputs: MethodInputs, config: Config) -> None:
    check_written(inputs.model, config.layer)
    if config.renormalised and config.top_k == 1:
        raise EditError(
            "with top_k 1 a renormalised gate is always 1, and the router learns nothing: give top_k=2 or more"
        )
    if not 1 <= config.top_k <= config.experts:
        raise EditError(f"top_k is {config.top_k}, and there are {config.experts} experts: give 1 to {config.experts}")
    check_settings(config, "learning_rate", "steps", "strength")


def check_anchors(requests: Sequence[EditRequest], config: Config) -> None:
    """EditError for a subject whose anchor would open nearly everywhere."""
    if config.scope != "anchor":
        return
    prompts = [
        relation.fact(entry, relation.templates[0]).prompt
        for relation in relations().values()
        for entry in relation.entries
    ]
    for subject in dict.fromkeys(request.subject for request in requests):
        met = sum(bool(whole_words(subject.casefold(), prompt.casefold())) for prompt in prompts)
        if met > EVERYWHERE * len(prompts):
            raise EditError(
                f"the subject {subject!r} stands in {met} of {len(prompts)} shipped prompts, so an anchor of that name "
                "would open nearly everywhere: mark a longer subject"
            )


def _trained(inputs: MethodInputs, config: Config, apart: bool) -> list[MethodOutput]:
    """Train without the experts in place: where these here will speak, those will not."""
    before, how = _before(inputs.model, config), Training(config.steps, config.learning_rate, config.stop)
    with set_aside(inputs.model, "experts", config.layer):
        return train(inputs, how, lambda groups: Experts(inputs, config, groups, before), apart)


def _before(model: Bridge, config: Config) -> Mixture | None:
    """The experts to go on from: the latest in place, where that is asked for; EditError if they are other in kind."""
    parts = parts_in_place(model, "experts", config.layer)
    if config.sequence == "own" or not parts:
        return None
    last = mixtures(parts[-1], device(model))[-1]
    if (last.rule.experts, last.rule.top_k) != (config.experts, config.top_k):
        raise EditError(
            f"the edit in place has {last.rule.experts} experts and top_k {last.rule.top_k}, so one of "
            f"{config.experts} and {config.top_k} cannot go on from it: give the same, or sequence=own"
        )
    return replace(last, words=parts[-1].words[-last.rule.anchors :] if last.rule.anchors else ())


def anchor(model: Bridge, subject: str) -> Float[Tensor, " d_model"]:
    """What the router reads for a subject: the mean embedding of its tokens, as they are in the middle of a text."""
    ids = torch.tensor(token_ids(model, " " + subject), device=device(model))
    embedding: Tensor = model.embed.original_component.weight[ids]
    return embedding.detach().float().mean(0)


class Experts(Change):
    """Experts [group, expert, d_in, d_out] and router [group, expert, d_in + d_out], from no change on."""

    def __init__(self, inputs: MethodInputs, config: Config, groups: Groups, before: Mixture | None) -> None:
        model, self.model = inputs.model, inputs.model
        self.weights, self.seed = (WeightName(config.layer, MLP_OUT),), inputs.seed
        self.config, self.before, self.groups = config, before, groups
        width, d_out = key_width(model, config.layer), int(model.cfg.d_model)
        experts = torch.zeros(config.experts, width, d_out)
        generator = torch.Generator().manual_seed(inputs.seed)
        router = SPREAD * torch.randn(config.experts, width + d_out, generator=generator)
        if before is not None:
            experts, router = before.experts, before.router
        self.parts = {
            (self.weights[0], name): tensor.to(device(model)).expand(len(groups), *tensor.shape).clone()
            for name, tensor in (("experts", experts), ("router", router))
        }
        self.known: dict[str, Tensor] = {}
        self.step = 0

    def meets(self, rows: Rows, some: Tensor, /) -> None:
        """The anchors of these facts, and which positions are theirs."""
        chosen = some.tolist()
        self.anchors = torch.stack([self.anchor(rows.requests[fact].subject) for fact in chosen])
        lengths = torch.tensor([rows.lengths[fact] for fact in chosen])
        self.own = (torch.arange(rows.rows.shape[1]) < lengths[:, None]).to(self.anchors.device)
        self.step += 1

    def anchor(self, subject: str) -> Tensor:
        """A subject's, as the router reads it."""
        if subject not in self.known:
            found = anchor(self.model, subject)
            self.known[subject] = found if self.config.anchored else torch.zeros_like(found)
        return self.known[subject]

    def added(
        self, parts: Parts, weight: WeightName, read: Float[Tensor, "row pos d_in"]
    ) -> Float[Tensor, "row pos d_out"]:
        """All experts at every position, by their gates; the most likely ones are counted on the way."""
        experts, router = parts[weight, "experts"], parts[weight, "router"]
        rows = len(read) if len(experts) > 1 else 1  # a mixture for each row, or one for all
        read, count = read.float(), self.config.experts
        noise = self.noise(read.shape[1]).to(read)
        score = scores(read, self.anchors, router if rows > 1 else router[0])
        p = (score + noise).softmax(-1)
        mine = self.own[..., None].to(p)
        first = torch.zeros_like(p).scatter(-1, p.argmax(-1, keepdim=True), 1.0)
        shares = [(each * mine).sum(1).view(len(experts), -1, count).sum(1) for each in (first, p)]
        tokens = mine.sum(1).view(len(experts), -1).sum(1, keepdim=True)
        self.balance = count * (shares[0] * shares[1] / tokens**2).sum(-1)
        said = torch.einsum(
            "rpi,reio->rpeo" if rows > 1 else "rpi,eio->rpeo", read, experts if rows > 1 else experts[0]
        )
        return self.config.strength * torch.einsum(
            "rpe,rpeo->rpo", gates(p, self.config.top_k, self.config.renormalised), said
        )

    def noise(self, width: int) -> Float[Tensor, "pos expert"]:
        """Of this step, for every row the same; in blocks of 16, which torch draws alike however many there are."""
        count, generator = self.config.experts, torch.Generator().manual_seed(self.seed * 100_003 + self.step)
        drawn = torch.randn(-(-width // 16) * 16, count, generator=generator)
        return drawn[:width] * (self.config.noise / count)

    def penalty(self, _: Parts, /) -> Tensor:
        """beta * E * sum_e f_e P_e of each group."""
        return self.config.balance * self.balance

    def output(self, group: int) -> MethodOutput:
        """One group's experts, router and anchors."""
        own = self.groups[group]
        words = dict.fromkeys((*(self.before.words if self.before else ()), *(request.subject for request in own)))
        config = self.config
        rule = Rule(
            config.experts, len(words), config.top_k, config.strength, config.scope == "always", config.anchored,
            config.renormalised,
        )  # fmt: skip
        tensors = {name: tensor[group].detach().cpu().clone() for (_, name), tensor in self.parts.items()}
        tensors["anchors"] = torch.stack([anchor(self.model, word) for word in words]).cpu()
        tensors["edits"] = rule.row()[None]
        return MethodOutput((), bypasses=(Bypass("experts", config.layer, tensors, {}, tuple(words)),))


def choices(config: Config) -> tuple[tuple[str, str, str], ...]:
    """What the paper leaves open, what this configuration chooses, and the setting that says otherwise."""
    scope = "rows whose prompt names an anchor" if config.scope == "anchor" else "every row, as the equations say"
    anchors = "the subject's, as whole words; the mean of its tokens' embeddings"
    later = "each edit its own experts, the latest in scope speaks"
    return (
        ("which W_0", f"the down-projection of layer {config.layer}", "layer"),
        ("gates after the top k", "scaled up to a sum of 1" if config.renormalised else "as they are", "renormalised"),
        ("noise", f"N(0, ({config.noise:g}/{config.experts})²) while learning, none afterwards", "noise"),
        ("anchors", anchors if config.anchored else "none: the router reads the token alone", "anchored"),
        ("scale of both halves", "each over its root mean square", ""),
        ("scope", scope, "scope"),
        ("lambda", f"{config.strength:g}", "strength"),
        ("how experts begin", f"as 0, the router as N(0, {SPREAD:g}²)", ""),
        ("optimiser", f"Adam, {config.learning_rate:g}, {config.steps} steps or {config.stop:g} nats", "learning_rate"),
        ("size of an expert", "a whole matrix", ""),
        ("contexts", "the bare prompt", ""),
        ("edit after edit", later if config.sequence == "own" else "goes on from the edit before", "sequence"),
        ("what is routed", "every token", ""),
    )


METHOD = MethodSpec(
    "memoe",
    "a mixture of experts, routed by the token and the prompt's subject (its anchor)",
    Config,
    compute,
    compute_each,
    place="beside",
    reads_prompts=True,
    choices=choices,
    check_requests=check_anchors,
    good_for="batches of facts that are asked by their subject",
    not_for="a subject whose other facts must stay as they are: the anchor opens there, too",
    needs="a subject that stands in few prompts; room: experts are whole matrices",
)
