"""RelP against its definition: the same model with norms and activations rewritten, and autograd through all of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import LayerNorm

from circuits.engine.reference import Reference
from circuits.find import find
from circuits.graph import Graph
from circuits.scorers.eap import EAP
from circuits.scorers.relp import RelP
from factscope.errors import UserError
from helpers.circuits import SHAPES, double, task


def _norm(module: Any) -> Any:
    """A norm whose scale is a constant."""
    eps = float(getattr(module, "eps", getattr(module, "variance_epsilon", float("nan"))))
    centres = isinstance(module, LayerNorm)

    def forward(x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True) if centres else x
        scale = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt().detach()
        out: torch.Tensor = module.weight * x / scale + (module.bias if centres else 0)
        return out

    return forward


def _activation(module: Any) -> Any:
    """An activation that is a constant gain."""
    own = type(module).forward
    return lambda x: x * (own(module, x) / x).detach()


def _gated(module: Any) -> Any:
    """An MLP that halves the slope of its product."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        product = module.act_fn(module.gate_proj(x)) * module.up_proj(x)
        out: torch.Tensor = module.down_proj(product / 2 + (product / 2).detach())
        return out

    return forward


def _bridge(module: Any) -> Any:
    """TransformerLens's norm, which computes by itself on some architectures."""
    return _norm(module.original_component)


REWRITTEN = {
    "LayerNorm": _norm,
    "LlamaRMSNorm": _norm,
    "NormalizationBridge": _bridge,
    "NewGELUActivation": _activation,
    "GELUActivation": _activation,
    "SiLUActivation": _activation,
    "LlamaMLP": _gated,
}


@contextmanager
def rewritten(model: Any) -> Iterator[None]:
    """The modules of `model` with the same values, and with the slopes of the rules: autograd then does the rest."""
    changed = [module for module in model.original_model.modules() if type(module).__name__ in REWRITTEN]
    kinds = {type(module).__name__ for module in changed}
    assert kinds & {"NewGELUActivation", "GELUActivation", "SiLUActivation"}
    try:
        for module in changed:
            module.__dict__["forward"] = REWRITTEN[type(module).__name__](module)
        yield
    finally:
        for module in changed:
            module.__dict__.pop("forward", None)


@pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
@pytest.mark.parametrize("name", SHAPES)
def test_relp_is_eap_on_the_rewritten_model(tmp_path: Path, name: str, split: bool) -> None:
    model = double(name, tmp_path)
    reference = Reference(model, Graph.of(model, split=split), task(model, ablation="counterfactual", rows=2))
    ours, eap = RelP().examples(reference), EAP().examples(reference)
    with rewritten(model):
        wanted = EAP().examples(reference)
    torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-4)  # a softmax in float32 inside a float64 model
    assert float((ours - eap).abs().max()) > 1e-3  # and the rules do change something


def test_held_attention_leaves_nothing_for_queries_and_keys(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    reference = Reference(model, Graph.of(model), task(model, ablation="counterfactual"))
    held = RelP(attention="held").score(reference)
    at = {kind: [n for n, r in enumerate(reference.graph.readers) if r.kind in kind] for kind in ("qk", "v")}
    assert float(held[:, at["qk"]].abs().max()) == 0
    assert float(held[:, at["v"]].abs().max()) > 1e-3
    last = reference.graph.reader_index["logits"]
    assert torch.equal(held[:, last], RelP().score(reference)[:, last])  # attention plays no part there


def test_what_relp_does_not_have(tiny: Any) -> None:
    model = tiny("llama")
    with pytest.raises(UserError, match="no rule 'soft'"):
        RelP(attention="soft")  # type: ignore[arg-type]
    assert find(model, task(model, ablation="counterfactual"), RelP(edges=60)).settings["attention"] == "gradient"
