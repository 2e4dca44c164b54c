"""MEND's identities: what is read is the gradient, what comes out is the paper's, and the side path is the edit."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from editing.compute import compute, compute_each
from editing.methods.trained.mend import Config, Network
from editing.requests import target_prompts
from editing.trained import factors
from editing.trained.factors import statistics
from editing.trained.tail import Slopes, Tail, matrices
from factscope.errors import EditError, ModelError
from factscope.model.forward import at_once
from factscope.model.forward.scoring import Pair
from factscope.model.weights import WeightName, fingerprint, live_weights
from helpers.editors import REQUESTS, check_side_path, config_of, editor_of, pairs_of

PARTS = {"gpt2": ("W_in", "W_out"), "neox": ("W_in", "W_out"), "llama": Config.matrices, "gemma3": Config.matrices}


@pytest.mark.parametrize("kind", PARTS)
def test_the_sum_of_outer_products_is_the_gradient_of_the_weight(tiny, kind):
    model = tiny(kind)
    pairs, names = pairs_of(model), matrices(model, (0, 1), PARTS[kind])
    found = Tail(model, 0, [pair.row for pair in pairs]).slopes(pairs, names)
    plain, losses = {}, []
    parameters = {parameter.data_ptr(): parameter for parameter in model.original_model.parameters()}
    weights = {name: live_weights(model)[str(name)] for name in names}
    wanted = [parameters[weight.data_ptr()] for weight in weights.values()]
    try:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for pair in pairs:  # the obvious way: one plain pass each, and the gradient of the parameters
            logits = model.original_model(input_ids=torch.tensor([pair.row])).logits[0, len(pair.prompt) - 1 :]
            losses.append(-logits.log_softmax(-1).gather(1, torch.tensor(pair.answer)[:, None]).mean())
        plain = dict(zip(names, torch.autograd.grad(torch.stack(losses).sum(), wanted), strict=True))
    finally:
        for parameter in wanted:
            parameter.requires_grad_(False)
    torch.testing.assert_close(found.losses, torch.stack(losses).detach(), atol=1e-4, rtol=1e-4)
    for name, weight in weights.items():
        ours = torch.einsum("r p i, r p o -> i o", found.read[name], found.slope[name])
        theirs = plain[name] if weight.is_contiguous() else plain[name].T  # a linear layer keeps the other order
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)  # float32, two layers


def test_unstandardised_and_without_its_network_it_is_one_step_down_the_gradient(tiny):
    model = tiny("llama")
    pairs, names = pairs_of(model), matrices(model, (0, 1), Config.matrices)
    found = Tail(model, 0, [pair.row for pair in pairs]).slopes(pairs, names)
    network, parts = started(model, names, {"mean": 0.0, "std": 1.0 - 1e-7})
    for name, (left, right) in network.factors(parts, found, Config(alpha=0.5)).items():
        change = torch.einsum("r t i, r t o -> i o", left, right)
        gradient = torch.einsum("r p i, r p o -> i o", found.read[name], found.slope[name])
        torch.testing.assert_close(change, -0.5 * gradient, atol=1e-6, rtol=1e-5)


def started(model: Any, names: Any, state: dict[str, float]) -> tuple[Network, dict[str, torch.Tensor]]:
    """A network at its start, with the same statistics in every coordinate."""
    shapes = {name: "x".join(map(str, live_weights(model)[str(name)].shape)) for name in names}
    widths = {shape: tuple(map(int, shape.split("x"))) for shape in shapes.values()}
    kept = {
        f"{shape}.{key}": torch.full((sum(w),), value) for shape, w in widths.items() for key, value in state.items()
    }
    network = Network(shapes, kept)
    return network, network.start(Config(rank=4), torch.Generator().manual_seed(0))


def test_its_layers_only_ever_add_and_a_token_without_a_gradient_writes_nothing(tiny):
    names = matrices(tiny("llama"), (0, 1), ("W_out",))
    network, parts = started(tiny("llama"), names, {"mean": 0.0, "std": 1.0 - 1e-7})
    draw = torch.Generator().manual_seed(1)
    wild = {name: torch.randn(part.shape, generator=draw) for name, part in parts.items()} | {"alpha": -torch.ones(2)}
    shape = next(iter(network.shapes.values()))
    rows, columns = map(int, shape.split("x"))
    read = {name: torch.randn(2, 5, rows, generator=draw) for name in names}
    slope = {name: torch.randn(2, 5, columns, generator=draw) for name in names}
    for tensors in (read, slope):
        tensors[names[0]][0, 3] = 0
    found = Slopes(read, slope, torch.zeros(2))
    for name, (left, right) in network.factors(wild, found, Config(alpha=1.0)).items():
        kept = torch.ones(2, 5, dtype=torch.bool)
        kept[0, 3] = name != names[0]
        assert bool((left - read[name])[kept].ge(-1e-5).all())
        assert bool((right - slope[name])[kept].ge(-1e-5).all())
        assert not left[~kept].any()
        assert not right[~kept].any()


def test_statistics_are_those_of_all_tokens_with_a_gradient_however_they_come():
    draw, name = torch.Generator().manual_seed(0), WeightName(0, "mlp.W_out")
    x, d = torch.randn(6, 4, 3, generator=draw), torch.randn(6, 4, 2, generator=draw)
    d[:, 0] = 0
    cut = [Slopes({name: x[i : i + 2]}, {name: d[i : i + 2]}, torch.zeros(2)) for i in (0, 2, 4)]
    found = statistics({name: "3x2"}, cut)
    z = torch.cat([x, d], -1)[:, 1:].reshape(-1, 5)
    torch.testing.assert_close(found["3x2.mean"], z.mean(0), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found["3x2.std"], z.std(0, correction=0), atol=1e-6, rtol=1e-6)


def test_the_side_path_of_training_is_the_edit_in_the_weights(tiny):
    """What a training step reads of an example is what the saved, applied edit of the same prompt does."""
    model = tiny("llama")
    editor, config = editor_of(model, "mend", steps=4), config_of(model, "mend", steps=4)
    assert editor is not None
    edit = compute("mend", model, REQUESTS[:1], editor=editor, shown=False)
    pairs = pairs_of(model)
    (own,) = target_prompts(model, edit.requests[0], ("{}",), "auto")
    first = Pair(tuple(own.tokens), tuple(own.answer_ids))
    tail = Tail(model, 0, [first.row, *(pair.row for pair in pairs)])
    names = matrices(model, config.layers, config.matrices)
    shapes = {name: "x".join(map(str, live_weights(model)[str(name)].shape)) for name in names}
    change = Network(shapes, editor.tensors).factors(editor.tensors, tail.slopes([first], names), config)
    check_side_path(tail, change, edit)


def test_rank_is_at_most_the_tokens_and_no_alpha_is_no_change(tiny):
    model = tiny("llama")
    editor = editor_of(model, "mend")
    assert editor is not None
    rows = sum(
        len(p.tokens) + len(p.answer_ids) - 1 for one in REQUESTS for p in target_prompts(model, one, ("{}",), "auto")
    )
    edit = compute("mend", model, REQUESTS, editor=editor, shown=False)
    assert all(0 < delta.right.shape[0] <= rows for delta in edit.deltas)
    turned = compute("mend", model, REQUESTS[::-1], editor=editor, shown=False)
    for one, other in zip(edit.deltas, turned.deltas, strict=True):
        torch.testing.assert_close(one.dense(), other.dense(), atol=1e-6, rtol=1e-4)
    off = replace(editor, tensors=editor.tensors | {"alpha": torch.zeros(6)}, digest="")
    still = compute_each("mend", model, REQUESTS, editor=off, shown=False)[0]
    before = {name: tensor.clone() for name, tensor in live_weights(model).items()}
    with still.applied(model):
        assert all(torch.equal(tensor, before[name]) for name, tensor in live_weights(model).items())
    assert fingerprint(model) == editor.base


def test_neither_the_size_of_a_pass_nor_little_memory_matters_and_too_little_is_told(tiny, monkeypatch):
    model = tiny("llama")
    editor = editor_of(model, "mend")
    whole = compute("mend", model, REQUESTS, editor=editor, shown=False)
    sizes, own = [], factors.fitting

    def fitting(model, most, each, what):
        sizes.append((most, each))
        return own(model, most, each, what)

    monkeypatch.setattr(factors, "fitting", fitting)
    compute("mend", model, REQUESTS, editor=editor, shown=False)
    ((most, each),) = sizes
    assert most == len(REQUESTS)
    monkeypatch.setattr(at_once, "free", lambda _: 1.5 * each / at_once.SHARE)  # of one request alone
    for one, other in zip(
        whole.deltas, compute("mend", model, REQUESTS, editor=editor, shown=False).deltas, strict=True
    ):
        torch.testing.assert_close(one.dense(), other.dense(), atol=1e-6, rtol=1e-4)  # float32
    monkeypatch.setattr(at_once, "free", lambda _: 0.5 * each / at_once.SHARE)
    with pytest.raises(ModelError, match=r"the gradients of \d+ tokens need"):
        compute("mend", model, REQUESTS, editor=editor, shown=False)


def test_a_matrix_that_the_model_does_not_have_is_named(tiny):
    with pytest.raises(EditError, match=r"no blocks\.0\.mlp\.W_gate as a matrix of its own"):
        matrices(tiny("gpt2"), (0,), ("W_gate",))
    assert Config.for_model(tiny("gpt2")).matrices == ("W_in", "W_out")
