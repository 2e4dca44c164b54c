"""AtP* against its definition: hooks and autograd on the model itself, one edge and one dropped layer at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.engine.gradients import clean_writes
from circuits.engine.reference import Reference
from circuits.engine.writes import reading
from circuits.find import find
from circuits.graph import Graph
from circuits.scorers.atp_star import AtPStar
from circuits.scorers.eap import EAP
from factscope.errors import UserError
from factscope.model.hooks import hooked, record
from factscope.model.sites import Site
from helpers.circuits import SHAPES, double, task


def _run(reference: Reference, hooks: list[Any], dropped: int | None = None) -> Tensor:
    """The loss of a run with these hooks, with no gradient through one layer."""
    if dropped is not None:
        hooks = [*hooks, *((Site(kind, dropped), lambda out: out.detach()) for kind in ("attn", "mlp"))]
    with torch.enable_grad(), reading(reference.model), hooked(reference.model, hooks):
        logits = reference.model(reference.task.tokens(reference.model), use_cache=False)[:, -1]
        return reference.objective.losses(logits[None])[0]


def _slope(loss: Tensor, at: Tensor) -> Tensor:
    """The gradient, zero where the dropped layer cut every way to the loss."""
    slope = torch.autograd.grad(loss, at, allow_unused=True)[0] if loss.requires_grad else None
    return torch.zeros_like(at) if slope is None else slope


def _pattern_slope(reference: Reference, layer: int, dropped: int | None) -> Tensor:
    """The loss's gradient at a layer's attention probabilities, [row, head, query, key]."""
    kept: list[Tensor] = []

    def keep(pattern: Tensor) -> Tensor:
        kept.append(pattern.detach().requires_grad_())
        return kept[-1]

    loss = _run(reference, [(Site("pattern", layer), keep)], dropped)
    return _slope(loss, kept[0])


def _attention_with(reference: Reference, kind: str, layer: int, head: int, change: Tensor) -> Tensor:
    """A layer's attention probabilities where one query or key input is changed."""

    def moved(inputs: Tensor) -> Tensor:
        inputs = inputs.clone()
        inputs[:, :, head] += change
        return inputs

    hook = [(Site(f"{kind}_input", layer), moved)]
    model, site = reference.model, Site("pattern", layer)
    with torch.no_grad(), reading(model), hooked(model, hook), record(model, [site]) as seen:
        model(reference.task.tokens(model), use_cache=False)
    return seen[site]


def _reader_slope(reference: Reference, number: int, dropped: int | None) -> Tensor:
    """The loss's gradient at one reader's input, [row, pos, d_model]."""
    reader = reference.graph.readers[number]
    probe = torch.zeros_like(reference.replacement[0]).expand(
        len(reference.task.prompts), reference.task.n_positions, -1
    )
    probe = probe.clone().requires_grad_()

    def add(inputs: Tensor) -> Tensor:
        if reader.kind in ("mlp", "logits"):
            return inputs + probe
        inputs = inputs.clone()
        inputs[:, :, reader.head] = inputs[:, :, reader.head] + probe
        return inputs

    kind = {"mlp": "mlp_in", "logits": "resid"}.get(reader.kind, f"{reader.kind}_input")
    loss = _run(reference, [(Site(kind, min(reader.layer, reference.graph.n_layers - 1)), add)], dropped)
    return _slope(loss, probe)


def _effect(reference: Reference, clean: Tensor, writer: int, number: int, dropped: int | None) -> float:
    """One edge's estimated effect, as the paper defines it."""
    reader = reference.graph.readers[number]
    change = (reference.replacement - clean)[writer]
    if reader.kind not in "qk":
        return float((change * _reader_slope(reference, number, dropped)).sum())
    moved = _attention_with(reference, reader.kind, reader.layer, reader.head, change)
    with record(reference.model, [Site("pattern", reader.layer)]) as seen, torch.no_grad():
        reference.model(reference.task.tokens(reference.model), use_cache=False)
    slope = _pattern_slope(reference, reader.layer, dropped)
    return float(((moved - seen[Site("pattern", reader.layer)]) * slope).sum())


@pytest.mark.parametrize("name", SHAPES)
def test_atp_star_is_its_definition(tmp_path: Path, name: str) -> None:
    model = double(name, tmp_path)
    reference = Reference(model, Graph.of(model), task(model, ablation="counterfactual"))
    clean, graph = clean_writes(reference), reference.graph
    fixed, both = AtPStar(grad_drop=False).score(reference), AtPStar().score(reference)
    kinds = {reader.kind for reader in graph.readers}
    for kind in sorted(kinds):
        numbers = [number for number, reader in enumerate(graph.readers) if reader.kind == kind]
        for number in (numbers[0], numbers[-1]):
            writer = graph.below(graph.readers[number]) - 1
            plain = _effect(reference, clean, writer, number, None)
            sizes = [abs(_effect(reference, clean, writer, number, layer)) for layer in range(graph.n_layers)]
            # a softmax in float32 inside a float64 model
            assert float(fixed[writer, number]) == pytest.approx(plain, abs=2e-6, rel=1e-4), (kind, number)
            wanted = np.copysign(sum(sizes) / (graph.n_layers - 1), plain)
            assert float(both[writer, number]) == pytest.approx(wanted, abs=2e-6, rel=1e-4), (kind, number)
    assert float(both.abs().max()) > 1e-3


def test_with_neither_repair_it_is_eap(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    reference = Reference(model, Graph.of(model), task(model, ablation="counterfactual", rows=2))
    assert torch.equal(AtPStar(qk_fix=False, grad_drop=False).examples(reference), EAP().examples(reference))


def test_for_small_changes_the_attention_fix_is_the_slope(tmp_path: Path) -> None:
    """A thousandth of the way to the ablated values the softmax is straight, and the fix agrees with EAP."""
    model, small = double("llama", tmp_path), 1e-3
    reference = Reference(model, Graph.of(model), task(model, ablation="counterfactual", rows=2))
    clean = clean_writes(reference)
    near = Reference(model, reference.graph, reference.task, clean + small * (reference.replacement - clean))
    ours, eap = AtPStar(grad_drop=False).score(near) / small, EAP().score(reference)
    torch.testing.assert_close(ours, eap, atol=2e-2 * float(eap.abs().max()), rtol=0.05)
    far = AtPStar(grad_drop=False).score(reference)
    of_queries = [n for n, reader in enumerate(reference.graph.readers) if reader.kind in "qk"]
    others = [n for n, reader in enumerate(reference.graph.readers) if reader.kind not in "qk"]
    assert torch.equal(far[:, others], eap[:, others])
    assert float((far - eap)[:, of_queries].abs().max()) > 1e-4  # and over the whole way the two differ


def test_what_atp_star_cannot_do(tiny: Any) -> None:
    model = tiny("llama")
    with pytest.raises(UserError, match="--no-split-qkv"):
        find(model, task(model), AtPStar(edges=10), split=False)
    whole = find(model, task(model), AtPStar(edges=60, qk_fix=False), split=False)
    assert whole.n_edges > 0
