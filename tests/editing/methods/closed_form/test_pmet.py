"""PMET: its values against plain forward passes, its shares against the formula, its limits against MEMIT's."""

from dataclasses import replace

import pytest
import torch

from editing import compute as computing
from editing.methods.closed_form import pmet
from editing.requests import RequestPrompts, essence_prompt, target_prompts
from editing.solve import values
from editing.solve.values import Descent, find_values, read_subjects
from factscope.data.fact import Fact
from factscope.data.request import requests_of
from factscope.errors import EditError
from factscope.model.hooks import Patch, patched
from factscope.model.sites import Site
from helpers.moments import text_moments

FACTS = requests_of(
    (
        Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),
        Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris town"),
    )
)
CONTEXTS = ("{}", "I said. {}")
PROMPTS = RequestPrompts(FACTS, CONTEXTS)
SHORT = Descent(steps=4, learning_rate=0.05, clamp=100.0, kl_factor=1.0)


def plain_loss(model, fact, attention, mlp):
    """The loss with both vectors added at layer 1, one prompt and one plain forward pass at a time."""

    def added(end):
        both = ((Site("attn", 1), attention), (Site("mlp_write", 1), mlp))
        return [Patch(site, delta, positions=[end], add=True) for site, delta in both]

    total = 0.0
    for prompt in target_prompts(model, fact, CONTEXTS, "auto"):
        tokens = torch.tensor([[*prompt.tokens, *prompt.answer_ids[:-1]]])
        with patched(model, added(prompt.subject_span[1] - 1)):
            logp = model(tokens)[0].log_softmax(-1)
        first = len(prompt.tokens) - 1
        picked = [float(logp[first + t, token]) for t, token in enumerate(prompt.answer_ids)]
        total -= sum(picked) / len(picked) / len(CONTEXTS)
    essence = essence_prompt(model, fact, "auto")
    end = essence.subject_span[1] - 1
    clean = model(essence.tensor())[0, end].log_softmax(-1)
    with patched(model, added(end)):
        now = model(essence.tensor())[0, end].log_softmax(-1)
    return total + float((now.exp() * (now - clean)).sum())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma3"])
def test_the_loss_of_both_vectors_is_the_one_of_plain_forward_passes(tiny, kind):
    model = tiny(kind)
    delta = torch.randn(len(FACTS), 2 * model.cfg.d_model, generator=torch.Generator().manual_seed(0)) * 0.5
    groups = values._groups(model, PROMPTS, 1, "parts")
    batched, gradient, *_ = values._losses(groups, delta, len(CONTEXTS), SHORT, "parts")
    for number, fact in enumerate(FACTS):
        expected = plain_loss(model, fact, *delta[number].chunk(2))
        assert float(batched[number]) == pytest.approx(expected, abs=2e-4)  # float32 through four layers
    step = 1e-2 * gradient[0] / gradient[0].norm()
    ends = [plain_loss(model, FACTS[0], *(delta[0] + sign * step).chunk(2)) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2 == pytest.approx(float(gradient[0].norm()) * 1e-2, rel=0.05)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_with_the_attention_held_still_the_loss_is_that_of_values_of_the_mlp(tiny, kind):
    model = tiny(kind)
    delta = torch.randn(len(FACTS), model.cfg.d_model, generator=torch.Generator().manual_seed(0)) * 0.5
    alone = values._losses(values._groups(model, PROMPTS, 1, "mlp"), delta, 2, SHORT, "mlp")
    both = torch.cat([torch.zeros_like(delta), delta], 1)
    beside = values._losses(values._groups(model, PROMPTS, 1, "parts"), both, 2, SHORT, "parts")
    torch.testing.assert_close(beside[0], alone[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(beside[1].chunk(2, 1)[1], alone[1], atol=1e-4, rtol=1e-3)


def test_what_is_found_is_what_the_mlp_must_write_and_each_part_stays_in_its_own_ball(tiny):
    model = tiny("llama")
    site = Site("mlp_write", 1)
    found = find_values(model, PROMPTS, 1, SHORT, place="parts")
    written = read_subjects(model, RequestPrompts(FACTS), [site])[site][:, 0]
    torch.testing.assert_close(found.init, written, atol=1e-5, rtol=1e-5)
    tight = find_values(model, PROMPTS, 1, replace(SHORT, clamp=0.1, learning_rate=1.0), place="parts")
    torch.testing.assert_close(tight.delta.norm(dim=1), 0.1 * written.norm(dim=1), atol=1e-6, rtol=1e-5)


def edit(model, layers, ridge=0.1):
    config = pmet.Config(layers=layers, ridge=ridge, descent=SHORT)
    how = {"moments": text_moments(model, layers), "contexts": ("{}",), "shown": False}
    return computing.compute("pmet", model, FACTS, config, **how)


def test_one_layer_without_a_ridge_writes_the_values_exactly(tiny):
    model = tiny("llama")
    made = edit(model, (1,), 1e-12)
    found = find_values(model, RequestPrompts(FACTS), 1, SHORT, place="parts")
    site = Site("mlp_write", 1)
    with made.applied(model):
        written = read_subjects(model, RequestPrompts(FACTS), [site])[site][:, 0]
    torch.testing.assert_close(written, found.target, atol=1e-4, rtol=1e-3)


def test_a_layer_takes_its_share_over_the_root_of_the_layers_remaining(tiny):
    model = tiny("llama")
    lower, upper = edit(model, (1, 2)).deltas
    found = find_values(model, RequestPrompts(FACTS), 2, SHORT, place="parts")
    torch.testing.assert_close(lower.right, found.delta / 2**0.5, atol=1e-5, rtol=1e-4)
    assert upper.right.norm() > 0


@pytest.mark.parametrize(("layers", "left"), [((1,), 0.1 / 1.1), ((1, 2), 0.5)])
def test_of_itself_each_of_several_layers_writes_half_of_its_share_and_one_alone_nine_tenths(tiny, layers, left):
    """A fact alone, read at its own key: of what a layer was asked to write, ridge / (1 + ridge) is not written."""
    model, site = tiny("llama"), Site("mlp_hidden", 1)
    config = pmet.Config(layers=layers, descent=SHORT)
    how = {"moments": text_moments(model, layers), "contexts": ("{}",), "shown": False}
    made = computing.compute("pmet", model, FACTS[:1], config, **how)
    found = find_values(model, RequestPrompts(FACTS[:1]), layers[-1], SHORT, place="parts")
    key = read_subjects(model, RequestPrompts(FACTS[:1]), [site])[site][:, 0]
    written = key @ made.deltas[0].dense().to(key)
    torch.testing.assert_close(written, (1 - left) * found.delta / len(layers) ** 0.5, atol=1e-4, rtol=1e-3)


def test_layer_0_is_refused(tiny):
    with pytest.raises(EditError, match="layer 1 and above, not at layer 0"):
        edit(tiny("llama"), (0,))
