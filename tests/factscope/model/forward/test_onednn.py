"""Products by oneDNN against torch's own: values, slopes, and where they must not be used."""

import pytest
import torch
from torch.nn import functional

from factscope.model.forward.onednn import _HAS_ONEDNN, thin_products


@pytest.mark.parametrize("shape", [(64,), (1, 64), (7, 64), (3, 5, 64), (2, 0, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_gives_the_same_values_and_slopes(shape, bias):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(shape, generator=draw, requires_grad=True)
    weight, shift = torch.randn(96, 64, generator=draw), torch.randn(96, generator=draw) if bias else None
    own = functional.linear(rows, weight, shift)
    slope = torch.randn(own.shape, generator=draw)
    with thin_products():
        ours = functional.linear(rows, weight, shift)
        (found,) = torch.autograd.grad(ours, rows, slope)
    torch.testing.assert_close(ours, own, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found, torch.autograd.grad(own, rows, slope)[0], atol=1e-4, rtol=1e-5)


def test_a_weight_stored_the_other_way_round_does_too():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 64, generator=draw, requires_grad=True)
    weight, shift = torch.randn(64, 96, generator=draw), torch.randn(96, generator=draw)
    own = torch.addmm(shift, rows, weight)
    with thin_products():
        ours = torch.addmm(shift, rows, weight)
    torch.testing.assert_close(ours, own, atol=1e-4, rtol=1e-5)
    slopes = [torch.autograd.grad(out.sum(), rows)[0] for out in (ours, own)]
    torch.testing.assert_close(*slopes, atol=1e-4, rtol=1e-5)


@pytest.mark.skipif(not _HAS_ONEDNN, reason="this torch has no oneDNN")
def test_only_frozen_float32_weights_are_taken_and_only_inside():
    rows, weight, shift = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5)
    asked = rows.clone().requires_grad_()
    name = lambda *given: functional.linear(*given).grad_fn.name()  # noqa: E731
    with thin_products():
        assert "Product" in name(asked, weight)
        assert "Product" not in name(asked, weight.clone().requires_grad_())
        assert "Product" not in name(asked, weight, shift.clone().requires_grad_())
        assert "Product" not in name(asked.double(), weight.double())
    assert "Product" not in name(asked, weight)


def test_training_inside_still_reaches_the_weight():
    layer = torch.nn.Linear(8, 5)
    with thin_products():
        layer(torch.ones(3, 8)).sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.full((5, 8), 3.0))
