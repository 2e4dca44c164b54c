"""Which edges there are, by count and by name, and which models have no exact ones."""

import json
from typing import Any

import numpy as np
import pytest

from circuits.graph import Graph, place_of
from factscope.errors import GraphError, ModelError


@pytest.mark.parametrize(
    ("shape", "parallel", "split", "edges"),
    [
        ((12, 12, 12), False, True, 32_491),  # gpt2, as published
        ((12, 12, 12), False, False, 11_611),
        ((24, 16, 16), False, True, 231_877),
        ((24, 16, 16), False, False, 80_965),
        ((36, 20, 20), False, True, 810_703),
        ((48, 25, 25), False, True, 2_235_025),
        ((30, 9, 9), False, True, 123_211),  # SmolLM2 with copied keys and values
        ((30, 9, 3), False, True, 70_651),  # as it is
        ((30, 9, 3), False, False, 44_371),
        ((28, 16, 16), True, True, 316_723),  # GPT-J, parallel
        ((28, 16, 16), True, False, 110_195),
        ((16, 32, 8), False, True, 195_865),  # Llama-3.2-1B
        ((24, 14, 2), False, True, 79_813),  # Qwen2.5-0.5B
        ((32, 32, 32), False, True, 1_592_881),  # Llama-2-7B, as published
    ],
)
def test_edge_counts(shape: tuple[int, int, int], parallel: bool, split: bool, edges: int) -> None:
    assert Graph(*shape, parallel=parallel, split=split).n_edges == edges


def test_positions_are_one_more_writer_for_every_reader() -> None:
    merged, apart = Graph(3, 4, 4), Graph(3, 4, 4, positions=True)
    assert apart.n_edges == merged.n_edges + len(merged.readers)
    assert apart.writers[:2] == ("embed", "positions")


def test_parallel_mlps_do_not_hear_their_layers_heads() -> None:
    assert Graph(2, 2, 2).edge("a1.h0->m1")
    with pytest.raises(GraphError, match="comes after"):
        Graph(2, 2, 2, parallel=True).edge("a1.h0->m1")


@pytest.mark.parametrize("name", ["a0.h9->m1", "m1->m0", "embed", "x->logits", "logits->m0", "a0.h0.q->m1"])
def test_an_unknown_edge_is_named(name: str) -> None:
    with pytest.raises(GraphError, match=name.split("->", maxsplit=1)[0]):
        Graph(2, 2, 2).edge(name)


def test_names_and_masks_are_inverse() -> None:
    graph = Graph(3, 4, 2)
    kept = graph.allowed & (np.random.default_rng(0).random(graph.allowed.shape) < 0.3)
    assert (graph.mask(graph.names(kept)) == kept).all()
    assert len(graph.names(graph.full())) == graph.n_edges


def test_a_key_value_reader_feeds_its_whole_group() -> None:
    graph = Graph(1, 6, 2)
    reader = graph.readers[graph.reader_index["a0.h1.k"]]
    assert [graph.writers[node] for node in graph.nodes_of(reader)] == ["a0.h3", "a0.h4", "a0.h5"]


def test_alive_and_pruned_by_hand() -> None:
    graph = Graph(2, 2, 2)
    kept = graph.mask(
        ["embed->m0", "m0->a1.h0.v", "a1.h0->logits", "embed->a0.h1.q", "a0.h1->m0", "m0->m1", "a0.h0->m1"]
    )
    alive = {graph.writers[i] for i in np.flatnonzero(graph.alive(kept))}
    assert alive == {"embed", "m0", "a1.h0", "a0.h1"}  # m1 leads nowhere, and with it a0.h0
    assert graph.names(graph.pruned(kept)) == [
        "embed->a0.h1.q",
        "embed->m0",
        "a0.h1->m0",
        "m0->a1.h0.v",
        "a1.h0->logits",
    ]
    constant = graph.mask(["a0.h0->logits", "embed->logits"])  # a0.h0 hears nothing: it carries a constant
    assert graph.names(graph.pruned(constant)) == ["embed->logits"]


def test_places() -> None:
    assert (place_of("a3.h5"), place_of("a3.h5.q"), place_of("m7"), place_of("embed")) == (
        (3, 5),
        (3, 5),
        (7, None),
        (-1, None),
    )
    with pytest.raises(GraphError, match="no node"):
        place_of("a3")


def test_graphs_of_models(tiny: Any) -> None:
    assert Graph.of(tiny("llama")) == Graph(4, 4, 2)
    assert Graph.of(tiny("neox")) == Graph(4, 4, 4, parallel=True)
    assert Graph.of(tiny("gpt2"), positions=True).writers[1] == "positions"
    with pytest.raises(ModelError, match="position embeddings"):
        Graph.of(tiny("llama"), positions=True)
    assert Graph.of(tiny("gemma3")) == Graph(4, 4, 2, coupled=True)


def test_a_mixture_of_experts_has_one_reader_and_a_writer_for_each_expert() -> None:
    graph = Graph(2, 1, 1, experts=(0, 2), shared_expert=True)
    assert graph.writers == ("embed", "a0.h0", "m0", "a1.h0", "m1.e0", "m1.e1", "m1.shared")
    assert [place_of(name) for name in graph.writers[-2:]] == [(1, None), (1, None)]
    reader = graph.readers[graph.reader_index["m1"]]
    assert [graph.writers[node] for node in graph.nodes_of(reader)] == ["m1.e0", "m1.e1", "m1.shared"]
    assert graph.below(reader) == 4
    assert Graph(**json.loads(json.dumps(graph.described()))) == graph
    with pytest.raises(GraphError, match="cannot have experts in 1"):
        Graph(2, 1, 1, experts=(2,))


def test_a_head_that_shares_a_norm_is_alive_with_its_layer() -> None:
    """What one head hears changes the scale of all: with only a0.h0 leading on, a0.h1's edges still count."""
    names = ["a0.h0->logits", "embed->a0.h1.v"]
    for coupled in (False, True):
        graph = Graph(2, 2, 2, coupled=coupled)
        kept = graph.mask(names)
        assert graph.names(graph.pruned(kept)) == (names[::-1] if coupled else [])
        assert graph.feeds[graph.reader_index["a0.h1.v"]].nonzero()[0].tolist() == [graph.writer_index["a0.h1"]]
        moved = [graph.writers[node] for node in graph.moved_by(graph.readers[graph.reader_index["a0.h1.v"]])]
        assert moved == (["a0.h0", "a0.h1"] if coupled else ["a0.h1"])
