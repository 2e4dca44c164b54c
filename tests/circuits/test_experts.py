"""Experts as writers: what each gives, under the router's own choice, against plain transformers.

An expert's output is what its mixture gives less what it gives with an empty down-projection; a run whose inputs were
changed makes the choices of the plain run again (`helpers.verbs.same_choices`).
"""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.analysis.head_roles import roles
from circuits.engine.gradients import clean_writes
from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.find import find
from circuits.graph import Graph
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG
from circuits.scorers.exact import Exact
from circuits.search.acdc import ACDC
from factscope.model.bridge import info
from helpers.architectures import plain
from helpers.circuits import check_cuts, task
from helpers.oracle import module_of, outputs, reading
from helpers.verbs import same_choices, without_expert

NAMES = ("mixtral", "qwen2_moe")  # the second with an expert that all tokens go through


@pytest.fixture(scope="module", params=NAMES)
def reference(request: pytest.FixtureRequest, family: Any) -> Reference:
    model = family(request.param)
    return Reference(model, Graph.of(model), task(model, ablation="counterfactual", rows=2))


@pytest.fixture(scope="module")
def own(reference: Reference) -> Any:
    return plain(info(reference.model).source)


@pytest.fixture(autouse=True)
def borrowed(reference: Reference, family: Any) -> None:
    """The model is held against how it was lent after each test."""
    family(info(reference.model).name)


def write(reference: Reference, own: Any, expert: int) -> Tensor:
    """What an expert of the first layer adds to the stream."""
    mlp, tokens = module_of(reference.model, own, reference.model.blocks[0].mlp), reference.task.tokens(reference.model)
    _, (full,) = outputs(own, tokens, [mlp])
    with torch.no_grad(), without_expert(mlp, expert):
        _, (less,) = outputs(own, tokens, [mlp])
    return full - less


def test_all_edges_are_the_model_and_none_is_the_other_prompt(reference: Reference) -> None:
    graph, corrupt = reference.graph, torch.tensor([prompt.tokens for prompt in reference.task.corrupt])
    torch.testing.assert_close(reference.logits(graph.full()), reference.objective.clean)
    torch.testing.assert_close(reference.logits(graph.empty()), reference.model(corrupt)[:, -1], atol=2e-5, rtol=1e-4)
    assert {"m0.e0", "m1.e3"} <= set(graph.writers)
    assert ("m0.shared" in graph.writers) == graph.shared_expert


@torch.no_grad()
def test_a_cut_edge_is_plain_transformers_with_the_same_choices(reference: Reference, own: Any) -> None:
    """Three edges cut to zero, each alone; what m1 no longer hears of the embedding would move its router."""
    model, graph, tokens = reference.model, reference.graph, reference.task.tokens(reference.model)
    zero = Reference(model, graph, reference.task, torch.zeros_like(reference.replacement))
    gone, fast, same = write(reference, own, 1), Fast(zero), same_choices(own, tokens)
    assert bool(gone.any())
    final, second = (module_of(model, own, part) for part in (model.ln_final, model.blocks[1].ln2))
    embedded = own.get_input_embeddings()(tokens)
    for edge, part, less in (
        ("m0.e1->logits", final, gone),
        ("m0.e1->m1", second, gone),
        ("embed->m1", second, embedded),
    ):
        kept = graph.full()
        kept[graph.edge(edge)] = False
        with reading(part, partial(torch.sub, other=less)), same():
            wanted = own(tokens, use_cache=False).logits[:, -1]
        torch.testing.assert_close(zero.logits(kept), wanted, atol=2e-5, rtol=1e-4)
        assert abs(fast.rebuild(kept) - float(zero.objective.losses(wanted[None])[0])) < 2e-5
    with reading(second, lambda x: x - embedded):  # the router chooses for itself: other experts
        assert not torch.allclose(own(tokens, use_cache=False).logits[:, -1], wanted, atol=1e-3)


def test_the_fast_engine_agrees_on_any_circuit(reference: Reference) -> None:
    graph, fast, generator = reference.graph, Fast(reference), np.random.default_rng(0)
    for number in [*generator.permutation(len(graph.readers))[:5], graph.reader_index["m0"], graph.reader_index["m1"]]:
        reader, kept = graph.readers[number], graph.full()
        kept[:, number + 1 :] &= generator.random(kept[:, number + 1 :].shape) < 0.6
        if (moved := list(graph.moved_by(reader))) and not graph.alive(kept)[moved].any():
            continue
        check_cuts(fast, int(number), kept, 2, within=2e-5)


def test_scores_are_slopes_and_the_integral_reaches_the_gap(reference: Reference) -> None:
    """With the choice held there are no jumps on the way from clean to ablated, so EAP-IG is complete."""
    graph, clean, small = reference.graph, clean_writes(reference), 1e-2
    near = Reference(reference.model, graph, reference.task, clean + small * (reference.replacement - clean))
    scores, slope = EAP().score(reference), Exact().score(near) / small
    assert np.corrcoef(scores.flatten(), slope.flatten())[0, 1] > 0.99  # float32: 1e-6 over 1e-2
    ablated = graph.full()
    ablated[: graph.n_inputs] = False
    gap = reference.loss(ablated) - reference.loss(graph.full())
    assert float(EAPIG(steps=64).score(reference)[0].sum()) == pytest.approx(gap, rel=0.02, abs=1e-3)


def test_the_search_is_certified(reference: Reference) -> None:
    circuit = find(reference.model, reference.task, ACDC(0.003, certify=0.1), split=False)
    assert circuit.certificate is not None
    assert circuit.certificate.n_checked > 1
    assert not circuit.certificate.differences


def test_experts_have_direct_effects_and_layers_a_share_of_them(reference: Reference) -> None:
    found = roles(reference.model, find(reference.model, reference.task, EAP(edges=40)), shuffles=1)
    assert any(".e" in part.name for part in found.components)
    assert 0 < float(found.active_mlps.max()) <= 1
