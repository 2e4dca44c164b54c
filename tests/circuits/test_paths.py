"""Direct path patching against TransformerLens's own, against plain activation patching, and what it cannot do."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from circuits.ablations import ablated
from circuits.analysis.paths import path_patch
from circuits.engine.writes import reading
from circuits.graph import Graph
from circuits.pages.paths import page, records, words
from circuits.task import Objective
from factscope.errors import UserError
from factscope.model.hooks import flags, hooked
from factscope.model.sites import Site
from factscope.plots.page import page_html
from helpers.circuits import double, task
from helpers.results import check_result

KINDS: tuple[Literal["q", "k", "v"], ...] = ("q", "k", "v")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_transformerlenss_path_patching(tmp_path: Path, kind: Literal["q", "k", "v"]) -> None:
    """Theirs goes into the corrupt run and gives the metric; ours is what the metric gains."""
    from transformer_lens import patching

    model = double("gpt2", tmp_path)
    one = task(model, "logit_difference", "counterfactual")
    answer, foil = one.prompts[0].answer_ids[0], one.prompts[0].foil_ids[0]
    clean, corrupt = (torch.tensor([p.tokens for p in side]) for side in (one.prompts, one.corrupt))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, answer] - logits[0, -1, foil]

    with torch.no_grad():
        plain, one_cache = model.run_with_cache(corrupt)
        _, other_cache = model.run_with_cache(clean)
        theirs = patching.get_act_patch_direct_path(
            model, corrupt, other_cache, one_cache, metric, 0, 2, kind, verbose=False
        )
    found = path_patch(model, one, ["a0.h2"], [f"a1.*.{kind}"], direction="denoising")
    assert found.receivers == tuple(f"a1.h{head}.{kind}" for head in range(model.cfg.n_heads))
    torch.testing.assert_close(found.effect[0], (theirs[1] - metric(plain)).float(), atol=1e-6, rtol=1e-4)
    assert float(found.effect.abs().max()) > 1e-4


@pytest.mark.parametrize("name", ["llama", "neox"])
def test_to_all_receivers_at_once_it_is_activation_patching(tmp_path: Path, name: str) -> None:
    """Whoever can hear the sender hears the ablated output: as if it had been written."""
    model = double(name, tmp_path)
    one = task(model, ablation="counterfactual", rows=2)
    found = path_patch(model, one, ["embed", "a0.h1", "m0", "a1.h3", "m1"], ["*"], together=True)
    sent, objective = ablated(model, Graph.of(model), one), Objective.of(model, one)
    assert found.together is not None

    def loss(name: str) -> float:
        value = sent[found.graph.writer_index[name]]

        def of_head(result: torch.Tensor) -> torch.Tensor:
            result = result.clone()
            result[:, :, int(name.partition(".h")[2])] = value
            return result

        site, hook = Site("resid_pre"), lambda _: value
        if name[0] == "m":
            site = Site("mlp", int(name[1:]))
        elif name[0] == "a":
            site, hook = Site("head_result", int(name[1])), of_head
        with torch.no_grad(), reading(model), flags(model, use_attn_result=True), hooked(model, [(site, hook)]):
            return float(objective.losses(model(one.tokens(model), use_cache=False)[None, :, -1])[0])

    for name, effect in zip(found.senders, found.together.tolist(), strict=True):
        assert effect == pytest.approx(loss(name) - found.loss_from, abs=2e-6), name
    assert torch.isnan(found.effect[found.senders.index("m1")][:-1]).all()  # only the logits hear the last MLP


def test_what_is_saved_and_drawn(tmp_path: Path) -> None:
    model = double("llama", tmp_path)
    for receivers in (["logits"], ["*"]):
        found = path_patch(model, task(model, ablation="counterfactual"), ["*"], receivers)
        check_result(found, tmp_path / receivers[0].replace("*", "all"), "PathEffects")
        html = page_html(page(found))
        assert ("Direct effect on logits" if receivers == ["logits"] else "Who tells whom") in html
        rows = records(found)
        assert len(rows) == int(found.effect.isfinite().sum())
        assert abs(rows[0]["effect"]) == float(found.effect[found.effect.isfinite()].abs().max())
        assert rows[0]["sender"] in words(found)[0]


def test_what_cannot_be_patched(tiny: Any) -> None:
    model = tiny("llama")
    one = task(model, ablation="counterfactual")
    for senders, receivers, said in (
        (["a9.h9"], ["logits"], "no sender 'a9.h9'"),
        (["*"], ["a0.h0"], "no receiver 'a0.h0'"),
        (["m3"], ["a0.*.q"], "no path goes from m3"),
    ):
        with pytest.raises(UserError, match=said):
            path_patch(model, one, senders, receivers)
    with pytest.raises(UserError, match="no such run"):
        path_patch(model, task(model), direction="denoising")
