"""What an edit lets stand beside an MLP, as a node of the graph: all edges are the edited model, and cuts are exact."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import factscope as fs
from circuits.analysis.diff import diff
from circuits.engine.gradients import Point, clean_writes, example_scores, mean_gradient
from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.engine.writes import writes
from circuits.find import find
from circuits.formats import graph_of, to_json
from circuits.graph import Graph, place_of, room
from circuits.method import method
from circuits.pages.wiring import network
from circuits.task import Task
from editing.bypass import Bypass, functions, join
from editing.compute import compute
from editing.requests import request
from factscope.errors import GraphError
from factscope.model.hooks import Patch, patched, record, stand
from factscope.model.sites import Site
from helpers.circuits import double, task
from helpers.models import hooks_left

SPLITS = pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
SHAPES = pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
LAYER, WIDTH = 0, 32


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers of the unit normal distribution."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def neurons() -> Bypass:
    """Neurons that fire at about half of all positions."""
    tensors = {"keys": drawn(6, WIDTH), "bias": torch.zeros(6), "values": 0.3 * drawn(6, WIDTH, seed=1)}
    return Bypass("neurons", LAYER, tensors, {}, ("x",) * 6)


def codebook(model: Any, asked: Task) -> Bypass:
    """A ball around the first prompt's key, which no other prompt falls into."""
    site = Site("mlp_hidden", LAYER)
    with record(model, [site]) as seen, torch.no_grad():
        model(asked.tokens(model))
    keys = seen[site][:, -1].float()
    tensors = {"keys": keys[:1], "values": drawn(1, WIDTH), "reach": torch.tensor([1e-3])}
    return Bypass("codebook", LAYER, tensors, {}, ("a",))


@pytest.fixture
def standing(tmp_path: Any) -> Iterator[Any]:
    """Let bypasses stand beside a model of float64, and take them off when the test ends."""
    made: list[Any] = []

    def put(name: str, *parts: Bypass) -> Any:
        model = double(name, tmp_path)
        made.append(model)
        asked = task(model, rows=2)
        parts = parts or (neurons(), codebook(model, asked))
        stand(model, "d", functions(join(parts), model))
        return model

    yield put
    for model in made:
        stand(model, "", [])
        assert not hooks_left(model)


@SPLITS
@SHAPES
def test_all_edges_are_the_edited_model_and_no_edge_of_the_node_is_the_unedited_one(
    standing: Any, name: str, split: bool, tmp_path: Any
) -> None:
    plain = task(double(name, tmp_path), rows=2)
    before = double(name, tmp_path)(plain.tokens(double(name, tmp_path)))[:, -1]
    model = standing(name)
    graph = Graph.of(model, split=split)
    assert graph.beside == (LAYER,)
    reference = Reference(model, graph, plain)
    after = reference.logits(graph.full())
    torch.testing.assert_close(after, reference.objective.clean)
    assert float((after - before).abs().max()) > 0.1  # the edit does something
    without = graph.full()
    without[graph.beside_writer(LAYER)] = False
    torch.testing.assert_close(reference.logits(without), before)


@SPLITS
@SHAPES
def test_the_fast_engine_is_the_plain_one_also_where_cuts_reach_the_node(standing: Any, name: str, split: bool) -> None:
    model = standing(name)
    graph = Graph.of(model, split=split)
    fast = Fast(Reference(model, graph, task(model, rows=2)))  # proves itself at random circuits
    for reader in (graph.reader_index[f"b{LAYER}"], graph.reader_index["a0.h1.v" if split else "a0.h1"]):
        plan = fast.plan(reader)
        writers = list(range(graph.below(graph.readers[reader])))
        x = fast.inputs[reader][:, -1:] if plan.last else fast.inputs[reader]
        losses = fast.losses(plan, x + fast.cuts(writers, plan.last))
        for writer, loss in zip(writers, losses.tolist(), strict=True):
            kept = graph.full()
            kept[writer, reader] = False
            assert loss == pytest.approx(fast.reference.loss(kept), abs=1e-6)  # float32 neurons


