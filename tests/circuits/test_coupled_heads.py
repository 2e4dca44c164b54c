"""Heads that share a norm (Gemma-2, OLMo-2): each writes its share, and what one of them hears changes its layer.

The oracle is plain transformers with PyTorch's hooks: a norm multiplies each dimension by one number, which is what
comes out of it divided by what goes in, and a head's share is its own output times that.
"""

from pathlib import Path
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
from circuits.scorers.atp_star import AtPStar
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG
from circuits.scorers.exact import Exact
from circuits.scorers.relp import RelP
from circuits.search.acdc import ACDC
from factscope.errors import UserError
from factscope.model.parts.norms import NormParts
from factscope.model.parts.writes import HeadsOut
from helpers.circuits import COUPLED, check_cuts, double, task
from helpers.oracle import outputs, reading

SPLITS = pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
NAMES = pytest.mark.parametrize("name", COUPLED)
HEAD = slice(8, 16)  # the second head's part of what the output projection reads


def test_shares_by_hand() -> None:
    """Two heads give (3, 0) and (0, 4): the root mean square of their sum is 5 / sqrt 2, and the gain (1, 2)."""
    norm = NormParts(False, 0.0, torch.tensor([1.0, 2.0]), torch.zeros(1))
    outs = HeadsOut(torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]]]), None, norm)
    scale = 5 / 2**0.5
    torch.testing.assert_close(outs.writes(torch.ones(2, 1)), torch.tensor([[3 / scale, 0], [0, 8 / scale]]))


@SPLITS
@NAMES
def test_all_edges_are_the_model_and_none_is_the_other_prompt(tmp_path: Path, name: str, split: bool) -> None:
    model = double(name, tmp_path)
    reference = Reference(model, Graph.of(model, split=split), task(model, ablation="counterfactual", rows=2))
    graph, corrupt = reference.graph, torch.tensor([prompt.tokens for prompt in reference.task.corrupt])
    torch.testing.assert_close(reference.logits(graph.full()), reference.objective.clean)
    # these models' norms run in float32, whatever the weights are
    torch.testing.assert_close(reference.logits(graph.empty()), model(corrupt)[:, -1], atol=1e-5, rtol=1e-5)


def share(model: Any, tokens: Tensor) -> Tensor:
    """What the second head of the first layer adds to the stream, by hooks on the original modules alone."""
    block = model.blocks[0]
    seen: list[Tensor] = []
    projection = block.attn.o.original_component

    def heard(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x

    with reading(projection, heard):
        _, (given, normed) = outputs(model.original_model, tokens, [projection, block.ln1_post.original_component])
    own: Tensor = (normed / given) * (seen[0][..., HEAD] @ projection.weight[:, HEAD].T)
    return own


@NAMES
def test_one_cut_edge_is_the_model_less_a_share_in_one_place(tmp_path: Path, name: str) -> None:
    """a0.h1->logits and a0.h1->m1, each cut alone, in the original modules."""
    model = double(name, tmp_path)
    reference = Reference(model, Graph.of(model), task(model, rows=2))
    fast, tokens = Fast(reference), reference.task.tokens(model)
    gone, block = share(model, tokens), model.blocks[1]
    places = {"logits": model.ln_final, "m1": block.ln2 if hasattr(block, "ln2") else block.mlp}
    for reader, part in places.items():
        kept = reference.graph.full()
        kept[reference.graph.edge(f"a0.h1->{reader}")] = False
        with reading(part.original_component, lambda x: x - gone), torch.no_grad():
            own = model.original_model(tokens, use_cache=False).logits[:, -1]
        assert not torch.allclose(own, reference.objective.clean, atol=1e-3)
        torch.testing.assert_close(reference.logits(kept), own, atol=1e-5, rtol=1e-5)
        assert abs(fast.rebuild(kept) - float(reference.objective.losses(own[None])[0])) < 1e-5


@SPLITS
@NAMES
def test_the_fast_engine_agrees_where_heads_lead_nowhere(tmp_path: Path, name: str, split: bool) -> None:
    """Random circuits in which a0.h1 reaches nothing by itself, and still turns the other heads of its layer."""
    model = double(name, tmp_path)
    graph = Graph.of(model, split=split)
    reference = Reference(model, graph, task(model, rows=2))
    fast, generator = Fast(reference), np.random.default_rng(0)
    own = [graph.reader_index[f"a0.h1{part}"] for part in ((".q", ".k", ".v") if split else ("",))]
    tried = 0
    for number in [*generator.permutation(len(graph.readers))[:8], *own]:
        reader, kept = graph.readers[number], graph.full()
        kept[:, number + 1 :] &= generator.random(kept[:, number + 1 :].shape) < 0.4
        kept[graph.writer_index["a0.h1"]] = False
        moved = list(graph.moved_by(reader))
        if moved and not graph.alive(kept)[moved].any():
            continue
        tried += number in own
        check_cuts(fast, int(number), kept, 2, within=1e-5)  # norms in float32
    assert tried == len(own)


@NAMES
def test_the_search_is_certified(tmp_path: Path, name: str) -> None:
    """The plain engine measures every decision again, in the circuit that it was made in."""
    model = double(name, tmp_path)
    circuit = find(model, task(model), ACDC(0.03, certify=1.0), split=False)
    assert circuit.certificate is not None
    assert circuit.certificate.n_checked == int(circuit.tested.sum()) > 10
    assert not circuit.certificate.differences
    assert circuit.certificate.largest_gap < 1e-5


@NAMES
def test_scores_are_slopes_and_the_integral_reaches_the_gap(tmp_path: Path, name: str) -> None:
    """EAP against exact cuts of a thousandth, and EAP-IG's completeness: gradients flow through the shared scale."""
    model, small = double(name, tmp_path), 1e-3
    reference = Reference(model, Graph.of(model), task(model, ablation="counterfactual", rows=2))
    scores = EAP().score(reference)
    own = clean_writes(reference)
    near = Reference(model, reference.graph, reference.task, own + small * (reference.replacement - own))
    slope = Exact().score(near) / small
    assert np.corrcoef(scores.flatten(), slope.flatten())[0, 1] > 0.999
    torch.testing.assert_close(scores, slope, atol=0.02 * float(scores.abs().max()) + 2e-3, rtol=0.05)
    gap = reference.loss(reference.graph.empty()) - reference.loss(reference.graph.full())
    assert float(EAPIG(steps=32).score(reference)[0].sum()) == pytest.approx(gap, rel=1e-2)


@NAMES
@pytest.mark.parametrize("method", [RelP(edges=9), AtPStar(edges=9)], ids=lambda each: each.name)
def test_scorers_that_need_heads_apart_say_so(tmp_path: Path, name: str, method: Any) -> None:
    model = double(name, tmp_path)
    with pytest.raises(UserError, match="share a norm"):
        find(model, task(model, ablation="counterfactual"), method)


@NAMES
def test_roles_split_a_heads_share_by_what_it_read(tmp_path: Path, name: str) -> None:
    model = double(name, tmp_path, "float32")
    circuit = find(model, task(model), EAP(edges=60))
    found = roles(model, circuit, shuffles=1)
    parts = {part.name: part.direct_effect for part in found.components}
    assert found.heads
    for head in found.heads:  # the sink's part is left out of the split
        split = head.direct_subject + head.direct_relation + head.direct_rest
        assert np.isfinite(split)
        assert abs(split) <= abs(parts[head.name]) + 10 * max(abs(value) for value in parts.values())
    assert float(found.curves["rank, circuit"][-1]) == pytest.approx(circuit.rank_circuit[0], rel=1e-5)
