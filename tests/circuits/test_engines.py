"""Running part of a model: all of it is the model, none of it is what the ablation promises, and a head cut is gone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits import ablations
from circuits.ablations import ablated, ablation_names
from circuits.engine import writes as engine_writes
from circuits.engine.incremental import Fast
from circuits.engine.optimal import OptimalConfig
from circuits.engine.reference import Reference
from circuits.engine.writes import writes
from circuits.graph import Graph
from circuits.task import Task, largest_group, places_of
from factscope.errors import ModelError, PromptError, TokenMismatch, UserError
from factscope.model.hooks import Patch, flags, hooked, patched, record
from factscope.model.parts.writes import component_sites, component_writes
from factscope.model.prompts import make_prompt
from factscope.model.sites import Site
from helpers.circuits import SHAPES, check_cuts, double, task


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Optimal constants are learned in two steps, and kept apart."""
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ablations, "OPTIMAL", OptimalConfig(steps=2, rows=2, draws=1, every=2))


SPLITS = pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])


@SPLITS
@pytest.mark.parametrize("name", SHAPES)
def test_all_edges_are_the_model(tiny: Any, name: str, split: bool) -> None:
    model = tiny(name)
    for ablation in ablation_names():
        reference = Reference(model, Graph.of(model, split=split), task(model, ablation=ablation, rows=2))
        # float32: head by head instead of all at once
        torch.testing.assert_close(
            reference.logits(reference.graph.full()), reference.objective.clean, atol=2e-5, rtol=1e-4
        )


@pytest.mark.parametrize("name", SHAPES)
def test_the_engine_hears_what_the_lens_takes_apart(tiny: Any, name: str) -> None:
    """Two ways to what each head and MLP writes: the engine's hooks, and the parts of the last state."""
    model, tokens = tiny(name), task(tiny(name), rows=1).tokens(tiny(name))
    graph = Graph.of(model)
    heard = writes(model, graph, tokens)[:, 0, -1]
    with record(model, component_sites(model)) as seen, torch.no_grad():
        model(tokens)
    parts = component_writes(model, seen)
    assert set(graph.writers) == {part for part in parts if not part.endswith(".bias")}
    for number, writer in enumerate(graph.writers):
        # float32: the heads' products in another order
        torch.testing.assert_close(heard[number], parts[writer], atol=2e-5, rtol=1e-4)


@SPLITS
@pytest.mark.parametrize("name", SHAPES)
def test_no_edges_are_what_the_ablation_promises(tmp_path: Path, name: str, split: bool) -> None:
    model = double(name, tmp_path)
    graph = Graph.of(model, split=split)
    other = Reference(model, graph, task(model, ablation="counterfactual", rows=2))
    corrupt = torch.tensor([prompt.tokens for prompt in other.task.corrupt])
    torch.testing.assert_close(other.logits(graph.empty()), model(corrupt)[:, -1])
    zero = Reference(model, graph, task(model, rows=1))
    outs = [block.attn.o.original_component for block in model.blocks]
    biases: Any = 0 if name == "llama" else sum(out.bias for out in outs)
    state = torch.zeros(1, 1, 32, dtype=torch.float64) + biases
    torch.testing.assert_close(zero.logits(graph.empty()), model.unembed(model.ln_final(state))[:, 0])


@pytest.mark.parametrize("name", SHAPES)
def test_cutting_all_of_a_heads_edges_is_ablating_the_head(tmp_path: Path, name: str) -> None:
    model = double(name, tmp_path)
    graph = Graph.of(model)
    reference = Reference(model, graph, task(model))
    kept = graph.full()
    kept[graph.writer_index["a1.h2"]] = False
    gone = Patch(Site("head_result", 1), lambda result: result * torch.tensor([1.0, 1, 0, 1])[:, None])
    with flags(model, use_attn_result=True), patched(model, [gone]):
        wanted = model(reference.task.tokens(model))[:, -1]
    torch.testing.assert_close(reference.logits(kept), wanted)


def test_an_edge_cut_changes_its_reader_alone(tmp_path: Path) -> None:
    """By hand: cut embed->logits in a model whose last residual stream we add up ourselves."""
    model = double("llama", tmp_path)
    graph = Graph.of(model)
    reference = Reference(model, graph, task(model))
    kept = graph.full()
    kept[graph.edge("embed->logits")] = False
    written = writes(model, graph, reference.task.tokens(model))
    wanted = model.unembed(model.ln_final(written[1:].sum(0)[:, -1:]))[:, 0]
    torch.testing.assert_close(reference.logits(kept), wanted)


def test_a_cut_giant_leaves_no_rounding_behind(tmp_path: Path) -> None:
    """float32 against float64, a writer of 10^6 cut from every input; the first MLPs of real models come near that."""
    losses = []
    for dtype in ("float64", "float32"):
        model = double("llama", tmp_path, dtype)
        weight = model.blocks[0].mlp.out.original_component.weight
        before = weight.clone()
        try:
            weight *= 1e6
            reference = Reference(model, Graph.of(model), task(model))
            kept = reference.graph.full()
            kept[reference.graph.writer_index["m0"]] = False
            losses.append(reference.loss(kept))
        finally:
            weight.copy_(before)
    assert abs(losses[0] - losses[1]) < 1e-5  # what is left of the stream's own rounding would be 0.003


