"""Linear relational embeddings: is a relation an affine map from the subject's state to the answer's?

Hernandez et al. 2024, "Linearity of Relation Decoding in Transformer Language Models". In a prompt of the relation, s
is a state of the subject's last token after some layer and o = F(s) the final state at the last token. To first order

    F(s) = W s + b,   W = mean of the Jacobians dF/ds, b = mean of F(s_i) - J_i s_i, over a few examples i,

and LRE(s) = beta W s + b, as first-order maps come out too short. Each example stands in a prompt whose demonstrations
are the other examples; a held-out subject stands behind all of them.

*Faithfulness* is the share of held-out facts whose LRE(s), unembedded, has the model's own first token. *Causality* is
the share whose answer becomes that of another subject s' when W+ (o' - o) is added to s, W+ the pseudo-inverse of W's
`rank` largest singular values.

*Convention*: held-out facts are those that the model knows behind the demonstrations, examples apart. beta and rank of
each layer, and the layer that is told, are chosen on held-out facts of their own, which no score counts. Beside
faithfulness stand b alone (beta = 0), and W with its input turned at random, so that its singular values, beta and b
stay; beside causality stand a step of the same length in a random direction, and the state of s' itself in the place of
s.

*Scope*: one relation under one template. All layers but the last are read, where the subject's state can still move the
last token's.

Every example and every fact is on disk when it is done, where there is a folder, and stopped work goes on to the same
result.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factscope.cache import digest
from factscope.data.fact import Fact, fill
from factscope.data.joining import between
from factscope.errors import PromptError, UserError
from factscope.model.bridge import Bridge
from factscope.model.known import answer_ranks
from factscope.model.prompts import Prompt, make_prompt, prompt_of, with_answer
from factscope.model.readout import readout
from factscope.model.weights import fingerprint
from factscope.runs.parts import Parts, parts_in
from factscope.runs.provenance import Run, stopwatch
from tracing.states.clean import CleanRun, place_of
from tracing.states.jacobian import jacobians
from tracing.states.results import Decoded, Edited, RelationResult

ROWS = 256  # predictions that are unembedded at once


@dataclass(frozen=True)
class RelationConfig:
    """How a relation's map is found and judged."""

    examples: int = 5  # whose Jacobians are averaged; each costs d_model rows of forward and backward passes
    demonstrations: bool = True  # whether the other examples stand before each prompt
    betas: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
    ranks: tuple[int, ...] = (4, 16, 64, 128, 256)
    layers: tuple[int, ...] = ()  # after which the subject's state is read; none: all, and the embedding
    choice: int = 8  # held-out facts that choose beta, rank and layer
    limit: int = 24  # held-out facts that are scored, at most
    nulls: int = 4  # turned maps
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("examples", 1), ("choice", 1), ("limit", 2), ("nulls", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be {least} or more, not {getattr(self, name)}")
        if not self.betas or not self.ranks or min(self.ranks) < 1:
            raise UserError("a map needs a beta and a rank of 1 or more to choose among")

    def states(self, n_layers: int) -> tuple[int, ...]:
        """The states that are read: 0 the embedding, l what layer l - 1 leaves; UserError for another layer."""
        wrong = [layer for layer in self.layers if not 0 <= layer < n_layers - 1]
        if wrong:
            raise UserError(
                f"after layer {wrong[0]} the subject's state cannot be read for the answer; choose among 0 to "
                f"{n_layers - 2}"
            )
        return tuple(sorted({layer + 1 for layer in self.layers})) or tuple(range(n_layers))


def linear_relation(
    model: Bridge,
    facts: Sequence[Fact],
    config: RelationConfig = RelationConfig(),
    *,
    start: str = "auto",
    folder: str | Path | None = None,
    shown: bool | None = None,
) -> RelationResult:
    """The affine map of the facts' relation at each layer, its faithfulness and its causality on held-out facts.

    Args:
        folder: where finished examples and facts are kept; the same work in the same folder goes on from them.
        shown: the bar that says how far it is, as in `factscope.progress`.

    Raises UserError for facts of several relations or templates, and where too few of them are known; StoreError for a
    folder with other work.
    """
    states = config.states(model.cfg.n_layers)
    _check_one(facts, config)
    work = {"relation": digest([list(facts), config, start]), "fingerprint": fingerprint(model)}
    place, total = None if folder is None else Path(folder), pieces_of(config, facts)
    with stopwatch() as seconds, torch.no_grad(), parts_in(place, work, [1.0] * total, shown) as parts:
        before = sum(parts.seconds.values())
        examples, others = _drawn(model, facts, config, start)
        asked, skipped = _asked(model, examples, others, config, start)
        choice, tested = asked[: config.choice], asked[config.choice :][: config.limit]
        if len(tested) < 2:
            raise UserError(
                f"behind {len(examples)} examples the model knows {len(asked)} of {len(others)} other facts, and a map "
                f"of {facts[0].relation} needs {config.choice} to choose by and 2 to be judged by: give more facts, or "
                "a smaller choice"
            )
        maps = Maps.of(model, [_behind(model, examples, one, config, start) for one in examples], states, parts)
        held = Held.of(model, [*choice, *tested], states)
        said = _decoded(model, maps, held, len(choice), config)
        edits = _edited(model, maps, held, (len(choice), said.layer), config, parts)
    names = [prompt.subject for prompt in held.prompts]
    return RelationResult(
        relation=facts[0].relation,
        template=facts[0].template,
        settings={**asdict(config), "start": start, "source": facts[0].source},
        examples=tuple(one.subject for one in examples),
        choice=tuple(names[: len(choice)]),
        subjects=tuple(names[len(choice) :]),
        skipped=skipped,
        states=states,
        decoded=said,
        edited=edits,
        weight=maps.weight[said.layer],
        bias=maps.bias[said.layer],
        run=Run.of(model, config.seed).ended(before + seconds[0]),
    )


def pieces_of(config: RelationConfig, facts: Sequence[Fact]) -> int:
    """How many examples and held-out facts a map takes, at most."""
    return config.examples + min(config.choice + config.limit, max(0, len(facts) - config.examples))


# ---- facts ----


def _check_one(facts: Sequence[Fact], config: RelationConfig) -> None:
    """UserError unless the facts are of one relation, under one template, and enough."""
    for name, found in (("relation", {f.relation for f in facts}), ("template", {f.template for f in facts})):
        if len(found) > 1:
            raise UserError(
                f"a map is of one {name}, and these facts are of {len(found)}, as {' and '.join(sorted(found)[:2])}: "
                "choose with --relation, or another file"
            )
    least = config.examples + config.choice + 2
    if len(facts) < least:
        raise UserError(
            f"{len(facts)} facts are too few for {config.examples} examples, {config.choice} facts to choose by and 2 "
            f"to be judged by; give {least} or more"
        )


def _drawn(model: Bridge, facts: Sequence[Fact], config: RelationConfig, start: str) -> tuple[list[Fact], list[Fact]]:
    """The examples and the other facts, in the order of the seed; examples are of different subjects, known ones first.

    Facts of an example's subject are nobody's held-out facts.
    """
    order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(config.seed)).tolist()
    mixed = list({facts[place].subject: facts[place] for place in order}.values())
    known = [rank == 1 for rank in answer_ranks(model, [prompt_of(model, fact, start=start) for fact in mixed])]
    first = sorted(range(len(mixed)), key=lambda place: not known[place])[: config.examples]
    return [mixed[place] for place in first], [fact for place, fact in enumerate(mixed) if place not in first]


