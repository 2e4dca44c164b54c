"""T-Patcher: one neuron for each token that the model gets wrong, beside the last MLP (Huang et al. 2023).

A fact's target is asked with the true tokens before each (teacher forced), and each token that is not the argmax gets a
neuron: its key is what the MLP reads at the position before the token, q, divided by |q|^2, so that the neuron's input
is 1 there. What it writes begins as 0. Key, bias and value learn by Adam on

    loss = -(1/T) sum_t log p(target_t | prompt, target_<t)
         + act * mean exp(-(k q + b))                                               it fires at its mistake
         + memory * mean_m [ exp(k m + b + margin) + exp(k m - k q + margin) ]      and nowhere else

over the states m that shipped prompts about other subjects have there, of which the `worst` count, those of other facts
of the same edit, and the mistakes of T-Patcher's edits in place. A fact ends once it is right and no such state fires
its neurons. The activation is ReLU whatever the model's own is, so that a neuron that is silent writes nothing. The
authors begin with drawn values and decay weights; their memory is 40,000 states.

When not to use it: for facts that will be asked in other words, since a neuron is a key for one state; with
thousands of facts, as every neuron is asked at every token. A fact that the model says already gets no neuron.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from editing.bypass import Bypass
from editing.bypasses.neurons import fired
from editing.edit import in_place, remembered
from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.requests import target_prompts
from editing.solve.adam import Adam
from editing.solve.ordinary import Ordinary
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

MISTAKES = 5  # tokens of a target that get a neuron, at most
STEEP = 20.0  # exponents of the penalties are cut off there
AMPLIFY = 10.0  # what is written is this times what learns


@dataclass(frozen=True)
class Config:
    """The authors', but for the number of steps and the size of the memory.

    On the default model 8 known shipped facts in one edit take 63 steps and 9 neurons. All are learned, 10 of 16
    paraphrases give the whole target, and 7 of 16 neighbours fire a neuron somewhere; one changes its preference.
    """

    layer: int = 29  # set by for_model: the last
    steps: int = 200  # at most, where they take 2,000
    learning_rate: float = 0.01
    stop: float = 0.05  # nats; a fact that is right goes on learning until here
    act: float = 1.0
    memory: float = 10.0  # theirs for zsRE; 5 for FEVER
    margin: float = 3.0
    worst: int = 1000  # states of the memory that count at each step
    apiece: int = 4  # prompts of each shipped relation whose states are the memory; of 12, 8 paraphrases, 5 neighbours
    contexts: int = 0  # sampled texts before the prompt, where they take eight repeats
    context_length: int = 10

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """At the last layer."""
        return cls(layer=int(model.cfg.n_layers) - 1)


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """The neurons of all facts; each stays silent at the mistakes of the others."""
    learned = _learned(inputs, config, apart=False)
    return learned.output(inputs, config, range(len(inputs.requests)))


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """The neurons of each fact, all of them trained side by side."""
    learned = _learned(inputs, config, apart=True)
    return [learned.output(inputs, config, [fact]) for fact in range(len(inputs.requests))]


@dataclass(frozen=True, eq=False)
class _Learned:
    owner: Int[Tensor, " neuron"]  # the fact of each
    queries: Float[Tensor, "neuron d_model"]
    parts: dict[str, Tensor]  # keys, bias, values
    curve: Float[Tensor, "step fact"]
    open: Int[Tensor, " fact"]  # states of the memory that still fire one of its neurons

    def output(self, inputs: MethodInputs, config: Config, facts: Sequence[int]) -> MethodOutput:
        """The neurons of these facts."""
        mine = torch.isin(self.owner, torch.tensor(list(facts)))
        tensors = {name: part[mine].clone() for name, part in self.parts.items()}
        words = tuple(inputs.requests[int(fact)].target for fact in self.owner[mine])
        notes = [f"the model says {inputs.requests[f].target!r} already" for f in facts if not (self.owner == f).any()]
        still = int(self.open[list(facts)].sum())
        notes += [f"{still} states of shipped prompts still fire a neuron"] if still else []
        curve = self.curve[:, list(facts)] if len(self.curve) else None
        part = Bypass("neurons", config.layer, tensors, {}, words)
        return MethodOutput(
            (), curve=curve, notes=tuple(notes), bypasses=(part,), memory={"mistakes": self.queries[mine].clone()}
        )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Every fact in every context with its target, and what one pass of the model left of it."""

    frame: Frame
    ids: Int[Tensor, "row pos"]
    layer: int
    fact: Int[Tensor, " row"]
    ends: Int[Tensor, " row"]
    answers: tuple[tuple[int, ...], ...]  # of each row
    resid: Float[Tensor, "row pos d_model"]
    x: Float[Tensor, "row pos d_model"]  # what the layer's MLP reads

    @classmethod
    def of(cls, inputs: MethodInputs, layer: int) -> "_Rows":
        model = inputs.model
        asked = [
            (number, prompt)
            for number, request in enumerate(inputs.requests)
            for prompt in target_prompts(model, request, inputs.contexts, inputs.start)
        ]
        ids = padded(model, [(*prompt.tokens, *prompt.answer_ids[:-1]) for _, prompt in asked])
        ends = torch.tensor([len(prompt.tokens) - 1 for _, prompt in asked])
        most = max(len(prompt.answer_ids) for _, prompt in asked)
        check_slopes(model, layer, len(ids), ids.shape[1], most, len(inputs.requests))
        sites = Site("resid_pre", layer), Site("mlp_read", layer)
        seen = states_at(model, ids, ends, sites)
        answers = tuple(tuple(prompt.answer_ids) for _, prompt in asked)
        fact = torch.tensor([number for number, _ in asked])
        return cls(Frame.of(model, ids), ids, layer, fact, ends, answers, seen[sites[0]], seen[sites[1]].float())

    @thin_products()
    def asked(self, added: Tensor | None) -> tuple[Float[Tensor, " token"], Bool[Tensor, " token"]]:
        """Log-probability of every token of every row, and whether it is the argmax; `added` to what is written."""
        write = Site("mlp_write", self.layer), lambda y: None if added is None else y + added.to(y)
        with hooked(self.frame.model, [write]), ending(self.ends, tokens=self.ids):
            out = self.frame.blocks(self.resid, self.layer)
        logp = self.frame.logits(out[self.row, self.ends[self.row] + self.offset]).float().log_softmax(-1)
        ids = torch.tensor([token for answer in self.answers for token in answer], device=logp.device)
        return logp.gather(1, ids[:, None])[:, 0], (logp.argmax(-1) == ids).detach().cpu()

    @property
    def row(self) -> Int[Tensor, " token"]:
        """The row of every token that is asked."""
        return torch.tensor([row for row, answer in enumerate(self.answers) for _ in answer])

    @property
    def offset(self) -> Int[Tensor, " token"]:
        """Its place in the target."""
        return torch.tensor([place for answer in self.answers for place in range(len(answer))])

    def mistakes(self) -> list[tuple[int, Float[Tensor, "context d_model"]]]:
        """The fact of each neuron that is needed, and what the MLP reads before the token, in every context."""
        with torch.no_grad():
            _, right = self.asked(None)
        found = []
        for fact in self.fact.unique().tolist():
            rows = (self.fact == fact).nonzero()[:, 0]
            own = (self.fact[self.row] == fact) & ~right
            for place in sorted(set(self.offset[own].tolist()))[:MISTAKES]:
                found.append((fact, self.x[rows, self.ends[rows] + place]))
        return found