@SPLITS
@pytest.mark.parametrize("name", SHAPES)
def test_the_fast_engine_agrees_on_any_circuit(tmp_path: Path, name: str, split: bool) -> None:
    """Random circuits above a reader, everything clean below it, as in a search."""
    model = double(name, tmp_path)
    graph = Graph.of(model, split=split)
    reference = Reference(model, graph, task(model, rows=2))
    fast = Fast(reference)
    generator = np.random.default_rng(0)
    tried = 0
    for number in generator.permutation(len(graph.readers))[:20]:
        reader, kept = graph.readers[number], graph.full()
        kept[:, number + 1 :] &= generator.random(kept[:, number + 1 :].shape) < 0.4
        nodes = list(graph.nodes_of(reader))
        if nodes and not graph.alive(kept)[nodes].any():
            continue
        tried += check_cuts(fast, int(number), kept, 3, within=1e-6)  # float64, with a softmax in float32
    assert tried >= 12


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "neox"])
def test_half_precision_is_held_against_its_own_rounding(tmp_path: Path, name: str, dtype: str) -> None:
    """The engines agree in half precision as far as it reaches, and heads that are mixed up are found in it too."""
    model = double(name, tmp_path, dtype)
    reference = Reference(model, Graph.of(model), task(model, rows=2))
    fast = Fast(reference)
    assert 0 < fast.difference < 0.02
    layer = fast.kernel.layers[1]
    fast.kernel.layers[1] = replace(layer, out=layer.out.flip(0))
    fast.rebuild(fast.graph.full())
    with pytest.raises(ModelError, match="computes its heads or MLPs in a way"):
        fast.check(writes(model, fast.graph, fast.tokens))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers_stop_with_a_sentence(tmp_path: Path, bad: float) -> None:
    model = double("llama", tmp_path, "float32")
    weight = model.blocks[1].mlp.out.original_component.weight
    before = weight[0, 0].item()
    try:
        with torch.no_grad():
            weight[0, 0] = bad
        with pytest.raises(ModelError, match="not numbers"):
            Reference(model, Graph.of(model), task(model))
    finally:
        with torch.no_grad():
            weight[0, 0] = before


def test_a_model_whose_heads_do_not_add_up_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = double("gpt2", tmp_path, "float32")
    graph, one = Graph.of(model), task(model)
    with (
        hooked(model, [(Site("attn", 0), lambda out: 1.1 * out)]),
        pytest.raises(ModelError, match="is not the sum of"),
    ):
        Reference(model, graph, one)
    monkeypatch.setattr(engine_writes, "heads_out", lambda *_: None)
    with pytest.raises(ModelError, match="a matrix of its own, so it has no edge circuits"):
        Reference(model, graph, one)


@pytest.mark.parametrize("name", ablation_names())
def test_ablations_have_the_shape_of_the_writers(tiny: Any, name: str) -> None:
    model = tiny("gpt2")
    one = task(model, ablation=name, rows=2)
    graph = Graph.of(model)
    value, written = ablated(model, graph, one), writes(model, graph, one.tokens(model))
    assert value.expand_as(written).shape == written.shape
    if name == "zero":
        assert not value.any()
    every = writes(model, graph, torch.tensor([p.tokens for p in one.reference]))
    for row, prompt in enumerate(one.prompts):  # a prompt is no part of its own mean
        others = every[:, [other.tokens != prompt.tokens for other in one.reference]]
        assert others.shape[1] == len(one.reference) - 1
        if name == "mean":
            torch.testing.assert_close(value[:, row], others.mean(1))
        if name == "mean_overall":
            torch.testing.assert_close(value[:, row, 0], others[:, :, 0].mean(1))
            torch.testing.assert_close(value[:, row, 2], others[:, :, 1:].flatten(1, 2).mean(1))


@pytest.mark.parametrize("name", ["mean", "mean_overall"])
def test_a_mean_says_nothing_of_its_own_prompt(tiny: Any, name: str) -> None:
    """The empty circuit gives the same whether the prompt is among the reference prompts or not."""
    model = tiny("gpt2")
    among = task(model, ablation=name)
    without = replace(among, reference=tuple(p for p in among.reference if p.tokens != among.prompts[0].tokens))
    assert len(without.reference) == len(among.reference) - 1
    graph = Graph.of(model)
    empty = [Reference(model, graph, each).logits(graph.empty()) for each in (among, without)]
    torch.testing.assert_close(*empty)
    with pytest.raises(UserError, match="1 reference prompts other than"):
        Reference(model, graph, replace(among, reference=among.reference[:2]))