def _asked(
    model: Bridge, examples: Sequence[Fact], others: Sequence[Fact], config: RelationConfig, start: str
) -> tuple[list[Prompt], dict[str, str]]:
    """The prompts of facts that the model knows behind the examples, and why the others are left out."""
    prompts, skipped = {}, {}
    for fact in others:
        try:
            prompts[fact.id] = _behind(model, examples, fact, config, start)
        except PromptError as trouble:
            skipped[fact.id] = str(trouble)
    ranks = answer_ranks(model, list(prompts.values()))
    skipped |= {name: f"the answer has rank {rank}" for name, rank in zip(prompts, ranks, strict=True) if rank > 1}
    return [prompt for name, prompt in prompts.items() if name not in skipped], skipped


def _behind(model: Bridge, examples: Sequence[Fact], fact: Fact, config: RelationConfig, start: str) -> Prompt:
    """The prompt of a fact behind the examples, itself apart."""
    if not config.demonstrations:
        return prompt_of(model, fact, start=start)
    told = [
        one.prompt + between(one.prompt, one.answer) + one.answer for one in examples if one.subject != fact.subject
    ]
    text = "\n".join([*told, fill(fact.template, f"[{fact.subject}]")])
    return with_answer(model, make_prompt(model, text, start=start), fact.answer, "fact")


# ---- the map ----


