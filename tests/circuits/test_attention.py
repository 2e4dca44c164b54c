"""What the strongest heads attend to, against plain transformers: their attentions, and values written one by one."""

from typing import Any

import pytest
import torch

from circuits.analysis.attention import patterns, strongest_heads
from circuits.analysis.head_roles import roles
from circuits.circuit import Circuit
from circuits.engine.reference import Reference
from circuits.engine.state import State
from circuits.find import find
from circuits.pages.roles import attention_specs
from circuits.scorers.eap import EAP
from factscope.model.bridge import info
from factscope.plots.figures.network import Network
from factscope.plots.figures.slides import Slides
from factscope.plots.show import pictures
from factscope.plots.specs import Heatmap
from helpers.architectures import plain as in_transformers
from helpers.circuits import double, task


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Circuit]:
    model = double("llama", tmp_path_factory.mktemp("llama"))
    return model, find(model, task(model), EAP(edges=60))


def test_the_strongest_heads_are_those_of_the_largest_effects(found: Any) -> None:
    _, circuit = found
    heads = strongest_heads(circuit, 3)
    sums = {
        name: sum(
            abs(float(circuit.scores[writer, reader]))
            for reader in range(len(circuit.graph.readers))
            if circuit.drawn[writer, reader]
        )
        for writer, name in enumerate(circuit.graph.writers)
        if name.startswith("a")
    }
    assert list(heads) == sorted(sums, key=lambda name: -sums[name])[: len(heads)]
    assert heads == pytest.approx({name: sums[name] for name in heads})


def test_patterns_are_those_of_the_plain_model_and_the_weighted_ones_are_of_what_is_written(found: Any) -> None:
    model, circuit = found
    state = State(Reference(model, circuit.graph, circuit.task))
    names = {name: 1.0 for name in circuit.graph.writers if name.startswith("a")}
    plain = in_transformers(info(model).source).double()
    tokens = torch.tensor([circuit.task.prompts[0].tokens])
    with torch.no_grad():
        said = plain(tokens, output_attentions=True, output_hidden_states=True)
    groups = circuit.graph.group
    for one in patterns(state, names):
        layer, head = (int(part[1:]) for part in one.name.split("."))
        torch.testing.assert_close(one.attention.double(), said.attentions[layer][0, head], atol=1e-6, rtol=1e-5)
        block = plain.model.layers[layer]
        with torch.no_grad():
            values = block.self_attn.v_proj(block.input_layernorm(said.hidden_states[layer]))[0]
            size = values.shape[-1] // circuit.graph.n_kv_heads
            own = values[:, head // groups * size : (head // groups + 1) * size]
            out = block.self_attn.o_proj.weight[:, head * size : (head + 1) * size]
            sizes = torch.stack([(out @ value).norm() for value in own]) * said.attentions[layer][0, head]
        torch.testing.assert_close(one.weighted.double(), sizes / sizes.sum(-1, keepdim=True), atol=1e-6, rtol=1e-4)
        assert not one.attention.triu(1).any()


def test_the_first_query_is_at_the_top_and_the_strongest_head_is_shown_first(found: Any) -> None:
    model, circuit = found
    measured = roles(model, circuit, shuffles=3)
    prompt = circuit.task.prompts[0]
    plain, weighted = (spec for spec in attention_specs(measured, prompt) if isinstance(spec, Slides))
    assert plain.states[-1].startswith(measured.patterns[0].name)
    shown, share = plain.figures[-1], weighted.figures[-1]
    assert isinstance(shown, Heatmap)
    assert isinstance(share, Heatmap)
    assert shown.rows[::-1] == shown.columns == prompt.labels
    assert shown.values[-1, 0] == pytest.approx(1.0)  # the first token sees itself alone
    assert shown.values[0, -1] == pytest.approx(float(measured.patterns[0].attention[-1, -1]))
    assert share.values[0].sum() == pytest.approx(1.0)


def test_a_notebook_has_the_circuits_picture(found: Any) -> None:
    _, circuit = found
    assert any(isinstance(spec, Network) for spec in pictures(circuit))
    shown = circuit._repr_mimebundle_()["text/html"]
    assert shown.count("<img") == len(pictures(circuit))
    assert "<script" not in shown