@pytest.mark.parametrize("ablation", ["counterfactual", "mean"])
def test_subjects_of_another_length_are_matched_by_role(tiny: Any, ablation: str) -> None:
    """Every writer is ablated to what it writes at the token of the same role; with none kept it is that prompt."""
    model = tiny("llama")
    own = make_prompt(model, "[Oda Drey Voss] lives in", answer="Brask")
    others = [make_prompt(model, f"[{name}] lives in", answer="Vey") for name in ("Oda Voss", "Ilse Senn", "Oda Tavi")]
    assert len({len(prompt.tokens) for prompt in (own, *others)}) > 1
    first, after = own.subject_span
    for other in others:
        places, (begin, end) = places_of(own, other), other.subject_span
        assert list(places) == sorted(places)
        assert (places[0], places[-1]) == (0, len(other.tokens) - 1)
        assert places[after - 1] == end - 1
        assert places[first] == (begin if end - begin > 1 or after - first > 1 else end - 1)
        assert [own.tokens[i] for i in (*range(first), *range(after, len(own.tokens)))] == [
            other.tokens[places[i]] for i in (*range(first), *range(after, len(own.tokens)))
        ]
    task = Task((own,), "nll", ablation, (others[0],) if ablation == "counterfactual" else (), tuple(others))
    reference = Reference(model, Graph.of(model), task)
    alone = [writes(model, reference.graph, torch.tensor([other.tokens]))[:, 0] for other in others]
    moved = [seen[:, places_of(own, other)] for seen, other in zip(alone, others, strict=True)]
    wanted = moved[0] if ablation == "counterfactual" else torch.stack(moved).mean(0)
    torch.testing.assert_close(reference.replacement[:, 0], wanted)
    if ablation == "counterfactual":
        there = model(torch.tensor([others[0].tokens]), use_cache=False)[:, -1]
        torch.testing.assert_close(reference.logits(reference.graph.empty()), there, atol=1e-4, rtol=1e-4)


def test_tasks_refuse_what_cannot_be_compared(tiny: Any) -> None:
    model = tiny("gpt2")
    short = make_prompt(model, "[Oda Voss] lives in", answer="Brask")
    long = make_prompt(model, "Today, [Oda Voss] lives in", answer="Brask")
    with pytest.raises(TokenMismatch, match="equal length"):
        Task((short, long))
    with pytest.raises(TokenMismatch, match="equal length"):
        Task((short,), corrupt=(long,))  # another wording, whose tokens have no common roles
    with pytest.raises(TokenMismatch, match="1 prompts have 2"):
        Task((short,), corrupt=(short, short))
    with pytest.raises(PromptError, match="--answer"):
        Task((make_prompt(model, "[Oda Voss] lives in"),))
    with pytest.raises(UserError, match="--foil"):
        Task((short,), "logit_difference")
    with pytest.raises(UserError, match="no metric"):
        Task((short,), "beauty")
    with pytest.raises(UserError, match="corrupt prompt"):
        Reference(model, Graph.of(model), Task((short,), ablation="counterfactual"))
    with pytest.raises(UserError, match="reference prompts"):
        Reference(model, Graph.of(model), Task((short,), ablation="mean"))
    with pytest.raises(UserError, match="no ablation"):
        Reference(model, Graph.of(model), Task((short,), ablation="fire"))
    assert largest_group([short, long, long]) == (long, long)


def test_a_circuit_is_run_once_and_all_edges_are_the_models_own_run(tiny: Any) -> None:
    model = tiny("llama")
    reference = Reference(model, Graph.of(model), task(model))
    full, cut = reference.graph.full(), reference.graph.full()
    cut[0] = False
    assert reference.loss(full) == pytest.approx(float(reference.objective.losses(reference.logits(full)[None])[0]))
    before = reference.n_forwards
    losses = [reference.loss(cut), reference.loss(full), reference.loss(cut)]
    assert reference.n_forwards == before + 1
    assert losses == [losses[0], reference.loss(full), losses[0]]
    assert losses[0] != losses[1]


def test_how_parts_are_joined_is_proven_once_and_again_where_the_model_is_made_of_others(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama")
    asked: list[Graph] = []
    graph, tokens = Graph.of(model), task(model).tokens(model)
    engine_writes.check_sum(model, graph, tokens)
    real = engine_writes._off_the_sum

    def watched(model: Any, graph: Graph, tokens: torch.Tensor) -> tuple[float, str]:
        asked.append(graph)
        return real(model, graph, tokens)

    monkeypatch.setattr(engine_writes, "_off_the_sum", watched)
    engine_writes.check_sum(model, graph, tokens)
    assert not asked
    with hooked(model, [(Site("mlp", 0), lambda _: None)]):
        engine_writes.check_sum(model, graph, tokens)
    engine_writes.check_sum(model, graph, tokens)
    assert len(asked) == 2  # with the hook, and without it
    own = model.blocks[0].mlp.original_component
    own.spliced = torch.nn.Identity()
    engine_writes.check_sum(model, graph, tokens)
    del own.spliced
    assert len(asked) == 3
