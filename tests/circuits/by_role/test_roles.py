"""Circuits by roles: pooled they are the plain ones; at single tokens they are positions; they join lengths."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits import select
from circuits.ablations import ablated
from circuits.by_role.circuit import find_by_role, random_degrees
from circuits.by_role.engine import Lengths, RoleReference
from circuits.by_role.graph import TOKEN_ROLES, RoleGraph, token_roles
from circuits.engine.reference import Reference
from circuits.engine.writes import writes
from circuits.find import find
from circuits.graph import Graph
from circuits.method import method
from circuits.pages.by_role import network, page
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG
from factscope.errors import GraphError, UserError
from factscope.model.hooks import hooked
from factscope.model.prompts import make_prompt
from factscope.model.sites import Site
from factscope.plots.figures.network import stages
from factscope.plots.specs import Headline, Text
from helpers.circuits import double, lengths, task, wordings
from helpers.results import check_result


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_scores_over_the_roles_sum_to_the_plain_scores(tmp_path: Path, name: str, split: bool) -> None:
    model = double(name, tmp_path)
    one = task(model, "nll", "counterfactual", rows=3)
    plain = Graph.of(model, split=split)
    by_role = RoleReference(model, RoleGraph.of(plain, one.prompts), [one])
    for scorer in (EAP(), EAPIG(steps=2)):
        expected = scorer.examples(Reference(model, plain, one))
        torch.testing.assert_close(by_role.example_scores(scorer).sum(3).double(), expected, atol=1e-6, rtol=1e-4)


def test_all_edges_at_every_role_are_the_model_and_none_are_the_empty_graph(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    inputs = lengths(model)
    reference = RoleReference(model, RoleGraph.of(Graph.of(model), inputs.prompts), inputs.tasks())
    assert len(reference.tasks) >= 3  # of as many lengths
    for logits, each in zip(reference.logits(reference.graph.full()), reference.tasks, strict=True):
        for own, prompt in zip(logits, each.prompts, strict=True):
            torch.testing.assert_close(own, model(prompt.tensor())[0, -1])
    empty = [engine.logits(engine.graph.empty()) for engine in reference.engines]
    for ours, theirs in zip(reference.logits(reference.graph.empty()), empty, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_one_edge_at_one_role_is_a_hook_at_those_tokens(tmp_path: Path) -> None:
    """An MLP that no longer hears the embedding at the subject's last token, by hand."""
    model = double("llama", tmp_path)
    inputs = lengths(model)
    graph = RoleGraph.of(Graph.of(model), inputs.prompts)
    reference = RoleReference(model, graph, inputs.tasks())
    kept = graph.full()
    kept[graph.edge("embed->m0 @ last subject")] = False
    for own, each, engine in zip(reference.logits(kept), reference.tasks, reference.engines, strict=True):
        clean = writes(model, graph.plain, each.tokens(model))
        change = ablated(model, graph.plain, each)[0] - clean[0]
        where = torch.tensor([[r == "last subject" for r in token_roles(prompt)] for prompt in each.prompts])
        with engine_flags(model), hooked(model, [(Site("mlp_in", 0), _added(change * where[..., None]))]):
            expected = model(each.tokens(model), use_cache=False)[:, -1]
        torch.testing.assert_close(own, expected)
        assert float((own - engine.objective.clean).abs().max()) > 1e-6


def _added(change: torch.Tensor) -> Any:
    return lambda inputs: inputs + change


def engine_flags(model: Any) -> Any:
    """What makes inputs of MLPs hooks of their own."""
    from circuits.engine.writes import reading

    return reading(model)


def test_masks_of_positions_do_what_masks_of_roles_do(tmp_path: Path) -> None:
    model = double("gpt2", tmp_path)
    one = task(model, "nll", "mean", rows=2)
    graph = RoleGraph.of(Graph.of(model), one.prompts)
    kept = graph.allowed & (np.random.default_rng(0).random(graph.allowed.shape) < 0.7)
    by_role = RoleReference(model, graph, [one])
    located = graph.located(kept, one.prompts).kept
    assert located.shape == (*graph.plain.allowed.shape, 2, one.n_positions)
    torch.testing.assert_close(by_role.logits(kept)[0], Reference(model, graph.plain, one).logits(located))
    same = graph.everywhere(kept)
    alike = Reference(model, graph.plain, one).logits(np.logical_or.reduce(kept, axis=2))
    torch.testing.assert_close(by_role.logits(same)[0], alike)


