"""Edges between pairs of roles: summed they are those at roles, cut they are hooks, and they go out and come back."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.ablations import ablated
from circuits.by_role.circuit import find_by_role
from circuits.by_role.engine import Lengths, RoleReference
from circuits.by_role.formats import FORMATS, export, read
from circuits.by_role.graph import END, RoleGraph, token_roles
from circuits.engine.reference import Reference
from circuits.engine.writes import reading
from circuits.graph import Graph
from circuits.method import method
from circuits.pages.by_role import by_pair, network, page
from circuits.scorers.eap import EAP, Attribution
from circuits.scorers.eap_ig import EAPIG
from circuits.scorers.relp import RelP
from factscope.errors import GraphError, StoreError, UserError
from factscope.model.hooks import hooked, record
from factscope.model.sites import Site
from factscope.plots.specs import Heatmap
from helpers.circuits import double, lengths, wordings
from helpers.results import check_result


def paired(model: Any, ablation: str = "mean") -> RoleReference:
    """Prompts of several lengths, with edges between pairs of roles."""
    inputs = lengths(model, ablation)
    return RoleReference(model, RoleGraph.of(Graph.of(model), inputs.prompts, pairs=True), inputs.tasks())


def by_role_of(reference: RoleReference) -> RoleReference:
    """The same prompts, with edges at roles."""
    graph = reference.graph
    return RoleReference(reference.model, RoleGraph(graph.plain, graph.roles), reference.tasks)


@pytest.mark.parametrize(("name", "scorer"), [("llama", EAPIG(steps=2)), ("llama", RelP()), ("gemma2", EAP())])
def test_scores_over_the_attending_roles_sum_to_those_at_the_role(
    tmp_path: Path, name: str, scorer: Attribution
) -> None:
    model = double(name, tmp_path)
    pairs = paired(model)
    apart, whole = pairs.example_scores(scorer), by_role_of(pairs).example_scores(scorer)
    standing = torch.from_numpy(pairs.graph.standing).float()
    torch.testing.assert_close(apart @ standing, whole, atol=1e-6, rtol=1e-4)
    assert (apart[..., ~torch.from_numpy(pairs.graph.standing[:, -1])].abs().sum((0, 1)) > 0).any()


def test_a_score_is_the_slope_of_the_exact_cut(tmp_path: Path) -> None:
    """A small step from clean towards ablated, and one away: what cuts cost between them is EAP's score."""
    model = double("llama", tmp_path)
    prompts = wordings(model)[3:6]
    inputs = Lengths(prompts, "nll", "mean", (), wordings(model))
    pairs = RoleReference(model, RoleGraph.of(Graph.of(model), prompts, pairs=True), inputs.tasks())
    graph, scores, step = pairs.graph, pairs.example_scores(EAP()).mean(0), 0.03
    near: dict[int, list[Reference]] = {}
    for sign, (engine, one) in product((1, -1), zip(pairs.engines, pairs.tasks, strict=True)):
        clean = _writes(model, graph.plain, one)
        near.setdefault(sign, []).append(
            Reference(model, graph.plain, one, clean + sign * step * (engine.replacement - clean))
        )
    for name in (
        *(f"a0.h1->a1.h{pair}.{kind} @ last subject -> {END}" for pair in range(2) for kind in "kv"),
        "embed->a0.h0.v @ first subject -> last subject",
        f"m0->a1.h1.k @ {END} -> {END}",
        f"a0.h0->m1 @ {END}",
    ):
        kept, loss = graph.full(), {}
        kept[graph.edge(name)] = False
        for sign, engines in near.items():
            places = [graph.located(kept, one.prompts) for one in pairs.tasks]
            logits = [e.logits(where.kept, where.taken) for e, where in zip(engines, places, strict=True)]
            loss[sign] = pairs.loss_of(logits)
        slope = (loss[1] - loss[-1]) / (2 * step)
        score = float(scores[graph.edge(name)])
        assert slope == pytest.approx(score, rel=2e-2, abs=2e-6), name  # of a step's square; softmax is in float32


