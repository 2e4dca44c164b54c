"""Both directions: clean values put into the corrupt run, against hooks, TransformerLens, and the way between."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits.engine.mirror import mirrored
from circuits.engine.reference import Reference
from circuits.engine.writes import reading, writes
from circuits.find import find
from circuits.graph import Graph
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG
from circuits.scorers.exact import Exact
from factscope.errors import UserError
from factscope.model.hooks import hooked
from factscope.model.sites import Site
from helpers.circuits import double, task, their_edges


def test_denoising_gives_one_edge_of_the_corrupt_run_its_clean_value(tmp_path: Path) -> None:
    """Every measured score is a plain run of the corrupt prompts with one hook at the reader."""
    model = double("llama", tmp_path)
    one = task(model, "logit_difference", "counterfactual", rows=2)
    graph = Graph.of(model)
    reference = Reference(model, graph, one)
    scores = Exact(direction="denoising").score(reference)
    prompts = tuple(replace(c, answer_ids=p.answer_ids) for p, c in zip(one.prompts, one.corrupt, strict=True))
    tokens = torch.tensor([prompt.tokens for prompt in prompts])
    clean, corrupt = writes(model, graph, one.tokens(model)), writes(model, graph, tokens)

    def loss(writer: int | None, name: str) -> float:
        reader = graph.readers[graph.reader_index[name]]

        def add(inputs: torch.Tensor) -> torch.Tensor | None:
            if writer is None:
                return None
            inputs, change = inputs.clone(), (clean - corrupt)[writer]
            if reader.head >= 0:
                inputs[:, :, reader.head] += change
                return inputs
            return inputs + change

        kind = {"mlp": "mlp_in", "logits": "resid"}.get(reader.kind, f"{reader.kind}_input")
        site = Site(kind, min(reader.layer, graph.n_layers - 1))
        with torch.no_grad(), reading(model), hooked(model, [(site, add)]):
            return float(reference.objective.losses(model(tokens, use_cache=False)[None, :, -1])[0])

    for edge in ("embed->a0.h1.k", "a0.h2->m0", "m0->a1.h3.q", "a0.h0->a1.h0.v", "a1.h1->logits", "embed->logits"):
        writer, number = graph.edge(edge)
        reader = graph.reader_names[number]
        assert float(scores[writer, number]) == pytest.approx(loss(None, reader) - loss(writer, reader), abs=1e-6), edge


def test_eap_that_denoises_is_transformerlenss(tmp_path: Path) -> None:
    model = double("gpt2", tmp_path)
    one = task(model, "logit_difference", "counterfactual")
    graph = Graph.of(model)
    ours = EAP(direction="denoising").score(Reference(model, graph, one))
    theirs = their_edges(model, one.prompts, one.corrupt, one.prompts[0])
    mlps = [number for number, reader in enumerate(graph.readers) if reader.kind == "mlp"]
    wanted = theirs[:, mlps].to(ours)
    torch.testing.assert_close(ours[:, mlps], wanted, atol=1e-6, rtol=1e-4)  # a fall of our loss is their rise
    assert float(ours[:, mlps].abs().max()) > 1e-3


def test_a_way_between_two_runs_is_the_same_from_both_ends(tmp_path: Path) -> None:
    """EAP-IG averages over the whole way, so it has no direction; EAP's two directions are its ends."""
    model = double("llama", tmp_path)
    reference = Reference(model, Graph.of(model), task(model, ablation="counterfactual", rows=2))
    there, back = (EAPIG(steps=4, direction=each).score(reference) for each in ("noising", "denoising"))
    torch.testing.assert_close(there, back, atol=1e-9, rtol=1e-7)
    ends = (EAP().score(reference) + EAP(direction="denoising").score(reference)) / 2
    torch.testing.assert_close(ends, EAPIG("clean_corrupted").score(reference), atol=1e-9, rtol=1e-7)


def test_the_mirror_of_the_mirror_is_the_task(tmp_path: Path) -> None:
    model = double("gpt2", tmp_path)
    reference = Reference(model, Graph.of(model), task(model, "kl", "counterfactual"))
    twice = mirrored(mirrored(reference))
    kept = reference.graph.full()
    kept[:, ::3] = False
    assert twice.loss(kept) == pytest.approx(reference.loss(kept), abs=1e-9)
    empty = reference.graph.empty()  # with every edge clean the corrupt run is the clean one, at no divergence
    assert mirrored(reference).loss(empty) == pytest.approx(0, abs=1e-6)


def test_what_has_no_corrupt_run_cannot_be_denoised(tiny: Any) -> None:
    model = tiny("llama")
    with pytest.raises(UserError, match="has no such run"):
        find(model, task(model), EAP(edges=30, direction="denoising"))
    with pytest.raises(UserError, match="no direction 'up'"):
        EAP(direction="up")  # type: ignore[arg-type]
    found = find(model, task(model, ablation="counterfactual"), EAP(edges=60, direction="denoising"))
    assert found.convention.startswith("estimated fall")
    assert found.settings["direction"] == "denoising"
