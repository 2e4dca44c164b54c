"""MALMEN's identities: least squares in both its forms, one fact by hand, limits of the ridge, and its gradients."""

from typing import Any

import pytest
import torch

from editing.compute import compute, compute_each
from editing.methods.trained.malmen import Config, Network, aggregated
from editing.solve.closed_form import KeyMetric, solve
from editing.trained.factors import STARTS, at_answers
from editing.trained.tail import Slopes, Tail, matrices
from factscope.errors import EditError
from factscope.model.weights import WeightName, live_weights
from helpers.editors import REQUESTS, check_side_path, config_of, editor_of, pairs_of


def drawn(tokens: int = 5, d_in: int = 7, d_out: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """K, R and a lambda, float64."""
    draw = torch.Generator().manual_seed(tokens)
    keys, wanted = (torch.randn(tokens, width, generator=draw, dtype=torch.float64) for width in (d_in, d_out))
    return keys, wanted, torch.tensor(0.3, dtype=torch.float64)


@pytest.mark.parametrize("tokens", [1, 5, 12])
def test_the_change_is_the_ridge_regression_of_the_wanted_differences(tokens):
    keys, wanted, log_ridge = drawn(tokens)
    normal = keys.T @ keys + log_ridge.exp() * torch.eye(7, dtype=torch.float64)
    plain = torch.linalg.solve(normal, keys.T @ wanted)
    ours = aggregated(keys, wanted, log_ridge).T @ wanted
    torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-12)
    for form in ("keys", "dimensions"):
        found = solve(keys, wanted, KeyMetric(None), ridge=float(log_ridge.exp()), form=form).dense()
        torch.testing.assert_close(found, plain, atol=1e-12, rtol=1e-12)
    turned = torch.randperm(tokens, generator=torch.Generator().manual_seed(0))
    again = aggregated(keys[turned], wanted[turned], log_ridge).T @ wanted[turned]
    torch.testing.assert_close(again, plain, atol=1e-12, rtol=1e-12)


def test_one_fact_by_hand_no_difference_twice_the_facts_and_a_ridge_without_end():
    keys, wanted, log_ridge = drawn(1)
    by_hand = keys.T @ wanted / (log_ridge.exp() + keys.square().sum())
    torch.testing.assert_close(aggregated(keys, wanted, log_ridge).T @ wanted, by_hand, atol=1e-14, rtol=1e-12)
    keys, wanted, log_ridge = drawn()
    assert not (aggregated(keys, wanted, log_ridge).T @ torch.zeros_like(wanted)).any()
    twice = aggregated(torch.cat([keys, keys]), torch.cat([wanted, wanted]), log_ridge).T @ torch.cat([wanted, wanted])
    half = aggregated(keys, wanted, log_ridge - torch.tensor(2.0, dtype=torch.float64).log()).T @ wanted
    torch.testing.assert_close(twice, half, atol=1e-12, rtol=1e-12)
    far = torch.tensor(1e6, dtype=torch.float64).log()
    limit = far.exp() * (aggregated(keys, wanted, far).T @ wanted)
    torch.testing.assert_close(limit, keys.T @ wanted, atol=1e-3, rtol=1e-4)  # to the first order in 1e-6


