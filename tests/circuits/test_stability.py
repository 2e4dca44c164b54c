"""A circuit's error bars: scores example by example, and circuits from resampled examples without the model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from circuits import select
from circuits.analysis.diff import SETTLED, diff
from circuits.circuit import Circuit
from circuits.engine.reference import Reference
from circuits.find import find
from circuits.graph import Graph
from circuits.method import Scorer
from circuits.pages import diff as diff_pages
from circuits.pages.circuit import edge_table, summary
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG
from circuits.scorers.exact import Exact
from circuits.stability import jaccard, lower_bound, resamples, stability
from factscope.errors import UserError
from factscope.runs import store
from helpers.circuits import double, task
from helpers.results import check_result

EDGES = 20


@pytest.mark.parametrize(
    "method",
    [EAP(edges=EDGES), EAPIG(edges=EDGES, steps=2), EAP(edges=EDGES, by_mean=True)],
    ids=["eap", "eap_ig", "eap-by-mean"],
)
def test_bootstrap_circuits_are_those_of_the_resampled_prompts(tmp_path: Path, method: Scorer) -> None:
    """Each draw, found anew by running the model on the drawn prompts, gives the edges that its kept scores gave."""
    model = double("llama", tmp_path)
    own = task(model, ablation="counterfactual", rows=4)
    graph = Graph.of(model)
    examples = method.examples(Reference(model, graph, own))
    assert examples is not None
    kept = find(model, own, method).mask

    def chosen(some: torch.Tensor) -> np.ndarray:
        return graph.pruned(select.greedy(graph, some.mean(0) if method.by_mean else some.abs().mean(0), EDGES))

    found = stability(examples, kept, chosen, draws=5, seed=3)
    assert found is not None
    again = []
    for drawn in resamples(4, 5, seed=3):
        prompts, corrupt = (tuple(side[place] for place in drawn) for side in (own.prompts, own.corrupt))
        again.append(find(model, replace(own, prompts=prompts, corrupt=corrupt), method).mask)
    torch.testing.assert_close(found.inclusion, torch.from_numpy(np.mean(again, 0)).float())
    sets = [{(w, r) for w, r in np.argwhere(mask).tolist()} for mask in (*again, kept)]
    pairs = [len(a & b) / len(a | b) for i, a in enumerate(sets[:5]) for b in sets[:i]]
    assert found.jaccard == pytest.approx(np.mean(pairs))
    assert found.to_circuit == pytest.approx(np.mean([len(a & sets[5]) / len(a | sets[5]) for a in sets[:5]]))
    assert 0 < found.jaccard < 1  # the prompts differ enough for the draws to matter


def test_an_edge_that_helps_one_fact_and_hurts_another_counts_for_both() -> None:
    """Three edges into the logits of a graph of one layer, scored on two facts by hand."""
    graph = Graph(1, 1, 1)
    names = ("embed->logits", "a0.h0->logits", "m0->logits")
    examples = torch.zeros(2, *graph.allowed.shape, dtype=torch.float64)
    for name, each in zip(names, ((3.0, -3.0), (1.0, 1.0), (0.5, 0.5)), strict=True):
        examples[:, *graph.edge(name)] = torch.tensor(each, dtype=torch.float64)

    def first(scorer: EAP) -> str:
        (name,) = graph.names(scorer._selected(graph, examples, 1))
        return name

    assert first(EAP(edges=1)) == "embed->logits"
    for of_the_mean in (EAP(edges=1, by_mean=True), EAP(edges=1, signed=True), EAP(edges=1, confident=True)):
        assert first(of_the_mean) == "a0.h0->logits"


def test_an_examples_scores_are_those_of_its_prompt_alone(tmp_path: Path) -> None:
    model = double("gpt2", tmp_path)
    own = task(model, ablation="counterfactual", rows=3)
    reference = Reference(model, Graph.of(model), own)
    for method in (EAP(), EAPIG(steps=2)):
        examples = method.examples(reference)
        torch.testing.assert_close(examples.mean(0), method.score(reference))
        for place, (prompt, other) in enumerate(zip(own.prompts, own.corrupt, strict=True)):
            alone = Reference(model, reference.graph, replace(own, prompts=(prompt,), corrupt=(other,)))
            torch.testing.assert_close(examples[place], method.score(alone), atol=1e-8, rtol=1e-6)


def test_a_circuit_brings_its_error_bars(tmp_path: Path) -> None:
    """In its file, its table of edges and its summary; one example has none, nor has a method of means."""
    model = double("llama", tmp_path)
    own = task(model, ablation="counterfactual", rows=4)
    circuit = find(model, own, EAP(edges=EDGES))
    steady = circuit.stability
    assert steady is not None
    assert circuit.examples is not None
    torch.testing.assert_close(circuit.examples.mean(0).double(), circuit.scores, atol=1e-6, rtol=1e-5)
    assert steady.examples == 4
    assert store.same(store.load(store.save(circuit, tmp_path / "run"), Circuit), circuit)
    table = edge_table(circuit)
    place = table.columns.index("in resamples")
    writer, reader = (circuit.graph.writers.index(table.rows[0][0]), circuit.graph.reader_names.index(table.rows[0][1]))
    assert table.rows[0][place] == pytest.approx(float(steady.inclusion[writer, reader]))
    assert summary(circuit)["stability"]["jaccard"] == steady.jaccard
    one = find(model, task(model, ablation="counterfactual"), EAP(edges=60))
    assert one.stability is None
    assert summary(one)["stability"] is None
    assert find(model, own, Exact(edges=EDGES)).examples is None


def test_examples_that_are_alike_leave_no_doubt() -> None:
    graph = Graph(2, 1, 1)
    one = torch.randn(graph.allowed.shape, generator=torch.Generator().manual_seed(0)).double()
    examples = one.expand(3, *one.shape)
    kept = select.top(graph, one, 4)
    found = stability(examples, kept, lambda some: select.top(graph, some.mean(0), 4), draws=7)
    assert found is not None
    assert (found.jaccard, found.to_circuit) == (1.0, 1.0)
    assert torch.equal(found.inclusion, torch.from_numpy(kept).float())
    assert torch.allclose(lower_bound(examples), one)


def test_a_lower_bound_by_hand() -> None:
    """Scores 1, 2 and 3: their mean's error is 1 / sqrt(3), Student's t of two degrees is 2.92; signs are kept."""
    examples = torch.tensor([[[1.0, -1.0, 5.0]], [[2.0, -2.0, -5.0]], [[3.0, -3.0, 0.5]]], dtype=torch.float64)
    left = 2 - 2.9199856 / 3**0.5
    wanted = torch.tensor([[left, -left, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(lower_bound(examples), wanted, rtol=1e-5, atol=0)


def test_edges_can_be_chosen_by_their_lower_bound(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    own = task(model, ablation="counterfactual", rows=4)
    graph = Graph.of(model)
    examples = EAP().examples(Reference(model, graph, own))
    chosen = find(model, own, EAP(edges=EDGES, confident=True))
    wanted = graph.pruned(select.greedy(graph, lower_bound(examples), EDGES))
    assert np.array_equal(chosen.mask, wanted)
    assert not np.array_equal(chosen.mask, find(model, own, EAP(edges=EDGES)).mask)
    assert "lower bounds" in chosen.settings["compared"]
    with pytest.raises(UserError, match="one example has no spread"):
        find(model, task(model), EAP(edges=60, confident=True))
    with pytest.raises(UserError, match="no lower bound"):
        find(model, own, Exact(edges=EDGES, confident=True))


def test_jaccard_indices_of_sets() -> None:
    sets = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=np.float32)
    assert np.allclose(jaccard(sets, sets), np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]]))


def test_a_comparison_says_which_changes_other_facts_would_give(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    one = find(model, task(model, ablation="counterfactual", rows=4), EAP(edges=EDGES))
    other = find(model, task(model, ablation="mean", rows=4), EAP(edges=EDGES))
    found = diff(one, other)
    assert one.stability is not None
    assert other.stability is not None
    changed = (*found.gained, *found.lost)
    assert len(found.inclusion) == len(changed) > 0
    for name, shares in zip(changed, found.inclusion, strict=True):
        at = one.graph.edge(name)
        assert shares == (float(one.stability.inclusion[at]), float(other.stability.inclusion[at]))
        assert (name in found.settled) == (max(shares) >= SETTLED and min(shares) <= 1 - SETTLED)
    assert found.jaccard_within == (one.stability.jaccard, other.stability.jaccard)
    assert any("resampled facts" in line for line in diff_pages.words(found))
    check_result(found, tmp_path / "result", "CircuitDiff")
    alone = diff(one, find(model, task(model, ablation="mean"), EAP(edges=EDGES)))
    assert alone.inclusion == alone.settled == ()  # one fact leaves nothing to draw
    assert alone.jaccard_within is None