def _writes(model: Any, plain: Graph, one: Any) -> torch.Tensor:
    from circuits.engine.writes import writes

    return writes(model, plain, one.tokens(model))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_cut_between_two_roles_is_a_head_patched_where_it_attends(tmp_path: Path, name: str) -> None:
    """Plainly: the head's values from a run in which all attend to the cut key, put where the one role attends."""
    model = double(name, tmp_path)
    pairs = paired(model)
    graph, plain = pairs.graph, pairs.graph.plain
    pair = 1 % plain.n_kv_heads
    members = list(range(pair * plain.group, (pair + 1) * plain.group))
    for layer, kind, there, attending in (
        (1, "k", "last subject", END),
        (1, "v", "last subject", END),
        (0, "v", "last subject", "last subject"),
    ):
        edge = f"embed->a{layer}.h{pair}.{kind} @ {there} -> {attending}"
        kept = graph.full()
        kept[graph.edge(edge)] = False
        for own, one, engine in zip(pairs.logits(kept), pairs.tasks, pairs.engines, strict=True):
            change = ablated(model, plain, one)[0] - _writes(model, plain, one)[0]
            roles = np.array([token_roles(prompt) for prompt in one.prompts])
            moved = change * torch.from_numpy(roles == there)[..., None]

            def cut(inputs: torch.Tensor, moved: torch.Tensor = moved) -> torch.Tensor:
                inputs = inputs.clone()
                inputs[:, :, pair] += moved
                return inputs

            site, tokens = Site("head", layer), one.tokens(model)
            with reading(model), hooked(model, [(Site(f"{kind}_input", layer), cut)]), record(model, [site]) as seen:
                model(tokens, use_cache=False)
            at = torch.from_numpy(roles == attending)[..., None, None]
            chosen = torch.zeros(plain.n_heads, 1, dtype=torch.bool)
            chosen[members] = True

            def patch(
                z: torch.Tensor, other: torch.Tensor = seen[site], which: torch.Tensor = at & chosen
            ) -> torch.Tensor:
                return torch.where(which, other, z)

            with hooked(model, [(site, patch)]):
                expected = model(tokens, use_cache=False)[:, -1]
            torch.testing.assert_close(own, expected)
            assert float((own - engine.objective.clean).abs().max()) > 1e-6, edge


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_what_all_attending_roles_keep_alike_is_an_edge_at_the_role(tmp_path: Path, name: str) -> None:
    """All kept is the model, and pairs that are not told apart run as roles do, in one copy."""
    model = double(name, tmp_path)
    pairs = paired(model)
    graph, by_role = pairs.graph, by_role_of(pairs)
    for own, each in zip(pairs.logits(graph.full()), pairs.engines, strict=True):
        torch.testing.assert_close(own, each.objective.clean, atol=1e-6, rtol=1e-5)  # softmax is in float32
    at_roles = by_role.graph.allowed & (np.random.default_rng(0).random(by_role.graph.allowed.shape) < 0.8)
    alike = graph.allowed & (at_roles @ graph.standing.T)
    where = graph.located(alike, pairs.tasks[0].prompts)
    assert where.kept.shape[2] == len(pairs.tasks[0].prompts)
    for ours, theirs in zip(pairs.logits(alike), by_role.logits(at_roles), strict=True):
        torch.testing.assert_close(ours, theirs)
    apart = alike.copy()  # the queries' own end of the sentence: each role attends in a copy of its own
    apart &= np.random.default_rng(1).random(apart.shape) < 0.8
    where = graph.located(apart, pairs.tasks[-1].prompts)
    assert where.kept.shape[2] == len(set(token_roles(pairs.tasks[-1].prompts[0]))) * len(pairs.tasks[-1].prompts)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_what_is_pruned_of_pairs_changes_nothing(tmp_path: Path, name: str) -> None:
    model = double(name, tmp_path)
    pairs = paired(model, "zero")
    graph, generator = pairs.graph, np.random.default_rng(0)
    for share in (0.02, 0.1):
        kept = graph.allowed & (generator.random(graph.allowed.shape) < share)
        pruned = graph.pruned(kept)
        assert pruned.sum() < kept.sum()
        _, needed = graph.alive(kept)
        assert pairs.loss(kept & needed) == pytest.approx(pairs.loss(kept), abs=1e-9)
        assert not (graph.pruned(pruned) ^ pruned).any()


def test_a_circuit_between_roles_is_found_drawn_written_and_read(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    circuit = find_by_role(model, lengths(model), EAPIG(edges=80, steps=2), pairs=True)
    graph = circuit.graph
    assert circuit.settings["selected"] == 80
    assert (graph.pruned(circuit.mask) == circuit.mask).all()
    check_result(circuit, tmp_path / "result", "RoleCircuit")
    assert set(FORMATS) == {"json", "graphml", "gexf"}
    for form in ("json", "graphml"):
        again, kept, scores = read(export(circuit, tmp_path / f"c.{form}", form))
        assert again == graph
        assert (kept == circuit.mask).all()
        assert torch.equal(scores[circuit.kept], circuit.scores[circuit.kept])
    assert export(circuit, tmp_path / "c.gexf", "gexf").read_text().startswith("<gexf")
    with pytest.raises(UserError, match="not as dot"):
        export(circuit, tmp_path / "c.dot", "dot")
    with pytest.raises(StoreError, match="is GEXF"):
        read(tmp_path / "c.gexf")
    net = network(circuit)
    assert all(net.columns[node.column] == node.name.split(" @ ")[1] for node in net.nodes)
    drawn = [spec for spec in page(circuit).sections[0].specs if isinstance(spec, Heatmap)]
    assert len(drawn) == 1  # from which token to which
    assert np.nansum(drawn[0].hover["edges"]) == sum(by_pair(circuit).values()) > 0
    crossing = {(net.nodes[e.source].column, net.nodes[e.target].column) for e in net.views[0].edges}
    assert {(net.columns[a], net.columns[b]) for a, b in crossing if a != b} == {
        tuple(pair.split(" -> ")) for pair in by_pair(circuit) if len(set(pair.split(" -> "))) == 2
    }


def test_pairs_that_there_are_not_are_refused(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    graph = RoleGraph(Graph(2, 4, 2), pairs=True)
    name = f"embed->a0.h1.v @ last subject -> {END}"
    assert graph.edge_name(*graph.edge(name)) == name
    assert graph.edge_name(*graph.edge("embed->m0 @ last subject")) == "embed->m0 @ last subject"
    for wrong, said in (
        ("embed->a0.h1.v @ last subject", "is read, for instance"),
        (f"embed->a0.h1.v @ {END} -> last subject", "is read, for instance"),
        (f"embed->m0 @ last subject -> {END}", "is read, for instance"),
        ("m0->logits @ last subject", "the logits are read at the last token alone"),
        ("embed->m0", "names no role"),
    ):
        with pytest.raises(GraphError, match=said):
            graph.edge(wrong)
    with pytest.raises(GraphError, match="leave out --no-split-qkv"):
        RoleGraph.of(Graph.of(model, split=False), wordings(model), pairs=True)
    for refused, said in (
        (method("atp-star"), "makes each score of several gradients"),
        (EAP(direction="denoising"), "leave out --set direction"),
    ):
        with pytest.raises(UserError, match=said):
            find_by_role(model, lengths(model, "counterfactual"), refused, evaluate=False)
