"""What two programs both compute, in random models of two layers in float64: the largest difference of each piece.

    plain transformers   logits; probability with one module's output restored under noise, by PyTorch's hooks
    TransformerLens      activation patching of states, attention, MLPs and heads; its logit lens, ranks and entropies;
                         direct path patching; edge attribution

Differences are beside the largest number of the piece. What one of them refuses for an architecture is NaN.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.analysis.paths import path_patch
from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.scorers.eap import EAP
from circuits.task import Task
from factscope.errors import ModelError, NoGap
from factscope.model.load import load
from factscope.model.prompts import Prompt
from helpers.architectures import plain as plain_of
from helpers.circuits import task as task_of
from helpers.circuits import their_edges
from helpers.models import save_tiny
from helpers.oracle import module_of, restored
from tracing.causal import Config, trace
from tracing.corruption import Corruption, noise
from tracing.logit_lens import lens
from tracing.results import TraceResult

ARCHITECTURES = ("gpt2", "llama", "olmo2", "neox", "gemma3", "gemma2", "granite", "cohere", "gptj")


@dataclass(frozen=True)
class Difference:
    """One piece on one model."""

    architecture: str
    seed: int
    piece: str
    against: str
    numbers: int
    largest: float  # absolute difference; NaN: one of them refuses
    scale: float  # the largest number
    refused: str = ""

    @property
    def fell(self) -> bool:
        """In float64 nothing but norms and softmaxes in float32 inside a model may differ."""
        return not self.refused and not self.largest <= 1e-4 * max(self.scale, 1e-3)


def differences(architecture: str, seed: int) -> Iterator[Difference]:
    """Every piece, of one random model."""
    with tempfile.TemporaryDirectory() as place:
        folder = save_tiny(architecture, Path(place), layers=2, seed=seed)
        model, bare = load(str(folder), device="cpu", dtype="float64"), plain_of(folder).double()
        one = asked(model)
        said = partial(_difference, architecture, seed)
        yield said("logits", "plain", lambda: _logits(model, bare, one))
        yield said("restored under noise", "plain", lambda: _restored(model, bare, one))
        yield said("logit lens", "TransformerLens", lambda: _lens(model, one))
        for kind in ("resid", "attn", "mlp", "head"):
            yield said(f"activation patching, {kind}", "TransformerLens", partial(_patched, model, one, kind))
        yield said("direct path patching", "TransformerLens", lambda: _paths(model, one))
        yield said("edge attribution", "TransformerLens", lambda: _edges(model, one))


@torch.no_grad()
def asked(model: Any) -> Task:
    """The two of the prompts between which the answer's logit differs most, so that there is a gap to restore."""
    every = task_of(model, "logit_difference", "counterfactual", rows=8)
    logits = model(torch.tensor([prompt.tokens for prompt in every.prompts]))[:, -1]
    answer, foil = every.prompts[0].answer_ids[0], every.prompts[0].foil_ids[0]
    apart = logits[:, answer] - logits[:, foil]
    clean, corrupt = (every.prompts[int(place)] for place in (apart.argmax(), apart.argmin()))
    return replace(every, prompts=(clean,), corrupt=(corrupt,))


def _difference(
    architecture: str, seed: int, piece: str, against: str, both: Callable[[], tuple[Tensor, Tensor]]
) -> Difference:
    try:
        ours, theirs = both()
    except (NotImplementedError, ValueError, ModelError) as refusal:
        words = f"{type(refusal).__name__}: {str(refusal)[:120]}"
        return Difference(architecture, seed, piece, against, 0, math.nan, math.nan, words)
    assert ours.shape == theirs.shape, (piece, ours.shape, theirs.shape)
    apart = float((ours.double() - theirs.double()).abs().max())
    return Difference(architecture, seed, piece, against, ours.numel(), apart, float(theirs.abs().max()))


def _metric(one: Task) -> Callable[[Tensor], Tensor]:
    answer, foil = one.prompts[0].answer_ids[0], one.prompts[0].foil_ids[0]
    return lambda logits: logits[0, -1, answer] - logits[0, -1, foil]


def _tokens(one: Task) -> tuple[Tensor, Tensor]:
    clean, corrupt = (torch.tensor([side[0].tokens]) for side in (one.prompts, one.corrupt))
    return clean, corrupt