@pytest.mark.parametrize(("name", "split"), [("llama", True), ("llama", False), ("gemma2", True)])
def test_what_is_pruned_changes_nothing(tmp_path: Path, name: str, split: bool) -> None:
    """Also where heads share a norm, so that one which leads nowhere moves one that does."""
    model = double(name, tmp_path)
    inputs = lengths(model, "zero")
    graph = RoleGraph.of(Graph.of(model, split=split), inputs.prompts)
    reference = RoleReference(model, graph, inputs.tasks())
    generator = np.random.default_rng(0)
    for share in (0.02, 0.1):
        kept = graph.allowed & (generator.random(graph.allowed.shape) < share)
        pruned = graph.pruned(kept)
        assert pruned.sum() < kept.sum()
        alive, _ = graph.alive(kept)
        lives = kept & _heard(graph, alive)
        assert reference.loss(lives) == pytest.approx(reference.loss(kept), abs=1e-9)
        assert not (graph.pruned(pruned) ^ pruned).any()


def _heard(graph: RoleGraph, alive: np.ndarray) -> np.ndarray:
    """Edges into inputs that the logits depend on, found by brute force over all paths."""
    needed = np.zeros((len(graph.plain.readers), len(graph.roles)), dtype=bool)
    for number, reader in enumerate(graph.plain.readers):
        for role in range(len(graph.roles)):
            later = range(role, len(graph.roles)) if reader.kind in ("k", "v", "head") else (role,)
            nodes = graph.plain.moved_by(reader)
            needed[number, role] = any(alive[node, to] for node in nodes for to in later) or (
                not nodes and role == len(graph.roles) - 1
            )
    return np.broadcast_to(needed[None], graph.allowed.shape)


