"""MELO: what learns is what speaks, several facts share a block, the gate may stand below, and its page."""

from typing import Any

import pytest
import torch

from editing.compute import compute
from editing.edit import Edit, applied
from editing.method import method
from editing.pages.beside import beside
from editing.requests import request, target_prompts
from factscope.errors import EditError
from factscope.model.forward.generate import generate
from factscope.model.forward.scoring import Pair, score
from factscope.plots.figures.slides import Scatter
from factscope.plots.render import figure

FACTS = (("[Oda Voss] lives in", "Vey"), ("[Mira Drey] speaks", "Norrish"), ("[Ilse Senn] lives in", "Vey"))


def made(model: Any, **settings: Any) -> Edit:
    """All facts in one edit."""
    asked = [request(model, text, target) for text, target in FACTS]
    return compute("melo", model, asked, method("melo").config_for(model, settings), shown=False)


@pytest.fixture(scope="module")
def below(toy: Any) -> Edit:
    """As published: a gate below, blocks beside two layers; two facts a block."""
    return made(toy, layers="2,3", gate_below=1, facts_per_block=2)


def test_blocks_beside_two_layers_with_one_gate_below_learn_score_and_generate_alike(toy: Any, below: Edit) -> None:
    """The loss that training read last, of factors without a gate, is the loss of the model with the edit."""
    low, high = below.bypasses
    assert (low.layer, high.layer, low.numbers, high.numbers) == (2, 3, {"gate": 1.0}, {"gate": 1.0})
    assert low.tensors["which"].tolist() == [0, 0, 1]
    assert torch.equal(low.tensors["keys"], high.tensors["keys"])
    prompts = [target_prompts(toy, one, ("{}",), "auto")[0] for one in below.requests]
    rows = [tuple(prompt.tokens) for prompt in prompts]
    other = tuple(target_prompts(toy, request(toy, "[Mira Drey] lives in", "Vey"), ("{}",), "auto")[0].tokens)
    pairs = [Pair(other, (5,)), *map(_pair, prompts)]
    before = score(toy, pairs)[0]
    with applied(toy, [below]):
        after, *losses = score(toy, pairs)
        said = [generate(toy, [row], len(p.answer_ids))[0] for row, p in zip(rows, prompts, strict=True)]
    assert torch.equal(after.logp, before.logp)
    assert [tuple(ids) for ids in said] == [tuple(prompt.answer_ids) for prompt in prompts]
    assert below.curve is not None
    last = [float(curve[curve.isfinite()][-1]) for curve in below.curve.T]
    assert [one.nll for one in losses] == pytest.approx(last, abs=2e-3)


def _pair(prompt: Any) -> Pair:
    return Pair(tuple(prompt.tokens), tuple(prompt.answer_ids))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reach": 0.0}, "reach is 0, and must be above 0"),
        ({"rank": 0}, "leave nothing to learn"),
        ({"facts_per_block": 0}, "facts_per_block is 0, and must be above 0"),
        ({"layers": "2", "gate_below": 3}, "3 layers below layer 2: give gate_below from 0 to 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(toy: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(EditError, match=said):
        made(toy, **settings)


def test_the_page_draws_clusters_and_the_points_that_they_are_made_of(below: Edit) -> None:
    drawn = [spec for spec in beside([below]) if isinstance(spec, Scatter)]
    assert len(drawn) == 2  # a picture a layer: one index, its blocks in two
    centres, points = drawn[0].groups
    assert len(points.labels) == 3
    assert sorted(points.labels) == ["Norrish, block 0", "Vey, block 0", "Vey, block 1"]
    assert len(figure(drawn[0]).layout.shapes) == len(centres.labels) == len(centres.radii)
