"""Edge scores: against TransformerLens, against finite differences, against measuring, and for many steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits import select
from circuits.circuit import EmptyCircuit
from circuits.engine.gradients import Point, clean_run, clean_writes, mean_gradient
from circuits.engine.reference import Reference
from circuits.find import find
from circuits.graph import Graph
from circuits.method import INTEGRAL, method, method_class, methods
from circuits.pages.circuit import card
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG, OFFSETS
from circuits.scorers.exact import Exact
from factscope.errors import StoreError, UserError
from factscope.runs.workers import Workers
from helpers.circuits import SHAPES, double, task, their_edges
from helpers.rays import PretendRay, pretended


def test_eap_is_transformerlenss_with_the_other_sign(tmp_path: Path) -> None:
    """Theirs is the gradient in the corrupt run of a metric; ours is the same with the two prompts exchanged."""
    model = double("gpt2", tmp_path)
    one = task(model, "logit_difference", "counterfactual")
    ours = EAP().score(Reference(model, Graph.of(model), one))
    theirs = their_edges(model, one.corrupt, one.prompts, one.prompts[0])
    torch.testing.assert_close(ours, -theirs.to(ours), atol=1e-6, rtol=1e-4)  # our loss is minus their metric
    assert float(ours.abs().max()) > 1e-3


@pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
@pytest.mark.parametrize("name", SHAPES)
def test_eap_is_the_slope_of_the_exact_effect(tmp_path: Path, name: str, split: bool) -> None:
    """Move the ablated values a ten-thousandth of the way: the exact effect is then the first-order one."""
    model, small = double(name, tmp_path), 1e-4
    reference = Reference(model, Graph.of(model, split=split), task(model, ablation="counterfactual", rows=2))
    clean = clean_writes(reference)
    near = Reference(model, reference.graph, reference.task, clean + small * (reference.replacement - clean))
    slope = Exact().score(near) / small
    scores = EAP().score(reference)
    for one, two in zip(clean_run(reference), (clean, mean_gradient(reference, [Point()], clean)), strict=True):
        assert torch.equal(one, two)  # of one pass as of two
    # a softmax and norms in float32 inside a float64 model: 1e-7 over 1e-4
    torch.testing.assert_close(scores, slope, atol=5e-3 * float(scores.abs().max()) + 2e-3, rtol=0.05)
    assert np.corrcoef(scores.flatten(), slope.flatten())[0, 1] > 0.999


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_exact_cuts_are_the_same_whoever_makes_them(tmp_path: Path, direction: Any) -> None:
    """With three workers of whom two die, and after a stop: the bits of one process."""
    model = double("llama", tmp_path, "float32")
    one, method = task(model, ablation="counterfactual", rows=2), Exact(edges=20, direction=direction)
    alone = find(model, one, method)
    with pretended(model, PretendRay(seed=3, deaths=2)):
        shared = find(model, one, method, workers=Workers(3), journal=tmp_path / "shared")
    assert torch.equal(alone.scores, shared.scores)
    assert float(alone.scores.abs().max()) > 1e-3
    lines = (tmp_path / "shared").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "stopped").write_text("".join(lines[:2]), encoding="utf-8")
    gone_on = find(model, one, method, journal=tmp_path / "stopped")
    assert torch.equal(alone.scores, gone_on.scores)
    assert (tmp_path / "stopped").read_text(encoding="utf-8") == "".join(lines)
    with pytest.raises(StoreError, match="other settings"):
        find(model, one, Exact(edges=20, largest_batch=3, direction=direction), journal=tmp_path / "shared")


@pytest.mark.parametrize("name", SHAPES)
def test_exact_is_one_cut_after_another(tmp_path: Path, name: str) -> None:
    model = double(name, tmp_path)
    reference = Reference(model, Graph.of(model), task(model))
    scores, full = Exact().score(reference), reference.graph.full()
    base = reference.loss(full)
    for writer, number in np.argwhere(full)[::9]:
        cut = full.copy()
        cut[writer, number] = False
        assert abs(reference.loss(cut) - base - float(scores[writer, number])) < 1e-6


@pytest.mark.parametrize("name", SHAPES)
def test_eap_igs_embedding_edges_sum_to_the_gap(tmp_path: Path, name: str) -> None:
    model = double(name, tmp_path)
    reference = Reference(model, Graph.of(model), task(model, ablation="counterfactual"))
    gap = reference.loss(reference.graph.empty()) - reference.loss(reference.graph.full())
    tried: tuple[tuple[Any, int], ...] = (("midpoint", 16), ("midpoint", 64), ("left", 64), ("left", 256))
    errors = {
        (rule, steps): abs(float(EAPIG(steps=steps, rule=rule).score(reference)[0].sum()) - gap)
        for rule, steps in tried
    }
    assert errors["midpoint", 64] < 1e-3 * abs(gap)
    assert errors["midpoint", 64] < errors["midpoint", 16] / 10  # falls with the square of the step: sixteenfold
    assert errors["left", 256] < errors["left", 64] / 3  # with the step: fourfold


@pytest.mark.parametrize("given", [{"rule": "left"}, {"variant": "clean_corrupted"}], ids=str)
def test_no_gradient_is_taken_at_a_stream_of_zeros(tiny: Any, given: dict[str, Any]) -> None:
    """There every norm has the slope 1/sqrt(eps): scores of millions of nats, which had been returned as they were."""
    model = tiny("llama")
    with pytest.raises(UserError, match="embedding of zeros"):
        find(model, task(model), EAPIG(edges=30, **given))
    find(model, task(model, ablation="counterfactual"), EAPIG(edges=30, **given))
    scores = find(model, task(model), EAPIG(edges=30)).scores
    assert float(scores.abs().max()) < 1e3


@pytest.mark.parametrize("ablation", ["counterfactual", "mean", "zero"])
def test_the_card_says_how_far_the_integral_is(tmp_path: Path, ablation: str) -> None:
    """With many steps the embedding's edges sum to the loss between the ends, and the circuit says both numbers."""
    model = double("llama", tmp_path)
    circuit = find(model, task(model, ablation=ablation), EAPIG(edges=30, steps=200 if ablation != "zero" else 5))
    total, gap = (circuit.settings[name] for name in INTEGRAL)
    assert total == pytest.approx(float(circuit.scores[0].sum()))
    if ablation == "zero":  # five steps are far from it, and that is told
        assert any("do not reach the integral" in note for note in circuit.notes) is (abs(total - gap) > 0.5 * abs(gap))
    else:
        assert total == pytest.approx(gap, rel=1e-2)
    assert "completeness of the scores" in dict(card(circuit).items)


