"""Products by oneDNN against torch's own: values, slopes, and where they must not be used; packed copies of modules."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from factscope.model.forward.onednn import Packed, packed, suits, thin_products
from helpers.circuits import SHAPES, double

HELD = pytest.mark.skipif(not suits(torch.zeros(2, 2)), reason="this build of torch has no oneDNN")


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


@HELD
def test_only_frozen_float32_weights_are_taken_and_only_inside():
    rows, weight, shift = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5)
    asked = rows.clone().requires_grad_()
    name = lambda *given: type(functional.linear(*given).grad_fn).__name__  # noqa: E731
    with thin_products():
        assert "Product" in name(asked, weight)
        assert "Product" not in name(asked, weight.clone().requires_grad_())
        assert "Product" not in name(asked, weight, shift.clone().requires_grad_())
        assert "Product" not in name(asked.double(), weight.double())
        assert "Product" not in name(asked, torch.randn(5, 16)[:, :8])
    assert "Product" not in name(asked, weight)


def test_training_inside_still_reaches_the_weight():
    layer = torch.nn.Linear(8, 5)
    with thin_products():
        layer(torch.ones(3, 8)).sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.full((5, 8), 3.0))


@HELD
@pytest.mark.parametrize("name", SHAPES)
def test_packed_modules_compute_the_same(tiny: Any, name: str) -> None:
    """Linear with and without bias, and GPT-2's transposed layers; the model keeps its own modules."""
    model = tiny(name)
    for part in (model.blocks[0].mlp, model.unembed):
        own = part.original_component
        before = {key: type(child) for key, child in own.named_modules()}
        twin = packed(part)
        assert any(isinstance(child, Packed) for child in twin.modules())
        x = torch.randn(3, 5, int(model.cfg.d_model), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(twin(x), own(x), atol=1e-5, rtol=1e-5)
        assert {key: type(child) for key, child in own.named_modules()} == before


def test_other_types_run_through_the_module_itself(tmp_path: Path) -> None:
    model = double("gpt2", tmp_path)
    twin = packed(model.blocks[0].mlp)
    assert not any(isinstance(child, Packed) for child in twin.modules())
    x = torch.ones(1, 2, int(model.cfg.d_model), dtype=torch.float64)
    assert torch.equal(twin(x), model.blocks[0].mlp.original_component(x))


@HELD
def test_hooks_on_the_model_do_not_reach_the_copy(tiny: Any) -> None:
    part = tiny("llama").blocks[0].mlp
    twin = packed(part)
    x = torch.ones(1, 2, 32)
    wanted = twin(x)
    linear = next(child for child in part.original_component.modules() if isinstance(child, torch.nn.Linear))
    handle = linear.register_forward_hook(lambda *_: torch.zeros(1, 2, linear.out_features))
    try:
        assert torch.equal(twin(x), wanted)
        assert not torch.allclose(part.original_component(x), wanted)
    finally:
        handle.remove()
