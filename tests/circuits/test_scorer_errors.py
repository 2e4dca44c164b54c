"""The measured error of scorers: known for a scorer that is exact, and for its negative."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.analysis.scorer_errors import correlation, draw, errors_of, overlap, scorer_errors
from circuits.engine.reference import Reference
from circuits.find import find
from circuits.graph import Graph
from circuits.pages.scorer_errors import page, records, words
from circuits.scorers.eap import EAP
from circuits.scorers.exact import Exact
from factscope.errors import UserError
from factscope.plots.page import page_html
from factscope.statistics import spearman
from helpers.circuits import double, task
from helpers.results import check_result


@dataclass(frozen=True)
class Opposite(Exact):
    """A scorer that has everything the wrong way round, and twice as large."""

    def score(self, reference: Reference) -> torch.Tensor:
        return -2 * super().score(reference)


def test_an_exact_scorer_has_no_error_and_its_negative_has_the_order_reversed(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    one = task(model, ablation="counterfactual")
    found = scorer_errors(model, one, {"exact": Exact(), "opposite": Opposite(), "eap": EAP()}, edges=60)
    exact, opposite, eap = found.agreements
    assert exact.rank_correlation.value == pytest.approx(1)
    assert exact.mean_error.value == pytest.approx(0, abs=1e-9)
    assert (exact.top_found.value, exact.sign) == (1, 1)
    assert opposite.rank_correlation.value == pytest.approx(-1)
    assert opposite.by_size.value == pytest.approx(1)
    assert opposite.mean_error.value == pytest.approx(3 * float(found.exact.abs().mean()), rel=1e-5)
    assert opposite.sign == 0
    assert 0 < eap.rank_correlation.value < 1
    assert eap.mean_error.value > 1e-4
    check_result(found, tmp_path / "run", "ScorerErrors")
    assert "Rank correlation" in page_html(page(found))
    assert words(found)[1].startswith("exact:")
    assert len(records(found)) == 3 * 60


def test_drawn_edges_are_edges_of_the_whole(tmp_path: Path) -> None:
    model = double("gpt2", tmp_path)
    one = task(model, ablation="counterfactual")
    found = scorer_errors(model, one, {"eap": EAP()}, edges=30, direction="denoising")
    whole = Exact(direction="denoising").score(Reference(model, Graph.of(model), one))
    places = [found.graph.edge(edge) for edge in found.edges]
    assert len(set(places)) == 30
    torch.testing.assert_close(found.exact, torch.stack([whole[place] for place in places]).float())
    every = draw(found.graph, None, 0)
    assert len(every) == found.graph.n_edges
    with pytest.raises(UserError, match="too few"):
        draw(found.graph, 3, 0)


def test_a_circuits_own_scores_are_compared_on_its_own_task(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    one = task(model, ablation="mean", rows=2)
    circuit = find(model, one, EAP(edges=60))
    ours, apart = errors_of(model, circuit, 40), scorer_errors(model, one, {"eap": EAP()}, edges=40)
    assert torch.equal(ours.exact, apart.exact)
    torch.testing.assert_close(ours.scores, apart.scores)  # a circuit keeps its scores in float32
    assert ours.agreements[0].rank_correlation.value == pytest.approx(apart.agreements[0].rank_correlation.value)


def test_the_order_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=40).round(1), rng.normal(size=40).round(1)  # with ties
    assert correlation(one, other) == pytest.approx(spearman(one.tolist(), other.tolist())[0])
    assert np.isnan(correlation(np.zeros(5), np.arange(5.0)))
    assert overlap(np.array([5.0, -4, 1, 0]), np.array([0.0, -9, 8, 1]), 2) == 0.5


def test_there_must_be_a_scorer(tiny: Any) -> None:
    model = tiny("llama")
    with pytest.raises(UserError, match="no scorer"):
        scorer_errors(model, task(model), {})