def _learned(inputs: MethodInputs, config: Config, apart: bool) -> _Learned:
    model, width = inputs.model, int(inputs.model.cfg.d_model)
    check_written(model, config.layer)
    check_settings(config, "learning_rate", "steps", "apiece")
    rows = _Rows.of(inputs, config.layer)
    wrong = rows.mistakes()
    owner = torch.tensor([fact for fact, _ in wrong], dtype=torch.long)
    if not wrong:
        none = {"keys": torch.zeros(0, width), "bias": torch.zeros(0), "values": torch.zeros(0, width)}
        count = len(inputs.requests)
        return _Learned(owner, torch.zeros(0, width), none, torch.zeros(0, count), torch.zeros(count, dtype=torch.long))
    queries = torch.stack([states.mean(0) for _, states in wrong])
    memory, allowed = _memory(inputs, config, owner, queries.cpu(), apart)
    training = _Training(rows, config, owner, queries, memory.to(queries), allowed.to(queries.device))
    parts, curve = training.run(inputs)
    with torch.no_grad():
        met = ((fired(training.memory, parts["keys"], parts["bias"]) > 0) & training.allowed).sum(0).cpu()
    still = torch.zeros(len(inputs.requests), dtype=torch.long).index_add(0, owner, met)
    parts["values"] = AMPLIFY * parts["values"]
    return _Learned(owner, queries.cpu(), {name: part.cpu() for name, part in parts.items()}, curve, still)


def _memory(
    inputs: MethodInputs, config: Config, owner: Tensor, queries: Tensor, apart: bool
) -> tuple[Float[Tensor, "state d_model"], Bool[Tensor, "state neuron"]]:
    """States at which neurons shall be silent, and which of them count for which neuron."""
    ordinary = Ordinary.of(inputs.model, Site("mlp_read", config.layer), inputs.start, config.apiece)
    states = [ordinary.all()]
    allowed = [torch.stack([ordinary.others(inputs.requests[fact], each=True) for fact in owner.tolist()], 1)]
    earlier = remembered(in_place(inputs.model), "mistakes")
    if earlier is not None:
        states.append(earlier)
        allowed.append(torch.ones(len(earlier), len(owner), dtype=torch.bool))
    if not apart:
        states.append(queries)
        allowed.append(owner[:, None] != owner[None, :])
    return torch.cat(states), torch.cat(allowed)