def test_points_of_each_rule() -> None:
    shares = {rule: [p.share for p in EAPIG(steps=2, rule=rule).points(3)] for rule in OFFSETS}
    assert shares == {"left": [0.0, 0.5], "midpoint": [0.25, 0.75], "right": [0.5, 1.0]}
    assert len(EAPIG("activations", 2).points(3)) == 2 * (1 + 2 * 3)
    assert [p.share for p in EAPIG("clean_corrupted").points(3)] == [0.0, 1.0]


def test_clean_corrupted_is_the_mean_of_the_ends(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    reference = Reference(model, Graph.of(model), task(model, ablation="counterfactual"))
    both = EAPIG("clean_corrupted").score(reference)
    clean = EAPIG(steps=1, rule="right").score(reference)
    corrupt = EAPIG(steps=1, rule="left").score(reference)
    torch.testing.assert_close(both, (clean + corrupt) / 2)
    torch.testing.assert_close(clean, EAP().score(reference))


def test_activations_average_over_every_layers_path(tmp_path: Path) -> None:
    """With share 1 everywhere nothing is moved, so every gradient is the clean one."""
    model = double("gpt2", tmp_path)
    reference = Reference(model, Graph.of(model), task(model, ablation="counterfactual"))
    one_step = EAPIG("activations", 1, "right").score(reference)
    torch.testing.assert_close(one_step, EAP().score(reference), atol=1e-7, rtol=1e-5)


def test_selections_by_hand() -> None:
    graph = Graph(2, 1, 1)
    scores = torch.zeros(graph.allowed.shape, dtype=torch.float64)
    for name, value in {"m1->logits": 2.0, "m0->m1": -3.0, "embed->m0": 1.0, "embed->a0.h0.q": 9.0}.items():
        scores[graph.edge(name)] = value
    assert graph.names(select.top(graph, scores, 2)) == ["embed->a0.h0.q", "m0->m1"]
    assert set(graph.names(select.greedy(graph, scores, 3))) == {"m1->logits", "m0->m1", "embed->m0"}
    assert graph.names(select.above(graph, scores, 2.0)) == ["embed->a0.h0.q", "m0->m1", "m1->logits"]
    assert graph.names(select.above(graph, scores, 2.0, signed=True)) == ["embed->a0.h0.q", "m1->logits"]
    assert graph.names(graph.pruned(select.top(graph, scores, 4))) == ["embed->m0", "m0->m1", "m1->logits"]
    with pytest.raises(UserError, match="0 edges"):
        select.top(graph, scores, 0)


def test_every_method_that_is_listed_works(tiny: Any) -> None:
    """The contract: a file in scorers/ or search/ names its class, which knows its own name and what a score means."""
    model = tiny("llama")
    for name in methods():
        circuit = find(model, task(model), method(name, {"threshold": 0.02} if name == "acdc" else {"edges": 30}))
        assert circuit.method == name == method_class(name).name
        assert circuit.n_edges > 0
        assert circuit.convention.endswith("helps")


def test_what_cannot_be_selected(tiny: Any) -> None:
    model = tiny("gpt2")
    with pytest.raises(UserError, match="no circuit method"):
        method("magic")
    with pytest.raises(UserError, match="not both"):
        EAP(edges=3, threshold=0.1)
    with pytest.raises(UserError, match="keeps every edge"):
        EAP(threshold=0.1, select="top")
    with pytest.raises(UserError, match="not one of greedy, top"):
        method("eap", {"select": "best"})
    with pytest.raises(UserError, match="acdc has no 'edges'"):
        method("acdc", {"edges": 3})
    with pytest.raises(UserError, match="eap-ig has no 'certify'"):
        method("eap-ig", {"certify": 0.1})
    with pytest.raises(EmptyCircuit, match="nothing"):
        find(model, task(model), EAP(threshold=1e9))
    with pytest.raises(UserError, match="not one of left"):
        method("eap-ig", pairs=["rule=best"])
    with pytest.raises(UserError, match="steps"):
        EAPIG(steps=0)


def test_an_open_ablation_is_the_one_that_suits_the_method(tiny: Any) -> None:
    """Counterfactual for EAP where there are twins, and zero, with a note, where there are none; zero for a search."""
    model = tiny("llama")
    own = task(model)
    opened = replace(own, ablation="auto")
    chosen = find(model, opened, EAP(edges=30))
    told = find(model, task(model, ablation="counterfactual"), EAP(edges=30))
    assert chosen.task.ablation == "counterfactual"
    assert torch.equal(chosen.scores, told.scores)
    assert chosen.notes == told.notes
    alone = find(model, replace(opened, corrupt=()), EAP(edges=30))
    assert torch.equal(alone.scores, find(model, own, EAP(edges=30)).scores)
    assert "cut to zero" in alone.notes[0]
    assert find(model, opened, Exact(edges=30)).task.ablation == "zero"
    with pytest.raises(UserError, match="leaves its ablation"):
        Reference(model, Graph.of(model), opened)