def test_greedy_growth_reaches_only_what_leads_to_the_logits(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    inputs = lengths(model)
    graph = RoleGraph.of(Graph.of(model), inputs.prompts)
    reference = RoleReference(model, graph, inputs.tasks())
    scores = reference.example_scores(EAP()).mean(0)
    kept = select.greedy(graph, scores, 40)
    assert int(kept.sum()) == 40
    alive, needed = graph.alive(kept)
    assert alive.any()
    assert (kept & ~needed[None]).sum() == 0
    plain_scores = EAP().score(reference.engines[0])
    graph_alone = Graph.of(model)  # the plain graph grows as before
    assert int(select.greedy(graph_alone, plain_scores, 30).sum()) == 30


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_circuit_of_all_lengths_is_found_saved_and_drawn(tmp_path: Path, name: str) -> None:
    model = double(name, tmp_path)
    inputs = lengths(model)
    held_out = tuple(
        make_prompt(model, f"[{who}] lives in", answer="Brask") for who in ("Ilse Voss", "Mira Tomas Senn")
    )
    circuit = find_by_role(model, inputs, EAPIG(edges=60, steps=2), held_out=held_out)
    assert circuit.settings["selected"] == 60
    assert circuit.stability is not None
    assert circuit.evaluation is not None
    assert sorted(p.text for p in circuit.prompts) == sorted(p.text for p in inputs.prompts)
    check_result(circuit, tmp_path / "result", "RoleCircuit")
    lead, below = page(circuit).sections[0].specs[:2]
    assert isinstance(lead, Headline)
    assert isinstance(below, Text)
    assert lead.sentence.count(". ") == 0  # one sentence; how it was tested stands below
    assert "the answer among the first ten" in below.text
    again = circuit.graph.pruned(circuit.mask)
    assert (again == circuit.mask).all()  # every kept edge is on a path


def test_the_picture_has_a_column_for_each_role_and_heads_cross_them(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    circuit = find_by_role(model, lengths(model), EAPIG(edges=60, steps=2), evaluate=False)
    net = network(circuit)
    assert net.columns
    assert set(net.columns) <= set(circuit.graph.roles)
    assert all(net.columns[node.column] == node.name.split(" @ ")[1] for node in net.nodes)
    crossing = [e for e in net.views[0].edges if net.nodes[e.source].column != net.nodes[e.target].column]
    assert crossing
    for edge in crossing:  # only heads read elsewhere, and only backwards
        assert net.nodes[edge.target].label.startswith("a")
        assert net.nodes[edge.source].column < net.nodes[edge.target].column
    layout = stages(net)[-1].layouts[0]
    assert len(layout.strips) == len(net.columns)
    drawn = stages(net)[-1].nodes
    for number, box in zip(drawn, layout.boxes, strict=True):
        left, right = layout.strips[net.nodes[number].column]
        assert left <= box.left < box.right <= right, net.nodes[number].name
    boxes = layout.boxes
    assert not any(
        a.y == b.y and a.left < b.right and b.left < a.right for i, a in enumerate(boxes) for b in boxes[i + 1 :]
    )


def test_faithfulness_grows_to_one_and_only_one_metric_and_ablation_go_together(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    inputs = lengths(model)
    grown = find_by_role(model, inputs, EAPIG(faithful=0.9, steps=2), evaluate=False)
    assert grown.evaluation is None
    assert 0 < grown.n_edges < grown.graph.n_edges
    mixed = [*inputs.tasks()[:1], *lengths(model, "zero").tasks()[1:]]
    with pytest.raises(UserError, match="one metric and ablated in one way"):
        RoleReference(model, grown.graph, mixed)
    for refused in ("acdc", "exact"):
        with pytest.raises(UserError, match="choose eap, eap-ig or relp"):
            find_by_role(model, inputs, method(refused), evaluate=False)


def test_random_circuits_have_the_same_degrees(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    graph = RoleGraph.of(Graph.of(model), wordings(model))
    kept = graph.allowed & (np.random.default_rng(1).random(graph.allowed.shape) < 0.2)
    drawn = random_degrees(graph, kept, np.random.default_rng(2))
    assert (drawn.sum(0) == kept.sum(0)).all()
    assert not (drawn & ~graph.allowed).any()
    assert (drawn != kept).any()


def test_roles_of_one_token_each_are_positions(tmp_path: Path) -> None:
    """On a prompt whose tokens all have roles of their own, an edge at a role is an edge at a position."""
    model = double("gpt2", tmp_path)
    prompt = next(p for p in wordings(model) if len(set(token_roles(p))) == len(p.tokens))
    one = Lengths((prompt,), "nll", "zero").tasks()
    reference = RoleReference(model, RoleGraph.of(Graph.of(model), [prompt]), one)
    engine = reference.engines[0]
    clean = writes(model, engine.graph, one[0].tokens(model))
    gradient = EAP().gradient(engine, clean)
    by_position = torch.einsum("wpd,rpd->wrp", (engine.replacement - clean)[:, 0], gradient[:, 0])
    ours = reference.example_scores(EAP())[0].double()
    allowed = torch.from_numpy(reference.graph.allowed)
    torch.testing.assert_close(ours, torch.where(allowed, by_position, 0.0), atol=1e-6, rtol=1e-4)


def test_roles_that_there_are_not_are_refused() -> None:
    plain = Graph(2, 4, 2)
    graph = RoleGraph(plain)
    assert graph.roles == TOKEN_ROLES
    assert graph.n_edges > plain.n_edges
    writer, reader, role = graph.edge("embed->a0.h1.v @ last subject")
    assert graph.edge_name(writer, reader, role) == "embed->a0.h1.v @ last subject"
    for name, said in (
        ("embed->m0", "names no role"),
        ("embed->m0 @ verb", "names no role"),
        ("m0->logits @ last subject", "the logits are read at the last token alone"),
        ("embed->m9 @ last token", "there is no edge"),
    ):
        with pytest.raises(GraphError, match=said):
            graph.edge(name)
    for roles, said in ((("verb",), "no token has the role"), (("last subject",), "needs the last token"),
                        (("last token", "last subject"), "in the order of the text")):  # fmt: skip
        with pytest.raises(GraphError, match=said):
            RoleGraph(plain, _tuple(roles))


def _tuple(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(names)


def test_a_plain_circuit_of_equal_lengths_is_the_same_edges(tmp_path: Path) -> None:
    """With every role kept for each plain edge, loss and ranks are those of the plain circuit."""
    model = double("llama", tmp_path)
    one = task(model, "nll", "mean", rows=3)
    plain = find(model, one, EAP(edges=50))
    graph = RoleGraph.of(plain.graph, one.prompts)
    reference = RoleReference(model, graph, [one])
    kept = graph.everywhere(np.repeat(plain.mask[:, :, None], len(graph.roles), axis=2))
    assert reference.loss(kept) == pytest.approx(plain.loss_circuit, abs=1e-5)
    assert reference.ranks(kept) == plain.rank_circuit