@dataclass(frozen=True, eq=False)
class Maps:
    """The map at each state that is read."""

    weight: Float[Tensor, "state d_model d_model"]
    bias: Float[Tensor, "state d_model"]

    @classmethod
    def of(cls, model: Bridge, prompts: Sequence[Prompt], states: Sequence[int], parts: Parts) -> "Maps":
        """The mean of the examples' first orders."""
        weight = bias = torch.zeros(())
        for number, prompt in enumerate(prompts):
            one = parts.get(f"example {number}", cls, partial(cls._at, model, prompt, states, check=not number))
            weight, bias = weight + one.weight / len(prompts), bias + one.bias / len(prompts)
        return cls(weight, bias)

    @classmethod
    def _at(cls, model: Bridge, prompt: Prompt, states: Sequence[int], check: bool) -> "Maps":
        """The first order at one example."""
        clean = CleanRun.of(model, prompt.tokens, check=check)
        place = place_of(prompt, "last subject")
        jacobian = jacobians(clean, place)[list(states), :, 0]
        subject, final = clean.states[list(states), place].float().cpu(), clean.states[-1, -1].float().cpu()
        return cls(jacobian, final - torch.einsum("sod,sd->so", jacobian, subject))

    def predicted(
        self, subject: Float[Tensor, "fact state d_model"], beta: Float[Tensor, " state"] | float
    ) -> Float[Tensor, "fact state d_model"]:
        """The final states that the maps give."""
        moved = torch.einsum("sod,fsd->fso", self.weight, subject)
        return moved * torch.as_tensor(beta).reshape(-1, 1) + self.bias


@dataclass(frozen=True, eq=False)
class Held:
    """The held-out facts: those that choose first, then those that are scored."""

    prompts: tuple[Prompt, ...]
    subject: Float[Tensor, "fact state d_model"]
    final: Float[Tensor, "fact d_model"]
    top: Int[Tensor, " fact"]  # the model's own first token

    @classmethod
    def of(cls, model: Bridge, prompts: Sequence[Prompt], states: Sequence[int]) -> "Held":
        """Run every fact once."""
        subject, final, top = [], [], []
        for prompt in prompts:
            clean = CleanRun.of(model, prompt.tokens, check=False)
            subject.append(clean.states[list(states), place_of(prompt, "last subject")].float().cpu())
            final.append(clean.states[-1, -1].float().cpu())
            top.append(int(clean.logits[-1].argmax()))
        return cls(tuple(prompts), torch.stack(subject), torch.stack(final), torch.tensor(top))


# ---- faithfulness ----


def _decoded(model: Bridge, maps: Maps, held: Held, n_choice: int, config: RelationConfig) -> Decoded:
    """beta and layer by the first facts, and what the maps say of the others."""
    tried = [_said(model, maps.predicted(held.subject[:n_choice], beta), held.top[:n_choice]) for beta in config.betas]
    right = torch.stack([said.right.float().mean(0) for said in tried])  # [beta, state]
    score = right + 1e-3 * torch.stack([said.log_probability.mean(0) for said in tried]).clamp_min(-500) / 500
    best = score.argmax(0)
    beta = torch.tensor(config.betas)[best]
    layer = int(score.max(0).values.argmax())
    subject, top = held.subject[n_choice:], held.top[n_choice:]
    said = _said(model, maps.predicted(subject, beta), top)
    alone = _said(model, maps.bias[None].expand(len(top), -1, -1), top)
    generator = torch.Generator().manual_seed(config.seed)
    null = []
    for _ in range(config.nulls):
        turn = torch.linalg.qr(torch.randn(subject.shape[-1], subject.shape[-1], generator=generator)).Q
        null.append(_said(model, maps.predicted(subject @ turn.T, beta), top).right)
    return Decoded(
        layer=layer,
        beta=beta,
        chosen_by=right.gather(0, best[None])[0],
        right=said.right,
        log_probability=said.log_probability,
        bias_alone=alone.right,
        null=torch.stack(null) if null else torch.zeros(0, *said.right.shape, dtype=torch.bool),
        answers=_tokens(model, top),
        says=_tokens(model, said.top[:, layer]),
    )


@dataclass(frozen=True, eq=False)
class _Said:
    right: Bool[Tensor, "fact state"]
    log_probability: Float[Tensor, "fact state"]  # of the model's own token, nats
    top: Int[Tensor, "fact state"]


def _said(model: Bridge, final: Float[Tensor, "fact state d_model"], wanted: Int[Tensor, " fact"]) -> _Said:
    """What final states say, beside the tokens that they should."""
    rows, tokens = final.flatten(0, 1), wanted.repeat_interleave(final.shape[1])
    like, read = next(model.parameters()), readout(model).logits
    top, chance = [], []
    for begin in range(0, len(rows), ROWS):
        logits = read(rows[begin : begin + ROWS].to(like)).float().cpu()
        top.append(logits.argmax(-1))
        chance.append(logits.log_softmax(-1).gather(1, tokens[begin : begin + ROWS, None])[:, 0])
    found, logs = torch.cat(top), torch.cat(chance)
    shape = final.shape[:2]
    return _Said((found == tokens).reshape(shape), logs.reshape(shape), found.reshape(shape))