@dataclass(eq=False)
class _Training:
    """Neurons that learn, each on its own fact's rows alone.

    Not by `editing.solve.training`, whose groups are tensors of one shape, have a prompt a fact and end by their loss:
    here a fact has any number of neurons, in any number of contexts, and ends once it is right and silent.
    """

    rows: _Rows
    config: Config
    owner: Tensor
    queries: Tensor
    memory: Tensor
    allowed: Tensor

    def run(self, inputs: MethodInputs) -> tuple[dict[str, Tensor], Float[Tensor, "step fact"]]:
        """Keys, bias and values once every fact is right and silent elsewhere, or the steps are over."""
        size = self.queries.pow(2).sum(-1, keepdim=True)
        parts = {
            "keys": self.queries / size, "bias": torch.zeros_like(size[:, 0]), "values": torch.zeros_like(self.queries)
        }  # fmt: skip
        adams, curve = {name: Adam() for name in parts}, []
        going = torch.zeros(len(inputs.requests), dtype=torch.bool).index_fill(0, self.owner, True)
        for step in range(self.config.steps):
            leaves = {name: part.detach().requires_grad_() for name, part in parts.items()}
            with torch.enable_grad():
                losses, penalty, done = self.losses(leaves, len(inputs.requests))
                slopes = torch.autograd.grad(losses.sum() + penalty, list(leaves.values()))
            if not bool(torch.isfinite(losses).all()):
                raise EditError(
                    f"the loss went to NaN at step {step}; nothing was changed. Use a smaller learning rate"
                )
            seen = losses.detach().cpu()
            curve.append(seen.masked_fill(~going, torch.nan))
            if inputs.on_step is not None:
                inputs.on_step(step, curve[-1], (-seen).exp())
            going = going & ~done
            if not bool(going.any()) or step + 1 == self.config.steps:  # the last step only reads
                break
            on = going[self.owner].to(self.queries.device)
            for (name, part), slope in zip(leaves.items(), slopes, strict=True):
                moved = part.detach() - self.config.learning_rate * adams[name].direction(slope)
                parts[name] = torch.where(on if part.ndim == 1 else on[:, None], moved, part.detach())
        return {name: part.detach() for name, part in parts.items()}, torch.stack(curve)

    def losses(self, parts: dict[str, Tensor], facts: int) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of each fact's target [fact], nats per token; the penalties; who is right and silent [fact]."""
        keys, bias = parts["keys"], parts["bias"]
        active = fired(self.rows.x, keys, bias).relu()
        own = (self.rows.fact[:, None] == self.owner[None, :]).to(active)[:, None]
        logp, right = self.rows.asked((active * own) @ (AMPLIFY * parts["values"]))
        fact = self.rows.fact[self.rows.row]
        count = torch.bincount(fact, minlength=facts).clamp_min(1).to(logp)
        losses = -torch.zeros(facts, device=logp.device).index_add(0, fact.to(logp.device), logp) / count
        penalty = penalties(self.config, parts, self.queries, self.memory, self.allowed).sum()
        open_to = (fired(self.memory, keys, bias) > 0) & self.allowed
        loud = torch.zeros(facts).index_add(0, self.owner, open_to.any(0).float().cpu())
        wrong = torch.zeros(facts).index_add(0, fact, (~right).float())
        return losses, penalty, (wrong == 0) & (loud == 0) & (losses.detach().cpu() < self.config.stop)


def penalties(
    config: Config,
    parts: dict[str, Tensor],
    queries: Float[Tensor, "neuron d_model"],
    memory: Float[Tensor, "state d_model"],
    allowed: Bool[Tensor, "state neuron"],
) -> Float[Tensor, " neuron"]:
    """What each neuron pays for not firing at its mistake, and for firing at states that count for it."""
    here, there = (parts["keys"] * queries).sum(-1), memory @ parts["keys"].T
    steep = [(x + config.margin).clamp(max=STEEP).exp() for x in (there + parts["bias"], there - here)]
    met = (steep[0] + steep[1]) * allowed
    worst = met.topk(min(config.worst, len(met)), dim=0).values.mean(0)
    silent: Tensor = (-(here + parts["bias"])).clamp(max=STEEP).exp()
    return config.act * silent + config.memory * worst


METHOD = MethodSpec(
    "t_patcher",
    "a neuron beside the last MLP for each token that was wrong, silent at other facts",
    Config,
    compute,
    compute_each,
    place="beside",
    good_for="correcting single mistakes, each by a few vectors",
    not_for="facts that will be asked in other words, and thousands of facts: every neuron is asked at every token",
)
