"""The logit lens: its last row is the model, its components add up, its two norms agree where they must."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from factscope.data.load import load_facts
from factscope.model.load import load
from factscope.model.prompts import make_prompt, prompt_of
from factscope.plots.show import pictures
from factscope.plots.specs import Heatmap
from factscope.plots.svg import svg
from helpers.models import TOY, save_tiny
from tracing.logit_lens import lens
from tracing.pages.logit_lens import page as lens_page

SHAPES = ("gpt2", "llama", "neox", "gemma3")


@pytest.mark.parametrize("name", SHAPES)
def test_the_last_state_answers_as_the_model_does(tiny: Any, name: str) -> None:
    model = tiny(name)
    prompt = make_prompt(model, "In Vey [Mira Hallin] lives in", answer="Brask", foil="Vey")
    found = lens(model, prompt)
    with torch.no_grad():
        logs = torch.log_softmax(model(prompt.tensor())[0], -1)
    answer, foil = prompt.answer_ids[0], prompt.foil_ids[0]
    torch.testing.assert_close(found.log_probability[-1], logs[:, answer], atol=1e-5, rtol=0)
    assert found.foil_log_probability is not None
    torch.testing.assert_close(found.foil_log_probability[-1], logs[:, foil], atol=1e-5, rtol=0)
    assert found.rank[-1].tolist() == (1 + (logs > logs[:, answer : answer + 1]).sum(-1)).tolist()
    torch.testing.assert_close(found.entropy[-1], -(logs.exp() * logs).sum(-1), atol=1e-5, rtol=1e-5)
    assert found.top[-1] == tuple(model.tokenizer.decode([i]) for i in logs.argmax(-1).tolist())
    assert found.top_probability is not None
    torch.testing.assert_close(found.top_probability[-1], logs.exp().max(-1).values, atol=1e-6, rtol=1e-4)
    assert found.rank.shape == (5, len(prompt.tokens))


@pytest.mark.parametrize("name", SHAPES)
def test_direct_effects_sum_to_the_logit(tiny: Any, name: str) -> None:
    """All writers' direct effects make the answer's logit above the mean, but for the final norm's own bias."""
    model = tiny(name)
    prompt = make_prompt(model, "In Vey [Mira Hallin] lives in", answer="Brask")
    found = lens(model, prompt, "final-scale")
    with torch.no_grad():
        logits = model(prompt.tensor())[0, -1]
        shift = getattr(model.ln_final.original_component, "bias", None)
        if shift is not None:
            logits = logits - model.unembed(shift[None, None])[0, 0]
    wanted = float(logits[prompt.answer_ids[0]] - logits.mean())
    assert sum(c.direct_effect for c in found.components) == pytest.approx(wanted, abs=1e-4)
    names = [c.name for c in found.components]
    assert {"embed", "a0.h0", "m3"} <= set(names)


def test_the_norms_agree_at_the_end_and_ranks_agree_throughout_without_a_bias(toy: Any) -> None:
    prompt = prompt_of(toy, load_facts(TOY / "toy_town.json")[0])
    own, final = lens(toy, prompt, "per-state"), lens(toy, prompt, "final-scale")
    torch.testing.assert_close(own.log_probability[-1], final.log_probability[-1], atol=1e-5, rtol=1e-5)
    assert torch.equal(own.rank, final.rank)  # RMS norm: a positive factor moves no rank
    assert not torch.allclose(own.log_probability[0], final.log_probability[0])


def test_the_tokens_stand_in_the_cells_on_the_page_and_in_the_still_picture(toy: Any) -> None:
    found = lens(toy, prompt_of(toy, load_facts(TOY / "toy_town.json")[0]))
    (drawn,) = (spec for spec in pictures(found) if isinstance(spec, Heatmap) and spec.cell_labels is not None)
    assert drawn.cell_labels is not None
    assert [tuple(row) for row in drawn.cell_labels] == list(found.top)
    assert f"rank of {found.prompt.answer!r}" in drawn.hover
    still = svg(drawn)
    assert still is not None
    assert still.count("<text") >= len(found.top) * len(found.prompt.tokens)
    older = replace(found, top_probability=None)  # saved before probabilities of tokens were kept
    assert len(pictures(older)) == len(pictures(found)) - 1


def test_the_toy_writes_its_answer(toy: Any) -> None:
    prompt = prompt_of(toy, load_facts(TOY / "toy_town.json")[0])
    found = lens(toy, prompt)
    assert int(found.rank[-1, -1]) == 1
    assert int(found.rank[0, -1]) > 1
    best = max(found.components, key=lambda c: c.direct_effect)
    assert best.top[0] == prompt.answer


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["toy", "gpt2"])
def test_half_precision_tells_the_same_writers_apart(
    name: str, dtype: str, toy: Any, tiny: Any, tmp_path: Path
) -> None:
    """What the heads write adds up to what the attention wrote, up to this type's rounding, in every layer."""
    exact = toy if name == "toy" else tiny(name)
    half = load(str(TOY if name == "toy" else save_tiny(name, tmp_path)), device="cpu", dtype=dtype)
    for fact in load_facts(TOY / "toy_town.json", limit=8):
        one, other = (lens(model, prompt_of(model, fact)) for model in (exact, half))
        assert [c.name for c in one.components] == [c.name for c in other.components]
        wanted, found = (torch.tensor([c.direct_effect for c in each.components]) for each in (one, other))
        assert (wanted - found).norm() < 0.1 * wanted.norm()
        assert lens_page(other)