def test_its_gradients_are_those_that_the_authors_take_apart():
    keys, wanted, log_ridge = drawn()
    wanted, log_ridge = wanted.requires_grad_(), log_ridge.requires_grad_()
    upstream = torch.randn(7, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    change = aggregated(keys, wanted, log_ridge).T @ wanted
    slopes = torch.autograd.grad((upstream * change).sum(), (wanted, log_ridge))
    normal = keys.T @ keys + log_ridge.detach().exp() * torch.eye(7, dtype=torch.float64)
    through = torch.linalg.solve(normal, upstream)
    torch.testing.assert_close(slopes[0], keys @ through, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(slopes[1], -log_ridge.detach().exp() * (through * change.detach()).sum())


def started(names: Any, shape: str, **state: float) -> tuple[Network, dict[str, torch.Tensor]]:
    """A network at its start, with the same statistics in every coordinate."""
    width = sum(map(int, shape.split("x")))
    kept = {f"{shape}.{key}": torch.full((width,), value) for key, value in state.items()}
    network = Network(dict.fromkeys(names, shape), kept | {"start": torch.tensor(0.5)})
    return network, network.start(Config(rank=3), torch.Generator().manual_seed(0))


def test_untrained_it_wants_what_a_gradient_step_would_do_to_the_token_alone():
    names = WeightName(0, "mlp.W_out"), WeightName(1, "mlp.W_out")
    network, parts = started(names, "7x4", mean=0.0, std=1.0 - 1e-7)
    keys, slopes, _ = (one.float() for one in drawn())
    found = Slopes(dict.fromkeys(names, keys), dict.fromkeys(names, slopes), torch.zeros(5))
    for k, r in network.wanted(parts, found).values():
        step = -0.5 * keys[:, :, None] * slopes[:, None, :]  # [token d_in d_out], each token's own
        torch.testing.assert_close(r, torch.einsum("t i, t i o -> t o", keys, step), atol=1e-5, rtol=1e-5)
        assert torch.equal(k, keys)
    parts["7x4.s1"] = -torch.ones_like(parts["7x4.s1"])
    parts["7x4.U1"] = torch.ones_like(parts["7x4.U1"])
    less = network.wanted(parts, found)[names[0]][1]
    assert not torch.allclose(less, network.wanted(parts | {"7x4.s1": -parts["7x4.s1"]}, found)[names[0]][1])


def test_the_side_path_of_training_is_the_edit_in_the_weights_of_all_facts_at_once(tiny):
    """Factors of training, read beside the weights, are the saved edit's; keys are those of the answers' tokens."""
    model = tiny("llama")
    editor, config = editor_of(model, "malmen", steps=2), config_of(model, "malmen", steps=2)
    assert editor is not None
    edit = compute("malmen", model, REQUESTS, editor=editor, shown=False)
    pairs, names = pairs_of(model), matrices(model, config.layers, ("W_out",))
    tail = Tail(model, 0, [pair.row for pair in pairs])
    found = at_answers(tail.slopes(pairs, names), pairs)
    assert {len(x) for x in found.read.values()} == {sum(len(pair.answer) for pair in pairs)}
    shape = "x".join(map(str, live_weights(model)[str(names[0])].shape))
    wanted = Network(dict.fromkeys(names, shape), editor.tensors).wanted(editor.tensors, found)
    ridges = editor.tensors["log_ridge"]
    change = {n: (aggregated(k, r, at)[None], r[None]) for (n, (k, r)), at in zip(wanted.items(), ridges, strict=True)}
    check_side_path(tail, change, edit)


def test_many_facts_at_once_are_not_the_sum_of_each(tiny):
    model, editor = tiny("llama"), editor_of(tiny("llama"), "malmen")
    assert editor is not None
    assert float(editor.tensors["start"]) in [pytest.approx(start) for start in STARTS]
    whole = compute("malmen", model, REQUESTS, editor=editor, shown=False)
    turned = compute("malmen", model, REQUESTS[::-1], editor=editor, shown=False)
    each = compute_each("malmen", model, REQUESTS, editor=editor, shown=False)
    for number, delta in enumerate(whole.deltas):
        torch.testing.assert_close(delta.dense(), turned.deltas[number].dense(), atol=1e-9, rtol=1e-4)
        total = torch.stack([one.deltas[number].dense() for one in each]).sum(0)
        assert not torch.allclose(delta.dense(), total, rtol=1e-2, atol=1e-9)


def test_settings_that_cannot_work_are_named(tiny):
    from editing.trained.train import train_editor
    from helpers.editors import FACTS

    config = config_of(tiny("llama"), "malmen")
    with pytest.raises(EditError, match="eta is -1, and must be at least 0"):
        train_editor(tiny("llama"), "malmen", FACTS, config.__class__(**vars(config) | {"eta": -1.0}), shown=False)
