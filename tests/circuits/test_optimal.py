"""Optimal ablation: exact where sets are cut, right where a pencil tells the optimum, never worse than the means."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits import ablations
from circuits.ablations import ablated
from circuits.engine import optimal as learning
from circuits.engine.optimal import OptimalConfig, ablated_logits, at_positions, learned, optimal
from circuits.engine.reference import Reference
from circuits.engine.writes import writes
from circuits.graph import Graph
from factscope.errors import UserError
from factscope.model.hooks import record
from factscope.model.prompts import make_prompt
from factscope.model.sites import Site
from helpers.circuits import COUPLED, SHAPES, double, task

QUICK = OptimalConfig(steps=8, rows=4, draws=1, every=4)
KEPT = OptimalConfig(steps=1, rows=1, draws=1)  # whatever is learned, it is what is kept


@pytest.mark.parametrize("name", [*SHAPES, *COUPLED, "qwen2_moe"])
def test_a_cut_set_is_the_circuit_without_its_edges(tiny: Any, family: Any, name: str) -> None:
    """Each row has a set of its own; the plain engine, one circuit after another, gives the same logits."""
    model = tiny(name) if name in SHAPES else family(name)
    graph, one = Graph.of(model, split=name != "llama"), task(model, rows=3)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(len(graph.writers), 2, int(model.cfg.d_model), generator=generator)
    cut = torch.rand(len(graph.writers), 3, generator=generator) < torch.tensor([0.0, 0.4, 1.0])
    found = ablated_logits(model, graph, one.tokens(model), cut, values)
    reference = Reference(model, graph, one, at_positions(values, one.n_positions)[:, None])
    for row in range(3):
        kept = graph.full() & ~cut[:, row].numpy()[:, None]
        torch.testing.assert_close(found[row], reference.logits(kept)[row], atol=1e-4, rtol=1e-4)  # float32


def test_with_everything_cut_the_optimum_is_the_mean_of_what_is_said(tmp_path: Path) -> None:
    """By pencil: of constant predictions q, KL(p || q) is least on average where q is the average of the p.

    The model may say one token more or less probable, and all others are alike, so a constant reaches that average.
    """
    model = double("neox", tmp_path)  # whose unembedding is not its embedding
    graph, prompts = Graph.of(model), task(model).reference
    weight = model.unembed.original_component.weight
    before = weight.detach().clone()
    rows = torch.tensor([prompt.tokens for prompt in prompts])
    end = Site("resid", graph.n_layers - 1)
    with record(model, [end]) as seen, torch.no_grad():
        model(rows)
        last = model.ln_final(seen[end])[:, -1]
    apart = torch.linalg.svd(last - last.mean(0)).Vh[0]  # where the prompts differ most
    try:
        with torch.no_grad():
            weight.zero_()
            weight[3] = 2 * apart / (last @ apart).std() + 6 * last.mean(0) / last.mean(0).pow(2).sum()
        full = model(rows)[:, -1].detach().softmax(-1)
        every = replace(QUICK, shares=(1.0, 1.0), steps=60, rate=0.03, rows=8, every=20)
        found = learned(model, graph, prompts, every)
        cut = torch.ones(len(graph.writers), 1, dtype=torch.bool)
        said = ablated_logits(model, graph, rows[:1], cut, found.values).softmax(-1)[0]
    finally:
        with torch.no_grad():
            weight.copy_(before)
    best = float((full * (full / full.mean(0)).log()).sum(-1).mean())
    assert float(full[:, 3].std()) > 0.05  # the prompts are told apart
    assert abs(float(said[3] - full[:, 3].mean())) < 1e-3
    assert best - 1e-9 <= found.kl < best + 1e-5 < found.kl_mean


def test_constants_are_never_worse_than_the_means_and_mostly_better(tiny: Any) -> None:
    """A rate at which nothing is learned keeps the means; one that learns lowers the divergence."""
    model = tiny("gpt2")
    graph, one = Graph.of(model), task(model, ablation="optimal", rows=2)
    prompts = (*one.reference, make_prompt(model, "[Oda Drey Voss] lives in", answer="Brask"))  # of two lengths
    good, wild = (
        learned(model, graph, prompts, replace(QUICK, rate=rate, steps=n)) for rate, n in ((0.1, 8), (1e4, 2))
    )
    seen = [writes(model, graph, torch.tensor([prompt.tokens]))[:, 0] for prompt in prompts]
    means = torch.stack(
        [torch.stack([x[:, 0] for x in seen], 1).mean(1), torch.cat([x[:, 1:] for x in seen], 1).mean(1)], 1
    )
    torch.testing.assert_close(wild.values, means)
    assert wild.kl == wild.kl_mean == good.kl_mean > good.kl
    again = learned(model, graph, prompts, replace(QUICK, rate=0.1))
    assert torch.equal(again.values, good.values)


def test_constants_are_kept_whole_by_what_they_were_learned_from(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path))
    model = tiny("gpt2")
    graph, one = Graph.of(model), task(model, ablation="optimal", rows=2)
    monkeypatch.setattr(ablations, "OPTIMAL", KEPT)
    value = ablated(model, graph, one)
    (file,) = (tmp_path / "ablations").iterdir()
    kept = optimal(model, graph, one.reference, KEPT)
    assert torch.equal(value[:, 0, 0], kept.values[:, 0])
    assert torch.equal(value[:, 0, 1:], kept.values[:, 1:].expand(-1, one.n_positions - 1, -1))
    assert list((tmp_path / "ablations").iterdir()) == [file]  # read, and not learned again
    optimal(model, graph, one.reference, replace(KEPT, seed=1))
    optimal(model, graph, one.reference[:-1], KEPT)
    assert len(list((tmp_path / "ablations").iterdir())) == 3

    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(learning, "_drawn", stopped)
    with pytest.raises(KeyboardInterrupt):
        optimal(model, graph, one.reference, replace(KEPT, seed=2))
    assert len(list((tmp_path / "ablations").iterdir())) == 3


def test_a_mistake_is_one_sentence(tiny: Any) -> None:
    model = tiny("gpt2")
    one = task(model, ablation="optimal")
    with pytest.raises(UserError, match="1 reference prompts other than"):
        ablated(model, Graph.of(model), replace(one, reference=one.reference[:2]))
    for wrong, words in (
        ({"rows": 0}, "rows must be 1 or more"),
        ({"rate": 0.0}, "a rate above 0"),
        ({"shares": (0.5, 0.1)}, "the first is not above"),
    ):
        with pytest.raises(UserError, match=words):
            OptimalConfig(**wrong)
