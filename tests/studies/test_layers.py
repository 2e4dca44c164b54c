"""Layers by trace, circuit and outcome: each measure is what its own package says, and ranks agree as defined."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from circuits.find import find
from circuits.graph import Graph
from circuits.method import SHARE
from circuits.scorers.eap_ig import EAPIG
from circuits.task import Task
from factscope.data.load import load_facts
from factscope.errors import UserError
from factscope.model.prompts import prompt_of
from factscope.plots.page import page_html
from factscope.runs import store
from factscope.statistics import spearman
from helpers.models import TOY
from helpers.results import check_result
from studies.commands import app as common
from studies.layers import LayerConfig, LayerStudy, layer_study
from studies.pages.layers import layer_table, page
from tracing.average import average
from tracing.causal import Config

TRACE = Config(samples=2, window=1)


@pytest.fixture(scope="module")
def study(toy, tmp_path_factory) -> LayerStudy:
    """All three ways on three towns and three layers of the toy."""
    facts = load_facts(TOY / "toy_town.json", limit=3)
    folder = tmp_path_factory.mktemp("study")
    return layer_study(
        toy, facts, [0, 1, 3], ("trace", "circuit", "outcome"), LayerConfig(trace=TRACE), folder=folder, shown=False
    )


def test_rank_correlation_is_one_for_any_rising_map_and_changes_sign_with_a_falling_one():
    values = [0.3, -2.0, 5.0, 1.0, 4.0, 0.0]
    assert spearman(values, [math.exp(x) for x in values])[0] == pytest.approx(1)
    assert spearman(values, [-(x**3) for x in values])[0] == pytest.approx(-1)
    other = [1.0, 3.0, 2.0, 2.0, 5.0, 4.0]
    assert spearman(values, other)[0] == pytest.approx(spearman(other, values)[0])
    assert all(math.isnan(number) for number in spearman(values, [1.0] * 6))


def test_ties_share_their_rank_and_p_is_the_share_of_moved_and_turned_layers():
    one, other = [1.0, 2.0, 2.0, 4.0], [1.0, 3.0, 2.0, 4.0]
    ranks = np.array([1, 2.5, 2.5, 4]), np.array([1, 3, 2, 4])
    rho, p = spearman(one, other)
    assert rho == pytest.approx(np.corrcoef(*ranks)[0, 1])
    moved = [ranks[1][[*order]] for order in ((0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2))]
    each = [abs(np.corrcoef(ranks[0], way)[0, 1]) for way in (*moved, *(way[::-1] for way in moved))]
    assert p == pytest.approx(np.mean([size >= rho - 1e-9 for size in each]))
    up = [float(layer) for layer in range(8)]
    assert spearman(up, up) == (pytest.approx(1), 2 / 16)  # turned around, it falls as much
    ragged = [3.0, 1.0, 7.0, 2.0, 8.0, 4.0, 6.0, 5.0]
    assert spearman(ragged, ragged) == (pytest.approx(1), 1 / 16)


def test_the_trace_is_the_average_at_the_last_subject_token(toy, study, tmp_path):
    facts = load_facts(TOY / "toy_town.json", limit=3)
    config = replace(TRACE, sites=("mlp",))
    found = average(toy, facts, config, journal=tmp_path / "journal.jsonl", shown=False)
    column = found.mean[0, :, found.roles.index("last subject")]
    (trace,) = [one for one in study.measures if one.way == "trace"]
    assert trace.values == pytest.approx([float(column[layer]) for layer in study.layers])
    assert all(math.isnan(end) for end in (*trace.low, *trace.high))  # three facts have no interval
    assert study.best("trace") == 0  # where the toy keeps its facts


def test_the_circuits_shares_are_those_of_its_kept_edges(toy, study):
    prompts = tuple(prompt_of(toy, fact) for fact in load_facts(TOY / "toy_town.json", limit=3))
    prompts = tuple(prompt for prompt in prompts if len(prompt.tokens) == len(prompts[0].tokens))
    (measure,) = [one for one in study.measures if one.way == "circuit"]
    assert measure.facts == len(prompts)
    share = max(1, round(SHARE * Graph.of(toy).n_edges))
    circuit = find(toy, Task(prompts, ablation="zero"), EAPIG(edges=share))
    edges = [
        (circuit.graph.writers[w], abs(float(circuit.scores[w, r]))) for w, r in np.argwhere(circuit.mask).tolist()
    ]
    total = sum(size for _, size in edges)
    shares = [sum(size for name, size in edges if name == f"m{layer}") / total for layer in study.layers]
    assert measure.values == pytest.approx(shares)


def test_the_outcome_is_the_mark_and_every_pair_is_compared(study):
    (measure,) = [one for one in study.measures if one.way == "outcome"]
    assert measure.values == tuple(trial.mark for trial in study.outcome.trials)
    pairs = [(one.one, one.other) for one in study.agreements]
    assert pairs == [("trace", "circuit"), ("trace", "outcome"), ("circuit", "outcome")]
    values = {one.way: one.values for one in study.measures}
    for one in study.agreements:
        assert (one.rho, one.p) == pytest.approx(spearman(values[one.one], values[one.other]), nan_ok=True)


def test_a_study_saves_loads_and_draws(study, tmp_path):
    again = store.load(store.save(study, tmp_path), LayerStudy)
    assert store.same(study, again)
    check_result(study, tmp_path / "out", "LayerStudy")
    html = page_html(page(again), light=True)
    assert "Rank correlation" in html
    table = layer_table(study)
    for place, one in enumerate(study.measures):  # rank 1 is the largest
        first = [row[0] for row in table.rows if row[2 + 2 * place] == 1]
        assert first in ([], [study.layers[int(np.argmax(one.values))]])


def test_the_command_compares_and_refuses(run_command, toy, monkeypatch):
    monkeypatch.setattr(common, "loader", lambda *_: lambda: toy)
    quick = ("--limit", 2, "--layer", "0,1", "--moments", "identity", "--samples", 1, "--window", 1)
    out = run_command("edit", "layers", TOY / "toy_town.json", "--by", "trace,circuit", *quick, "--json")
    assert out.exit_code == 0, out.stderr
    body = json.loads(out.stdout)
    assert [one["way"] for one in body["measures"]] == ["trace", "circuit"]
    assert body["best"] in (0, 1)
    assert Path(body["page"]).is_file()
    for by, sentence in (("luck", "choose among trace, circuit, outcome"), (",", "choose among")):
        out = run_command("edit", "layers", TOY / "toy_town.json", "--by", by, *quick)
        assert (out.exit_code, sentence in out.stderr) == (2, True)
    with pytest.raises(UserError, match="at least two layers"):
        layer_study(toy, load_facts(TOY / "toy_town.json", limit=2), [0], ("circuit",), folder=".")
