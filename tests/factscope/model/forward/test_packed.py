"""Packed matrices give the module's own products, leave what does not suit them alone, and carry no hooks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from factscope.model.forward.packed import Packed, packed, suits
from helpers.circuits import SHAPES, double

HELD = pytest.mark.skipif(not suits(torch.zeros(2, 2)), reason="this build of torch has no oneDNN")


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
