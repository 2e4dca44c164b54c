"""KE's identities: the mask of rank one, a shut gate, what an LSTM reads beside others, and the multiplier."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from editing.compute import compute, compute_each
from editing.methods.trained import ke
from editing.methods.trained.ke import Network
from editing.requests import target_prompts
from editing.trained.examples import After, Asker, TrainingInputs
from editing.trained.facts import examples, split, training_facts
from editing.trained.tail import Tail, matrices
from factscope.model.weights import fingerprint, live_weights
from helpers.editors import FACTS, REQUESTS, config_of, editor_of, pairs_of


@pytest.fixture(scope="module")
def read(tiny: Any) -> Any:
    """The network of the tiny model with numbers drawn in its last layers, what it reads, and what it makes of it."""
    model = tiny("llama")
    names = matrices(model, (0, 1), ("W_gate", "W_in", "W_out"))
    pairs = pairs_of(model)
    found = Tail(model, 0, [pair.row for pair in pairs]).slopes(pairs, names)
    network, draw = Network(model, names), torch.Generator().manual_seed(0)
    parts = network.start(draw)
    parts |= {name: torch.randn(part.shape, generator=draw) for name, part in parts.items() if name.endswith(".out")}
    return network, parts, pairs, found


def test_the_thin_factors_are_the_published_dense_formula(read):
    network, parts, pairs, found = read
    condition = network.read(parts, found, pairs)
    thin = network.factors(parts, torch.tensor(0.3), found, condition)
    for name, (rows, columns) in network.shapes.items():
        inner = torch.tanh(condition @ parts[f"{name}.W"] + parts[f"{name}.b"])
        out = inner @ parts[f"{name}.out"][:-1] + parts[f"{name}.out"][-1]
        alpha, beta, gamma, delta, eta = out.split([rows, rows, columns, columns, 1], -1)
        gradient = torch.einsum("r p i, r p o -> r i o", found.read[name], found.slope[name])
        mask = rows * alpha.softmax(-1)[:, :, None] * (gamma - 1)[:, None, :]
        dense = gradient * mask + beta.softmax(-1)[:, :, None] * delta[:, None, :]
        dense = 0.3 * eta.sigmoid()[:, :, None] * dense
        left, right = thin[name]
        torch.testing.assert_close(torch.einsum("r t i, r t o -> r i o", left, right), dense, atol=1e-5, rtol=1e-4)


def test_untrained_it_is_one_step_down_the_gradient(read):
    network, _, pairs, found = read
    parts = network.start(torch.Generator().manual_seed(0))
    for name, (left, right) in network.factors(
        parts, torch.tensor(0.3), found, network.read(parts, found, pairs)
    ).items():
        gradient = torch.einsum("r p i, r p o -> r i o", found.read[name], found.slope[name])
        change = torch.einsum("r t i, r t o -> r i o", left, right)
        torch.testing.assert_close(change, -0.15 * gradient, atol=1e-6, rtol=1e-4)


def test_a_condition_is_of_its_own_edit_alone_and_other_edits_have_others(read):
    network, parts, pairs, found = read
    whole = network.read(parts, found, pairs)
    for number, pair in enumerate(pairs):
        lone = network.read(parts, replace(found, said=found.said[number : number + 1]), [pair])
        torch.testing.assert_close(lone[0], whole[number], atol=1e-5, rtol=1e-5)  # whatever is padded beside it
    assert not torch.allclose(whole[0], whole[1], atol=1e-3)


def test_a_shut_gate_is_no_edit_and_the_rank_is_one_more_than_the_tokens(tiny):
    model = tiny("llama")
    editor = editor_of(model, "ke", steps=4)
    assert editor is not None
    each = compute_each("ke", model, REQUESTS, editor=editor, shown=False)
    for edit, request in zip(each, REQUESTS, strict=True):
        (prompt,) = target_prompts(model, request, ("{}",), "auto")
        most = len(prompt.tokens) + len(prompt.answer_ids)
        assert all(0 < delta.right.shape[0] <= most for delta in edit.deltas)
    whole = compute("ke", model, REQUESTS, editor=editor, shown=False)
    for number, delta in enumerate(whole.deltas):
        total = torch.stack([edit.deltas[number].dense() for edit in each]).sum(0)
        torch.testing.assert_close(delta.dense(), total, atol=1e-6, rtol=1e-4)
    shut = replace(editor, tensors=editor.tensors | {"scale": torch.tensor(0.0)}, digest="")
    still = compute("ke", model, REQUESTS[:1], editor=shut, shown=False)
    before = {name: tensor.clone() for name, tensor in live_weights(model).items()}
    with still.applied(model):
        assert all(torch.equal(tensor, before[name]) for name, tensor in live_weights(model).items())
    assert fingerprint(model) == editor.base


@pytest.mark.parametrize(("keep", "way"), [(1.0, 1), (0.0, -1)])
def test_the_multiplier_rises_above_the_margin_falls_below_and_is_never_negative(tiny, monkeypatch, keep, way):
    model, config = tiny("llama"), config_of(tiny("llama"), "ke")
    inputs = TrainingInputs(model, split(training_facts(FACTS), 0), 0, "auto", False)
    asker = Asker(inputs, 0)
    editor = ke.Editor(asker, config, 0)
    batch = examples(asker.facts.trained, 2, "some")
    leaves = {name: part.requires_grad_() for name, part in editor.parts.items()}
    real = Asker.after

    def leaking(self: Any, batch: Any, changes: Any) -> After:
        found = real(self, batch, changes)
        return After(found.other, torch.full_like(found.moved, keep) + 0 * found.moved)

    monkeypatch.setattr(Asker, "after", leaking)
    with torch.enable_grad():
        losses = editor.losses(leaves, batch)
        slope = torch.autograd.grad(losses["loss"], leaves["dual"])[0]
    assert float(slope) == pytest.approx(config.margin - keep)  # and a step goes against it
    edit, loss = (float(losses[name].detach()) for name in ("edit", "loss"))
    assert loss == pytest.approx(edit + keep - config.margin, abs=1e-5)
    assert (slope < 0) == (way > 0)
    assert float(editor.projected({"dual": torch.tensor(-0.2)})["dual"]) == 0.0
