"""The search: two engines, one circuit; killed and resumed, the same one; a known circuit, found."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.certificate import certify
from circuits.circuit import EmptyCircuit
from circuits.decisions import Decision, journal_key, recorded, shared_prefix
from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.find import decisions_of, find
from circuits.graph import Graph
from circuits.method import method
from circuits.scorers.exact import Exact
from circuits.search.acdc import ACDC, acdc, costs
from factscope.errors import StoreError, UserError
from factscope.runs.journal import Journal
from factscope.runs.workers import Workers
from helpers.circuits import SHAPES, WIRED, double, hand_wired, task
from helpers.rays import PretendRay, pretended

CONFIGURATIONS = [
    (name, ablation, metric, rows)
    for (name, (ablation, metric), rows) in itertools.product(
        SHAPES,
        [("zero", "nll"), ("zero", "kl"), ("mean", "nll"), ("counterfactual", "kl")],
        (1, 8),
    )
]


@pytest.mark.parametrize(("name", "ablation", "metric", "rows"), CONFIGURATIONS)
def test_both_engines_find_one_circuit(tmp_path: Path, name: str, ablation: str, metric: str, rows: int) -> None:
    """24 configurations: MHA, GQA with RMS norm and gates, parallel; split heads on one prompt, whole ones on eight."""
    model = double(name, tmp_path)
    reference = Reference(model, Graph.of(model, split=rows == 1), task(model, metric, ablation, rows))
    threshold = 0.01 if metric == "nll" else 0.002
    slow = acdc(reference, ACDC(threshold, "reference"))
    fast = acdc(reference, ACDC(threshold))
    assert (slow.kept == fast.kept).all()
    assert [(d.writer, d.reader, d.kept) for d in slow.decisions] == [
        (d.writer, d.reader, d.kept) for d in fast.decisions
    ]
    gap = max(abs(a.increment - b.increment) for a, b in zip(slow.decisions, fast.decisions, strict=True))
    assert gap < 1e-6
    assert slow.n_dead == fast.n_dead


@pytest.mark.parametrize("name", SHAPES)
def test_both_engines_find_one_circuit_in_float32(tmp_path: Path, name: str) -> None:
    model = double(name, tmp_path, "float32")
    reference = Reference(model, Graph.of(model), task(model, rows=2))
    slow, fast = acdc(reference, ACDC(0.01, "reference")), acdc(reference, ACDC(0.01))
    assert (slow.kept == fast.kept).all()


@pytest.mark.parametrize("size", [1, 3, 64])
def test_the_size_of_a_batch_decides_nothing(tmp_path: Path, size: int) -> None:
    """Of one at a time, nothing is expected or thrown away; larger ones expect, and are wrong now and then."""
    model = double("llama", tmp_path)
    reference = Reference(model, Graph.of(model, split=False), task(model))
    slow, fast = acdc(reference, ACDC(0.01, "reference")), acdc(reference, ACDC(0.01, largest_batch=size))
    assert [d.kept for d in slow.decisions] == [d.kept for d in fast.decisions]
    assert (fast.n_evaluated == len(fast.decisions)) == (size == 1)
    assert max(abs(a.increment - b.increment) for a, b in zip(slow.decisions, fast.decisions, strict=True)) < 1e-6


@pytest.mark.parametrize("name", SHAPES)
def test_the_time_left_weighs_decisions_as_the_engine_plans_them(tmp_path: Path, name: str) -> None:
    """One cost for each edge, in the order of the search; who has more to compute in the whole graph costs no less."""
    model = double(name, tmp_path)
    reference = Reference(model, Graph.of(model), task(model))
    graph, fast = reference.graph, Fast(reference)
    fast.rebuild(graph.full())
    told = costs(graph)
    order = [n for n in range(len(graph.readers) - 1, -1, -1) for _ in range(graph.below(graph.readers[n]))]
    assert len(told) == len(order) == graph.n_edges
    for kind in {reader.kind for reader in graph.readers}:
        of_kind = [
            (fast.plan(n).cost, cost) for n, cost in zip(order, told, strict=True) if graph.readers[n].kind == kind
        ]
        assert of_kind == sorted(of_kind)
        assert kind == "logits" or of_kind[0] < of_kind[-1]


def test_a_decision_on_the_threshold_is_made_by_the_plain_engine(tmp_path: Path) -> None:
    """A threshold equal to one measured rise: float32 in batches could fall on either side of it."""
    model = double("llama", tmp_path, "float32")
    reference = Reference(model, Graph.of(model, split=False), task(model))
    first = acdc(reference, ACDC(0.01, "reference"))
    threshold = next(d.increment for d in first.decisions if 0.02 < d.increment < 0.2)
    slow, fast = acdc(reference, ACDC(threshold, "reference")), acdc(reference, ACDC(threshold))
    assert any(decision.tie for decision in fast.decisions)
    assert (slow.kept == fast.kept).all()


def test_a_known_circuit_is_recovered_exactly(tmp_path: Path) -> None:
    """Only embed, a0.h1 and m1 write; under KL every edge between them costs something, and no other costs anything."""
    model = hand_wired(tmp_path)
    reference = Reference(model, Graph.of(model), task(model, "kl"))
    for engine in ("fast", "reference"):
        found = acdc(reference, ACDC(1e-6, engine))
        assert sorted(reference.graph.names(found.kept)) == sorted(WIRED)
    exact = find(model, task(model, "kl"), Exact(threshold=1e-6))
    assert sorted(exact.graph.names(exact.mask)) == sorted(WIRED)


class Killed(RuntimeError):
    pass


class FragileJournal(Journal):
    """Dies after some pieces, as a machine does."""

    left = 0

    def add(self, piece: dict[str, Any]) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        super().add(piece)


@pytest.mark.parametrize(("engine", "pieces"), [("fast", 2), ("fast", 7), ("fast", 12), ("reference", 7)])
def test_a_killed_search_resumes_to_the_identical_circuit(tmp_path: Path, engine: Any, pieces: int) -> None:
    """The same edges by the same numbers, wherever it was stopped."""
    model = double("gpt2", tmp_path, "float32")
    reference = Reference(model, Graph.of(model, split=False), task(model))
    config = ACDC(0.02, engine)
    key = journal_key(reference.task, reference.graph, config.threshold, "fingerprint")
    whole = acdc(reference, config)
    path = tmp_path / "journal.jsonl"
    fragile = FragileJournal(path, key)
    fragile.left = pieces
    with pytest.raises(Killed), fragile as journal:
        acdc(reference, config, journal)
    with path.open("ab") as file:
        file.write(b'{"decisions": [{"writer": 1')  # cut off in the middle of a line
    with Journal(path, key) as journal:
        assert 0 < len(journal.done) < len(whole.decisions)
        resumed = acdc(reference, config, journal)
    assert (resumed.kept == whole.kept).all()
    assert resumed.decisions == whole.decisions
    with Journal(path, key) as journal:
        assert tuple(recorded(journal)) == whole.decisions
    before = path.read_bytes()
    other = journal_key(reference.task, reference.graph, 0.03, "fingerprint")
    with pytest.raises(StoreError, match="threshold"), Journal(path, other):
        pass
    with pytest.raises(StoreError, match="model"), Journal(path, key | {"model": "another"}):
        pass
    assert path.read_bytes() == before  # refused, and intact


@pytest.mark.parametrize(
    ("old", "new"),
    [('"kept": false', '"kept": true'), ('"increment"', '"rise"'), ('"reader": ', '"reader": 9')],
)
def test_an_altered_journal_is_refused_and_intact(tmp_path: Path, old: str, new: str) -> None:
    model = double("gpt2", tmp_path, "float32")
    reference = Reference(model, Graph.of(model, split=False), task(model))
    config = ACDC(0.5)
    key = journal_key(reference.task, reference.graph, config.threshold, "fingerprint")
    path = tmp_path / "journal.jsonl"
    with Journal(path, key) as journal:
        acdc(reference, config, journal)
    first, second, *rest = path.read_text().splitlines(keepends=True)
    assert old in second
    path.write_text("".join([first, second.replace(old, new, 1), *rest]))
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"line 2 .* was altered"), Journal(path, key) as journal:
        acdc(reference, config, journal)
    assert path.read_bytes() == before


def test_only_a_search_of_the_same_task_is_taken_over(tmp_path: Path) -> None:
    """Corrupt and reference prompts count where the ablation reads them, and nowhere else."""
    model = double("gpt2", tmp_path, "float32")
    own = task(model)
    found = find(model, own, ACDC(0.02), split=False)
    unread = replace(own, corrupt=(), reference=())
    assert decisions_of(found, model, unread, split=False) == found.decisions()
    foiled = replace(own.prompts[0], foil_ids=(own.prompts[0].foil_ids[0] + 1,))
    for other, said in (
        (replace(own, metric="kl"), "metric"),
        (replace(own, ablation="mean"), "ablation"),
        (replace(own, prompts=task(model, rows=2).prompts, corrupt=task(model, rows=2).corrupt), "prompts, answers"),
        (replace(own, prompts=(foiled,)), "answers or foils"),
    ):
        with pytest.raises(UserError, match=said):
            decisions_of(found, model, other, split=False)
    with pytest.raises(UserError, match="graph"):
        decisions_of(found, model, own)
    assert found.run is not None
    with pytest.raises(UserError, match="another model:"):
        decisions_of(replace(found, run=replace(found.run, fingerprint="another")), model, own, split=False)
    lacking: dict[str, dict[str, Any]] = {
        "mean": {"reference": own.reference[:-1]},
        "counterfactual": {"corrupt": own.prompts},
    }
    for ablation, less in lacking.items():
        read = replace(found, task=replace(own, ablation=ablation))
        with pytest.raises(UserError, match=f"{next(iter(less))} prompts"):
            decisions_of(read, model, replace(own, ablation=ablation, **less), split=False)
    with pytest.raises(UserError, match="made by eap"):
        decisions_of(replace(found, method="eap"), model, own, split=False)


def test_thresholds_share_their_prefix(tmp_path: Path) -> None:
    """The layers taken over are not measured again, and the circuit is the one found alone."""
    model = double("neox", tmp_path, "float32")
    reference = Reference(model, Graph.of(model, split=False), task(model))
    first = acdc(reference, ACDC(0.02))
    alone = acdc(reference, ACDC(0.0345))
    shared = acdc(reference, ACDC(0.0345, earlier=first.decisions))
    assert (alone.kept == shared.kept).all()
    taken = list(shared_prefix(first.decisions, 0.0345, 2e-5))
    assert 0 < len(taken) < len(alone.decisions)
    assert shared.n_evaluated < alone.n_evaluated


def test_the_prefix_ends_at_the_first_other_decision() -> None:
    decisions = [Decision(0, 0, 0.5, True), Decision(1, 0, 0.01, False), Decision(2, 0, 0.3, True)]
    assert len(list(shared_prefix(decisions, 0.2, 1e-6))) == 3
    assert len(list(shared_prefix(decisions, 0.4, 1e-6))) == 2
    assert len(list(shared_prefix(decisions, 0.01, 1e-6))) == 1  # too near to tell


def test_the_certificate_finds_a_wrong_decision(tmp_path: Path) -> None:
    model = double("gpt2", tmp_path, "float32")
    reference = Reference(model, Graph.of(model, split=False), task(model))
    found = acdc(reference, ACDC(0.02))
    right = certify(reference, found.decisions, 0.02, share=1.0)
    assert right.n_checked == len(found.decisions)
    assert right.differences == ()
    assert "none differs" in str(right)
    with pretended(model, PretendRay(seed=1, deaths=2)):
        assert certify(reference, found.decisions, 0.02, share=1.0, workers=Workers(2)) == right
    first = found.decisions[0]
    forged = (Decision(first.writer, first.reader, first.increment, not first.kept), *found.decisions[1:])
    assert certify(reference, forged, 0.02, share=1.0).differences


def test_dead_readers_are_never_tested(tmp_path: Path) -> None:
    model = double("gpt2", tmp_path, "float32")
    reference = Reference(model, Graph.of(model), task(model))
    found = acdc(reference, ACDC(0.05))
    alive = reference.graph.alive(found.kept)
    for decision in found.decisions:
        nodes = list(reference.graph.nodes_of(reference.graph.readers[decision.reader]))
        assert not nodes or alive[nodes].any()
    assert len(found.decisions) + found.n_dead == reference.graph.n_edges
    assert not found.kept[:, [not reference.graph.nodes_of(r) for r in reference.graph.readers]].all()


def test_the_fast_engine_computes_less(tmp_path: Path) -> None:
    """In a sparse circuit the plan of an early reader holds a part of the nodes above it."""
    model = double("gpt2", tmp_path, "float32")
    reference = Reference(model, Graph.of(model, split=False), task(model))
    fast = Fast(reference)
    everything = len(fast.plan(0).seen)
    fast.rebuild(acdc(reference, ACDC(0.05), fast=fast).kept)
    assert len(fast.plan(reference.graph.reader_index["a0.h0"]).seen) < everything
    assert fast.plan(reference.graph.reader_index["m1"]).last  # feeds the logits alone: one position


def test_a_threshold_that_keeps_nothing_is_refused_and_one_below_zero_is_none(tmp_path: Path) -> None:
    model = double("gpt2", tmp_path, "float32")
    with pytest.raises(EmptyCircuit, match="nothing"):
        find(model, task(model), ACDC(1e6), split=False)
    with pytest.raises(UserError, match="at least 0"):
        ACDC(-1e6)


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="not one of fast"):
        method("acdc", {"engine": "warp"})
    with pytest.raises(UserError, match="threshold"):
        ACDC(float("nan"))
    assert np.isfinite(ACDC().threshold)
