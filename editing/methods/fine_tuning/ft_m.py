"""FT-M: fine-tune one MLP matrix on the target, prompt masked (the survey's name; Zhang et al. 2024).

What it does: Adam on the down-projection of one layer, all facts in one batch, on

    loss = mean over facts of -(1/T) sum_t log p(target_t | prompt, target_<t)        each token after the true ones

until the loss is below `stop`. With `bound`, every entry stays within that distance of where it was (the ROME paper's
"FT+L" clamp). No context is sampled, nothing protects other facts; the published settings (Llama-2 layer 21, step
0.0005, no bound) come from a model fifty times the size. Layer and step here were tried on the default model: early
layers change the fact, later ones the wording (docs/editing.md).

Nothing below the layer runs again, and no weight is touched while it learns: the change is a tensor of its own, whose
product with the layer's input is added to what the layer writes.

When not to use it: it is a baseline. The change has full rank, so the saved edit is megabytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from editing.delta import Delta
from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.requests import target_prompts
from editing.solve.layers import weight_name
from factscope.errors import EditError
from factscope.model.bridge import Bridge, device
from factscope.model.forward.batched import padded
from factscope.model.forward.partial import Frame
from factscope.model.hooks import hooked, record
from factscope.model.sites import Site
from factscope.model.weights import key_width

APART = 16  # facts that learn side by side: a matrix, its gradient and Adam's two moments each

Wanted = Callable[[int, Sequence[int]], tuple[list[int], list[int]]]  # first position, target -> positions, token ids


@dataclass(frozen=True)
class Config:
    """Steps, stop and Adam are EasyEdit's; layer and step size the best of seven pairs on 16 facts."""

    layer: int = 1  # paraphrase success .69, at layer 3 .62, 6 .56, 12 and 18 .31
    steps: int = 25
    learning_rate: float = 1e-3  # half of it leaves one fact in ten unlearned, a fifth of it three
    stop: float = 0.01  # nats
    bound: float | None = None  # L-infinity distance that no entry may leave

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """The same for every model; a model of one layer has no other."""
        return cls(layer=min(cls.layer, int(model.cfg.n_layers) - 1))


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Fine-tune on every target token at its own position."""
    return tune(inputs, config, every_token)[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """The same for every fact alone, all of them side by side."""
    return tune(inputs, config, every_token, apart=True)


def every_token(first: int, target: Sequence[int]) -> tuple[list[int], list[int]]:
    """Each target token at the position before it."""
    return list(range(first, first + len(target))), list(target)


def tune(inputs: MethodInputs, config: Config, wanted: Wanted, apart: bool = False) -> list[MethodOutput]:
    """Adam on one matrix for all facts, or with `apart` on one matrix a fact.

    `wanted` says at which positions which tokens are asked for.
    """
    if not apart:
        return _tuned(inputs, config, wanted, apart)
    chunks = [inputs.requests[i : i + APART] for i in range(0, len(inputs.requests), APART)]
    return [made for some in chunks for made in _tuned(replace(inputs, requests=some), config, wanted, apart)]


def _tuned(inputs: MethodInputs, config: Config, wanted: Wanted, apart: bool) -> list[MethodOutput]:
    rows, places, tokens = [], [], []
    for request in inputs.requests:
        (prompt,) = target_prompts(inputs.model, request, ("{}",), inputs.start)
        positions, ids = wanted(len(prompt.tokens) - 1, prompt.answer_ids)
        rows.append((*prompt.tokens, *prompt.answer_ids[:-1]))
        places.append(positions)
        tokens.append(ids)
    part = _Part(inputs.model, config.layer, rows, places, tokens)
    groups = len(inputs.requests) if apart else 1  # a group learns one matrix and stops by itself
    shape = key_width(inputs.model, config.layer), inputs.model.cfg.d_model
    change = torch.zeros(groups, *shape, device=device(inputs.model))
    moment, square, curve = torch.zeros_like(change), torch.zeros_like(change), []
    active = torch.ones(groups, dtype=torch.bool, device=change.device)
    for step in range(config.steps):
        change.requires_grad_()
        with torch.enable_grad():
            losses, likely = part.losses(change)
            per_group = losses.view(groups, -1).mean(1)
            (gradient,) = torch.autograd.grad(per_group.sum(), change)
        change, losses = change.detach(), losses.detach()
        if not bool(torch.isfinite(losses).all()):
            raise EditError(f"the loss went to NaN at step {step}; nothing was changed. Use a smaller learning rate")
        curve.append(losses.cpu().masked_fill(~active.cpu().repeat_interleave(len(losses) // groups), torch.nan))
        if inputs.on_step is not None:
            inputs.on_step(step, curve[-1], likely.cpu())
        active = active & (per_group.detach() >= config.stop)
        if not bool(active.any()):
            break
        moment = 0.9 * moment + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        update = (moment / (1 - 0.9 ** (step + 1))) / ((square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        change = torch.where(active[:, None, None], change - config.learning_rate * update, change)
        if config.bound is not None:
            change = change.clamp(-config.bound, config.bound)
    curves, name = torch.stack(curve), weight_name(config.layer)
    if not apart:
        return [MethodOutput((Delta(name, change[0].cpu()),), curve=curves)]
    return [MethodOutput((Delta(name, change[i].cpu().clone()),), curve=curves[:, i : i + 1]) for i in range(groups)]


class _Part:
    """All prompts, right-padded, with the residual stream that enters the layer kept from one clean pass."""

    def __init__(self, model: Bridge, layer: int, rows: Any, places: Any, tokens: Any) -> None:
        self.layer, self.places, self.tokens = layer, places, tokens
        ids = padded(rows).to(device(model))
        self.frame = Frame.of(model, ids)
        site = Site("resid_pre", layer)
        with torch.no_grad(), record(model, [site]) as seen:
            model(ids, use_cache=False, **({"stop_at_layer": layer + 1} if layer + 1 < model.cfg.n_layers else {}))
        self.resid = seen[site]

    def losses(self, change: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each fact, nats per token, and its tokens' mean probability; `change` [1 or fact, d_in, d_out]."""
        read: list[Tensor] = []
        sites = [
            (Site("mlp_hidden", self.layer), read.append),
            (Site("mlp_write", self.layer), lambda write: write + read[-1] @ change.to(write)),
        ]
        with hooked(self.frame.model, sites):
            out = self.frame.blocks(self.resid, self.layer)
        row = torch.tensor([r for r, positions in enumerate(self.places) for _ in positions])
        column = torch.tensor([p for positions in self.places for p in positions])
        ids = torch.tensor([t for some in self.tokens for t in some], device=out.device)
        logp = self.frame.logits(out[row, column]).float().log_softmax(-1).gather(1, ids[:, None])[:, 0]
        count = torch.bincount(row).to(logp)
        mean = torch.zeros(len(self.places), device=logp.device).index_add(0, row.to(logp.device), logp) / count
        return -mean, mean.detach().exp()


METHOD = MethodSpec(
    "ft_m",
    "fine-tune one MLP matrix on the whole target",
    Config,
    compute,
    compute_each,
    place="mlp",
)