def _tokens(model: Bridge, ids: Int[Tensor, " fact"]) -> tuple[str, ...]:
    return tuple(model.tokenizer.decode([token]) for token in ids.tolist())


# ---- causality ----


@dataclass(frozen=True, eq=False)
class _Tops:
    """The first token after each change of a fact's subject, by the state that was changed."""

    token: Int[Tensor, "change state"]


def _edited(
    model: Bridge, maps: Maps, held: Held, where: tuple[int, int], config: RelationConfig, parts: Parts
) -> Edited:
    """Every held-out fact edited to the answer of the next of its part that has another; `where`: choice, layer."""
    n_choice, layer = where
    ranks = [rank for rank in config.ranks if rank <= maps.weight.shape[-1]] or [maps.weight.shape[-1]]
    inverse = [PseudoInverse.of(weight) for weight in maps.weight]
    others = [*_next(held.top[:n_choice], 0), *_next(held.top[n_choice:], n_choice)]
    states = config.states(model.cfg.n_layers)
    generator = torch.Generator().manual_seed(config.seed + 1)
    chosen, tried, kept = torch.zeros(len(inverse), dtype=torch.long), list[Tensor](), []

    def tops(number: int, values: Float[Tensor, "change state d_model"]) -> _Tops:
        """What is said of a fact whose subject's state is each of these values."""
        prompt = held.prompts[number]
        clean, place = CleanRun.of(model, prompt.tokens, check=False), place_of(prompt, "last subject")
        read = clean.read(values.flatten(0, 1), list(states) * len(values), place, 0)
        return _Tops(read.top.reshape(values.shape[:2]))

    for number, other in enumerate(others):
        if number == n_choice:
            chosen = torch.stack(tried).float().mean(0).argmax(0) if tried else chosen  # [state]; ties: the smaller
        if other is None:
            parts.advance(1)
            continue
        moved, own = held.final[other] - held.final[number], held.subject[number]
        steps = torch.stack([torch.stack([one.of_rank(moved, rank) for one in inverse]) for rank in ranks])
        values = own + steps
        if number >= n_choice:
            step = steps[chosen, range(len(inverse))]
            random = torch.randn(step.shape, generator=generator)
            random = random * (step.norm(dim=-1) / random.norm(dim=-1))[:, None]
            values = torch.stack([own + step, own + random, held.subject[other]])
        said = parts.get(f"fact {number}", _Tops, partial(tops, number, values)).token
        if number < n_choice:
            tried.append(said == held.top[other])
        else:
            kept.append((number, other, said))
    all_said = torch.stack([said for _, _, said in kept])  # [fact, way, state]
    wanted_tokens = held.top[[other for _, other, _ in kept]]
    right = all_said == wanted_tokens[:, None, None]
    return Edited(
        rank=torch.tensor(ranks)[chosen],
        subjects=tuple(held.prompts[number].subject for number, _, _ in kept),
        targets=tuple(held.prompts[other].subject for _, other, _ in kept),
        wanted=_tokens(model, wanted_tokens),
        says=_tokens(model, all_said[:, 0, layer]),
        right=right[:, 0],
        random=right[:, 1],
        substituted=right[:, 2],
    )


def _next(top: Int[Tensor, " fact"], offset: int) -> list[int | None]:
    """For each fact of a part the number of the next with another first token; None where all have one."""
    n, found = len(top), []
    for one in range(n):
        ahead = ((one + step) % n for step in range(1, n))
        other = next((place for place in ahead if top[place] != top[one]), None)
        found.append(None if other is None else other + offset)
    return found


@dataclass(frozen=True, eq=False)
class PseudoInverse:
    """A map's pseudo-inverse of any rank, from its singular values and vectors."""

    left: Float[Tensor, "out value"]
    values: Float[Tensor, " value"]
    right: Float[Tensor, "value d_model"]

    @classmethod
    def of(cls, weight: Float[Tensor, "out d_model"]) -> "PseudoInverse":
        """Take one map apart, in float64."""
        return cls(*torch.linalg.svd(weight.double(), full_matrices=False))

    def of_rank(self, moved: Float[Tensor, " out"], rank: int) -> Float[Tensor, " d_model"]:
        """The smallest step whose image, in the `rank` largest directions, is `moved`; zero directions are left out."""
        some = self.values[:rank] > 1e-10 * self.values[0].clamp_min(1e-300)
        left, right = self.left[:, :rank][:, some], self.right[:rank][some]
        return ((left.T @ moved.double() / self.values[:rank][some]) @ right).float()