@SHAPES
def test_a_cut_into_the_node_moves_what_it_reads_and_not_what_the_mlp_reads(standing: Any, name: str) -> None:
    """By hand: the model run on, with neurons that read the residual stream without one head."""
    part = neurons()
    model = standing(name, part)
    graph, asked = Graph.of(model), task(model)
    reference = Reference(model, graph, asked)
    kept = graph.full()
    cut = "embed" if graph.parallel else "a0.h1"
    kept[graph.edge(f"{cut}->b{LAYER}")] = False
    found = reference.logits(kept)

    written = writes(model, graph, asked.tokens(model))
    below = graph.below(graph.readers[graph.reader_index[f"b{LAYER}"]])
    stream = written[:below].sum(0) - written[graph.writer_index[cut]]
    if not graph.parallel:
        stream = stream + model.blocks[0].attn.o.original_component.bias if name == "gpt2" else stream
    norm = getattr(model.blocks[0], "ln2", model.blocks[0].ln1).original_component
    active = (norm(stream) @ part.tensors["keys"].T.double() + part.tensors["bias"]).relu()
    stand(model, "", [])
    add = Patch(Site("mlp_write", LAYER), active @ part.tensors["values"].double(), add=True)
    with patched(model, [add]):
        torch.testing.assert_close(found, model(asked.tokens(model))[:, -1], atol=1e-6, rtol=1e-6)  # float32 products


@SPLITS
def test_gradients_of_the_node_are_small_cuts(standing: Any, split: bool) -> None:
    """A cut by a small share of the difference raises the loss by that share of the edge's score."""
    model, part, read = standing("llama"), neurons(), list[torch.Tensor]()
    keys, values = part.tensors["keys"].double(), part.tensors["values"].double()
    soft = (
        (Site("mlp_read", LAYER), read.append),
        (Site("mlp_write", LAYER), lambda y: y + (read.pop() @ keys.T).tanh() @ values),  # in float64, without a kink
    )
    stand(model, "d", soft)
    graph = Graph.of(model, split=split)
    reference = Reference(model, graph, task(model, ablation="counterfactual"))
    clean = clean_writes(reference)
    scores = example_scores(reference, mean_gradient(reference, [Point()], clean), clean)[0]
    change = 3e-3 * (reference.replacement - clean)
    more, less = (Reference(model, graph, reference.task, clean + step) for step in (change, -change))
    layer_up = "a1.h1.v" if split else "a1.h2"
    for edge in (f"embed->b{LAYER}", f"a0.h1->b{LAYER}", f"b{LAYER}->{layer_up}", f"b{LAYER}->logits", f"b{LAYER}->m1"):
        kept = graph.full()
        kept[graph.edge(edge)] = False
        rise = (more.loss(kept) - less.loss(kept)) / 6e-3
        assert rise == pytest.approx(float(scores[graph.edge(edge)]), rel=1e-2, abs=1e-4)  # float32 in the softmax


def test_a_circuit_before_and_after_is_cut_from_one_graph_and_the_node_is_gained(toy: Any) -> None:
    edit = compute("t_patcher", toy, [request(toy, "[Oda Voss] lives in", "Vey")], shown=False)
    asked = Task((fs.prompt(toy, "[Oda Voss] lives in", answer="Vey"),), ablation="zero")
    how = method("eap", {"edges": 60})
    with room(edit.layers):
        before = find(toy, asked, how)
        with edit.applied(toy):
            after = find(toy, asked, how)
    layer = edit.layers[0]
    changed = diff(before, after)
    assert f"b{layer}" in changed.nodes_gained
    assert any(edge.startswith(f"b{layer}->") for edge in changed.gained)
    assert any(edge.endswith(f"->b{layer}") for edge in changed.gained)
    assert not any(f"b{layer}" in edge for edge in (*changed.lost, *changed.shared))
    assert float(before.scores[before.graph.beside_writer(layer)].abs().max()) == 0
    with pytest.raises(GraphError, match="different graphs"):
        diff(find(toy, asked, how), after)
    assert [mark for mark in network(after).nodes if mark.name == f"b{layer}"]
    assert graph_of(json.dumps(to_json(after))) == after.graph


def test_numbers_of_a_graph_with_a_node_beside_a_layer() -> None:
    plain = Graph(3, 2, 1)
    graph = replace(plain, beside=(1,))
    assert graph.writers == (
        "embed", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "b1", "a2.h0", "a2.h1", "m2"
    )  # fmt: skip
    assert [graph.writers[graph.head_writer(layer, 1)] for layer in range(3)] == ["a0.h1", "a1.h1", "a2.h1"]
    assert [graph.writers[graph.mlp_writers(layer)[0]] for layer in range(3)] == ["m0", "m1", "m2"]
    hears = graph.allowed[:, graph.reader_index["b1"]]
    assert (hears == graph.allowed[:, graph.reader_index["m1"]]).all()
    assert not graph.allowed[graph.writer_index["b1"], graph.reader_index["m1"]]
    # into the node as many edges as into the MLP; out of it one to each of five readers above, and to the logits
    assert graph.n_edges == plain.n_edges + int(hears.sum()) + 6
    assert place_of("b1") == (1, None)
    assert Graph(**graph.described()) == graph
    assert "beside" not in plain.described()
    with pytest.raises(GraphError, match="beside layers"):
        replace(plain, beside=(3,))
