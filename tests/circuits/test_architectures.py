"""The architecture table, for circuits: cut edges are what plain transformers computes, or the model is refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.analysis.faithfulness import evaluate
from circuits.analysis.head_roles import roles
from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.find import find
from circuits.graph import Graph
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG
from circuits.scorers.exact import Exact
from circuits.search.acdc import ACDC
from factscope.errors import ModelError
from factscope.model.bridge import info
from helpers.architectures import FAMILIES, plain
from helpers.circuits import task

# Families whose heads and MLPs the fast engine knows; every other one is refused, and says so.
KNOWN = (
    "gpt2", "gpt_bigcode", "gpt_neox", "gpt_neox sequential", "phi3", "llama", "llama untied", "llama biased",
    "llama wide heads", "mistral", "ministral3", "qwen2", "qwen2 window", "qwen3", "gemma", "vaultgemma", "stablelm",
    "starcoder2", "smollm3", "nemotron", "arcee", "apertus", "jais2", "seed_oss",
)  # fmt: skip


Change = Callable[[Tensor], Tensor]


@contextmanager
def changed(module: Any, change: Change, inputs: bool) -> Iterator[None]:
    """A plain module whose input, or output, is changed."""

    def output(_: Any, __: Any, out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    if inputs:
        handle = module.register_forward_pre_hook(lambda _, given: (change(given[0]), *given[1:]))
    else:
        handle = module.register_forward_hook(output)
    try:
        yield
    finally:
        handle.remove()


def refused(make: Callable[[], Any]) -> Any:
    """What is made, or the one sentence that says why not."""
    try:
        return make()
    except ModelError as refusal:
        return str(refusal)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_or_mlp_cut_out_is_what_plain_transformers_computes_without_it(family: Any, name: str) -> None:
    """Cutting all edges of one writer is running the model without it; its own hooks in plain transformers say so."""
    fast = refused(lambda: Fast(Reference(family(name), Graph.of(family(name)), task(family(name)))))
    assert isinstance(fast, Fast) is (name in KNOWN), fast
    if isinstance(fast, str):
        assert "\n" not in fast
        return
    model, reference, graph = fast.model, fast.reference, fast.graph
    tokens, other = reference.task.tokens(model), plain(info(model).source)
    mlp = next(name for name, each in model.original_model.named_modules() if each is model.blocks[1].mlp)
    out = model.blocks[1].attn.o.original_component.weight
    width = int(model.cfg.d_head)

    def without_head(z: Tensor) -> Tensor:
        z = z.clone()
        z[..., width : 2 * width] = 0
        return z

    cases: list[tuple[int, Any, Change, bool]] = [
        (graph.mlp_writer(1), other.get_submodule(mlp.replace("_original_component.", "")), torch.zeros_like, False),
        (
            graph.head_writer(1, 1),
            next(each for each in other.modules() if torch.equal(getattr(each, "weight", out[:1]), out)),
            without_head,
            True,
        ),
    ]
    for writer, module, change, inputs in cases:
        kept = graph.full()
        kept[writer] = False
        with torch.no_grad(), changed(module, change, inputs):
            wanted = other(tokens).logits[:, -1]
        torch.testing.assert_close(reference.logits(kept), wanted, atol=2e-5, rtol=1e-4)
        assert abs(fast.rebuild(kept) - reference.loss(kept)) < 1e-4  # float32


@pytest.mark.parametrize("name", ["qwen2", "smollm3"])
def test_every_method_serves_what_was_refused_or_wrong(family: Any, name: str) -> None:
    """Biases under grouped queries, and layers without rotary angles: every verb works."""
    model = family(name)
    asked = task(model, "logit_difference", "counterfactual")
    for method in (EAP(edges=20), EAPIG(edges=20, steps=2), Exact(edges=20), ACDC(1e-4)):
        circuit = find(model, asked, method)
        assert circuit.n_edges > 0
    assert np.isfinite(evaluate(model, circuit, n_random=1).kl)
    assert roles(model, circuit, shuffles=1).components
