"""The constants that harm least: what writers are replaced by under optimal ablation.

Li & Janson 2024, arXiv 2409.09951. A mean is not what a model would expect in the place of an output that it lacks; the
optimal constant is the one under which the ablated model stays nearest to the full one. Writers that are cut together
need constants that go together, and which ones a circuit cuts is not known before it is found. So all constants are
learned at once,

    a* = argmin over a of the mean over prompts x and sets S of writers of KL(M(x) || M(x) with a in the place of S)

where S has each writer with a chance that is drawn evenly from `shares` for every row. The authors learn constants for
one set, or together with the chances of its edges; the constants here are one for each writer, so that they serve every
circuit as a mean does.

*Convention*: a writer has two constants, one for position 0, the attention sink, and one for all others. Adam (Kingma &
Ba 2015) starts from the means, in units of each constant's root mean square, with a rate that falls to 0 as a cosine.
Constants are judged on draws of prompts and sets that stay the same, and the best of them are kept: by that measure
they are never worse than the means.

*Scope*: whole outputs are cut, not single edges. Prompts of any length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save
from torch import Tensor

from circuits.engine import beside
from circuits.engine.writes import Parts, reading, recorders, writes
from circuits.graph import Graph
from circuits.task import rows
from factscope.cache import cache_folder, digest
from factscope.errors import UserError
from factscope.files import write_bytes_atomically
from factscope.model.agreement import finite
from factscope.model.bridge import Bridge, without_gradients
from factscope.model.hooks import Hook, hooked
from factscope.model.parts.experts import choices_of
from factscope.model.prompts import Prompt
from factscope.model.sites import Site
from factscope.model.weights import fingerprint
from factscope.progress import progress

VERSION = 1  # of what is kept


@dataclass(frozen=True)
class OptimalConfig:
    """How constants are learned; none of it is the authors', whose constants belong to one set of edges."""

    steps: int = 200
    rows: int = 16  # prompts in one step, each with a set of its own
    rate: float = 0.02  # of Adam at the beginning, in units of a constant's root mean square
    shares: tuple[float, float] = (0.0, 1.0)  # between which the chance that a writer is in the set is drawn
    draws: int = 4  # sets for each prompt, on which constants are judged
    every: int = 25  # steps between two judgements
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(self.shares))
        for name in ("rows", "draws", "every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.steps < 0 or not self.rate > 0:
            raise UserError(
                f"constants are learned in 0 or more steps of a rate above 0, not {self.steps} of {self.rate}"
            )
        low, high = self.shares
        if not 0 <= low <= high <= 1:
            raise UserError(
                f"a share lies between 0 and 1, and the first is not above the second, unlike {self.shares}"
            )


@dataclass(frozen=True, eq=False)
class Optimal:
    """The constants of one model's writers, and what they are worth."""

    values: Float[Tensor, "writer place d_model"]  # place: position 0, and every other
    kl_mean: float  # nats, KL(full || ablated) under the means, on the draws that constants are judged on
    kl: float  # the same under the constants


def optimal(
    model: Bridge,
    graph: Graph,
    prompts: Sequence[Prompt],
    config: OptimalConfig = OptimalConfig(),
    *,
    shown: bool | None = None,
) -> Optimal:
    """The constants for `prompts`, from the cache if they are there, else learned.

    They are kept by the weights, the writers, the prompts' tokens and the settings. UserError where all prompts have
    one token.
    """
    named = [VERSION, fingerprint(model), graph.writers, [list(prompt.tokens) for prompt in prompts], config]
    file = cache_folder() / "ablations" / f"optimal-{digest(named)[:16]}.safetensors"
    if not file.is_file():
        made = learned(model, graph, prompts, config, shown=shown)
        kept = {
            "values": made.values.cpu().contiguous(),
            "kl": torch.tensor([made.kl_mean, made.kl], dtype=torch.float64),
        }
        write_bytes_atomically(file, save(kept))
    found = load_file(file)
    weight: Tensor = model.unembed.original_component.weight
    before, after = found["kl"].tolist()
    return Optimal(found["values"].to(weight), before, after)


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts of one length with what the full model says of them, and a set of writers for each."""

    tokens: Tensor  # [row, pos]
    clean: Float[Tensor, "row vocab"]
    cut: Bool[Tensor, "writer row"]


def learned(
    model: Bridge, graph: Graph, prompts: Sequence[Prompt], config: OptimalConfig, *, shown: bool | None = None
) -> Optimal:
    """The constants by descent; nothing is read from the cache or kept."""
    generator = torch.Generator().manual_seed(config.seed)
    groups = _groups(model, prompts)
    means, sizes = _means(model, graph, [tokens for tokens, _ in groups])
    judges = [
        Batch(tokens.repeat(config.draws, 1), clean.repeat(config.draws, 1), cut.to(tokens.device))
        for tokens, clean in groups
        for cut in [_sets(graph, len(tokens) * config.draws, config, generator)]
    ]

    def worth(values: Tensor) -> float:
        each = [float(_divergences(model, graph, batch, values).sum()) for batch in judges]
        return sum(each) / (config.draws * len(prompts))

    with torch.no_grad():
        best, before = means, worth(means)
    least = before
    moved = torch.zeros_like(means, requires_grad=True)
    descent = torch.optim.Adam([moved], lr=config.rate)
    with progress("Optimal constants", config.steps, shown=shown) as advance:
        for step in range(config.steps):
            descent.param_groups[0]["lr"] = config.rate * (1 + math.cos(math.pi * step / config.steps)) / 2
            with torch.enable_grad(), without_gradients(model):
                loss = _divergences(
                    model, graph, _drawn(graph, groups, config, generator), means + sizes * moved
                ).mean()
                (moved.grad,) = torch.autograd.grad(loss, [moved])
            descent.step()
            if (step + 1) % config.every == 0 or step + 1 == config.steps:
                with torch.no_grad():
                    values = means + sizes * moved
                    now = worth(values)
                if now < least:
                    best, least = values, now
            advance(1)
    return Optimal(best.detach(), before, least)


def _groups(model: Bridge, prompts: Sequence[Prompt]) -> list[tuple[Tensor, Tensor]]:
    """Prompts by their length: tokens [row, pos], and the full model's logits at the last one, [row, vocab]."""
    groups = []
    for length in sorted({len(prompt.tokens) for prompt in prompts}):
        tokens = rows(model, [prompt for prompt in prompts if len(prompt.tokens) == length])
        with torch.no_grad():
            groups.append((tokens, finite(model(tokens, use_cache=False)[:, -1])))
    return groups


def _means(model: Bridge, graph: Graph, groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Means [writer, place, d_model] of what the writers write, and root mean squares [writer, place, 1]."""
    if all(tokens.shape[1] == 1 for tokens in groups):
        raise UserError("the reference prompts have one token each, and position 0 has a constant of its own")
    seen = [writes(model, graph, tokens) for tokens in groups]
    places = [
        torch.cat([each[:, :, 0] for each in seen], 1),
        torch.cat([each[:, :, 1:].flatten(1, 2) for each in seen], 1),
    ]
    means = torch.stack([each.mean(1) for each in places], 1)
    sizes = torch.stack([each.float().pow(2).mean((1, 2)).sqrt().to(each) for each in places], 1)
    return means, sizes[:, :, None]


def _sets(graph: Graph, n_rows: int, config: OptimalConfig, generator: torch.Generator) -> Bool[Tensor, "writer row"]:
    low, high = config.shares
    chance = low + (high - low) * torch.rand(n_rows, generator=generator)
    return torch.rand(len(graph.writers), n_rows, generator=generator) < chance


def _drawn(
    graph: Graph, groups: Sequence[tuple[Tensor, Tensor]], config: OptimalConfig, generator: torch.Generator
) -> Batch:
    """Prompts of one length, each length as likely as it is frequent."""
    counts = torch.tensor([float(len(tokens)) for tokens, _ in groups])
    tokens, clean = groups[int(torch.multinomial(counts, 1, generator=generator))]
    rounds = -(-config.rows // len(tokens))  # every prompt once before any comes again
    which = torch.cat([torch.randperm(len(tokens), generator=generator) for _ in range(rounds)])[: config.rows]
    which = which.to(tokens.device)
    return Batch(tokens[which], clean[which], _sets(graph, config.rows, config, generator).to(tokens.device))


def _divergences(model: Bridge, graph: Graph, batch: Batch, values: Tensor) -> Float[Tensor, " row"]:
    """KL(full || ablated) of each row, nats."""
    logits = ablated_logits(model, graph, batch.tokens, batch.cut, values)
    full, found = (torch.log_softmax(each, -1) for each in (batch.clean, logits))
    return torch.nn.functional.kl_div(found, full, reduction="none", log_target=True).sum(-1)


def ablated_logits(
    model: Bridge,
    graph: Graph,
    tokens: Tensor,
    cut: Bool[Tensor, "writer row"],
    values: Float[Tensor, "writer place d_model"],
) -> Float[Tensor, "row vocab"]:
    """Logits at the last position where each row's cut writers write their constants; gradients reach the constants."""
    graph = replace(graph, split=True)  # the same writers, and each prompt is run once
    gaps: list[Tensor] = []

    def keep(number: int, out: Float[Tensor, "row pos d_model"]) -> None:
        """What replaces a writer's output, less the output, goes to the stream where the output does."""
        constant = at_positions(values[number : number + 1], out.shape[1])
        gaps.append(torch.where(cut[number, :, None, None], constant - out, 0.0))

    def give(out: Tensor) -> Tensor:
        total = out + torch.stack(gaps).sum(0)
        gaps.clear()
        return total

    parts = Parts.of(model)
    routing = parts.routing(choices_of(model, tokens) if graph.experts else None)
    hooks: list[Hook] = [*recorders(parts, graph, routing, keep), *beside.hooks(model, graph, tokens, keep)]
    hooks.append((Site("resid_pre", 0), give))
    for layer in range(graph.n_layers):
        hooks += [(Site("attn", layer), give), (Site("mlp", layer), give)]
    with reading(model, routing), hooked(model, hooks):
        logits: Tensor = model(tokens, use_cache=False)
    return finite(logits[:, -1])


def at_positions(
    values: Float[Tensor, "writer place d_model"], n_positions: int
) -> Float[Tensor, "writer pos d_model"]:
    """The constants where they stand: the first place once, the second everywhere else."""
    return values[:, [0, *[1] * (n_positions - 1)]]