@torch.no_grad()
def _logits(model: Any, bare: Any, one: Task) -> tuple[Tensor, Tensor]:
    return model(_tokens(one)[0]), bare(_tokens(one)[0]).logits


@torch.no_grad()
def _restored(model: Any, bare: Any, one: Task) -> tuple[Tensor, Tensor]:
    prompt = one.prompts[0]
    found, made = _hurt(model, prompt)
    assert made.noise is not None
    ours, theirs = [], []
    embed = module_of(model, bare, model.embed)
    last = len(prompt.tokens) - 1
    for layer, block in enumerate(model.blocks):
        for kind, part in (("resid", block), ("mlp", block.mlp), ("attn", block.attn)):
            for position in (prompt.subject_span[1] - 1, last):
                ours.append(found.restored(kind)[layer, position])
                module = module_of(model, bare, part)
                theirs.append(restored(bare, prompt, made.noise.double(), module, position, embed)[1].mean())
    return torch.stack(ours), torch.stack(theirs)


def _hurt(model: Any, prompt: Prompt) -> tuple[TraceResult, Corruption]:
    """A trace under the first noise that makes the answer less probable: in a random model some makes it more so."""
    config = Config(sites=("resid", "mlp", "attn"), window=1, samples=3)
    for seed in range(20):
        made = noise(model, prompt, samples=3, level=1.0, seed=seed)
        with suppress(NoGap):
            return trace(model, prompt, config, corruption=made), made
    raise AssertionError(f"twenty noises do not hurt {prompt.text!r}")


@torch.no_grad()
def _lens(model: Any, one: Task) -> tuple[Tensor, Tensor]:
    """Log-probability, rank and entropy of every state."""
    from transformer_lens.tools.analysis import logit_lens

    prompt = one.prompts[0]
    found = lens(model, prompt)
    theirs = logit_lens(
        model, _tokens(one)[0], positions=None, targets=[prompt.answer_ids[0]], return_type="log_probs"
    ).readout
    assert theirs.target_ranks is not None
    parts = found.log_probability, found.rank.double() - 1, found.entropy
    others = theirs.values[:, 0, :, 0], theirs.target_ranks[:, 0, :, 0].double(), theirs.entropy[:, 0]
    return torch.stack([part.double() for part in parts]), torch.stack([part.double() for part in others])


@torch.no_grad()
def _patched(model: Any, one: Task, kind: str) -> tuple[Tensor, Tensor]:
    """What restoring one clean activation in the corrupt run gains."""
    from transformer_lens import patching

    clean, corrupt = _tokens(one)
    metric, swaps = _metric(one), (one.corrupt[0].subject,)
    config = Config(sites=(kind,), corruption="swap", swaps=swaps, samples=1, window=1, metric="logit_difference")
    ours = trace(model, one.prompts[0], config).grid(kind).effect
    _, cache = model.run_with_cache(clean)
    ways = {
        "resid": patching.get_act_patch_resid_pre,
        "attn": patching.get_act_patch_attn_out,
        "mlp": patching.get_act_patch_mlp_out,
        "head": patching.get_act_patch_attn_head_out_by_pos,
    }
    theirs = ways[kind](model, corrupt, cache, metric) - metric(model(corrupt))
    if kind == "resid":  # what enters a block is what the block below gave
        return ours[:-1], theirs[1:]
    return ours, theirs.movedim(-1, 1) if kind == "head" else theirs


@torch.no_grad()
def _paths(model: Any, one: Task) -> tuple[Tensor, Tensor]:
    from transformer_lens import patching

    clean, corrupt = _tokens(one)
    metric = _metric(one)
    plain, own = model.run_with_cache(corrupt)
    _, other = model.run_with_cache(clean)
    ours, theirs = [], []
    for part in ("q", "k", "v"):
        patched = patching.get_act_patch_direct_path(model, corrupt, other, own, metric, 0, 2, part, verbose=False)
        found = path_patch(model, one, ["a0.h2"], [f"a1.*.{part}"], direction="denoising")
        theirs.append((patched[1] - metric(plain)).float())
        ours.append(found.effect[0])
    return torch.stack(ours), torch.stack(theirs)


def _edges(model: Any, one: Task) -> tuple[Tensor, Tensor]:
    ours = EAP().score(Reference(model, Graph.of(model), one))
    return ours, -their_edges(model, one.corrupt, one.prompts, one.prompts[0]).to(ours)
