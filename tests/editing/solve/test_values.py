"""Values and keys in a batch against one at a time and plain forward passes."""

from dataclasses import replace

import pytest
import torch

from editing.requests import RequestPrompts, essence_prompt, target_prompts
from editing.solve import values
from editing.solve.values import Descent, find_keys, find_values
from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.data.request import requests_of
from factscope.errors import EditError
from factscope.model.forward.subject import buckets
from factscope.model.hooks import Patch, patched, record
from factscope.model.sites import Site
from factscope.model.weights import fingerprint
from helpers.models import TOY

FACTS = requests_of(
    (
        Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),
        Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris town"),
        Fact("c", "home", "Ze", "{} is", "Bern", "York"),
    )
)
CONTEXTS = ("{}", "I said. {}")
PROMPTS = RequestPrompts(FACTS, CONTEXTS)
KINDS = ("gpt2", "llama", "neox", "gemma3")
GENTLE = Descent(steps=4, learning_rate=0.05, clamp=100.0)


def plain_loss(model, fact, layer, delta, config, place):
    """The loss as the module's header says it, one prompt and one plain forward pass at a time."""
    site = Site("mlp_write" if place == "mlp" else "resid", layer)
    total = 0.0
    for prompt in target_prompts(model, fact, CONTEXTS, "auto"):
        tokens = torch.tensor([[*prompt.tokens, *prompt.answer_ids[:-1]]])
        patch = Patch(site, delta, positions=[prompt.subject_span[1] - 1], add=True)
        with patched(model, [patch]):
            logp = model(tokens)[0].log_softmax(-1)
        first = len(prompt.tokens) - 1
        total -= sum(float(logp[first + t, token]) for t, token in enumerate(prompt.answer_ids)) / len(
            prompt.answer_ids
        )
    essence = essence_prompt(model, fact, "auto")
    end = essence.subject_span[1] - 1
    clean = model(essence.tensor())[0, end].log_softmax(-1)
    with patched(model, [Patch(site, delta, positions=[end], add=True)]):
        drifted = model(essence.tensor())[0, end].log_softmax(-1)
    # as rome/compute_v.py calls it; the second argument is the distribution that the mean is over
    drift = torch.nn.functional.kl_div(clean, drifted, log_target=True, reduction="sum")
    return total / len(CONTEXTS) + config.kl_factor * float(drift)


@pytest.mark.parametrize("place", ["mlp", "hidden"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_batched_loss_is_the_one_of_plain_forward_passes(tiny, kind, place):
    model = tiny(kind)
    delta = torch.randn(len(FACTS), model.cfg.d_model, generator=torch.Generator().manual_seed(0)) * 0.5
    groups = values._groups(model, PROMPTS, 1)
    heavy = replace(GENTLE, kl_factor=10.0)  # at ROME's 1/16 these models drift too little to tell the KL's direction
    batched, *_ = values._losses(groups, delta, len(CONTEXTS), heavy, place)
    for number, fact in enumerate(FACTS):
        expected = plain_loss(model, fact, 1, delta[number], heavy, place)
        assert float(batched[number]) == pytest.approx(expected, abs=2e-4)  # float32 through four layers


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_slope_of_the_loss(tiny, kind):
    model = tiny(kind)
    groups = values._groups(model, RequestPrompts(FACTS[:1], CONTEXTS), 1)
    delta = torch.randn(1, model.cfg.d_model, generator=torch.Generator().manual_seed(0)) * 0.5
    loss = lambda d: values._losses(groups, d, 2, GENTLE, "mlp")  # noqa: E731
    _, gradient, *_ = loss(delta)
    step = 1e-2 * gradient / gradient.norm()
    slope = (loss(delta + step)[0] - loss(delta - step)[0]) / 2
    assert float(slope) == pytest.approx(float(gradient.norm() * 1e-2), rel=0.02)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_a_batch_gives_what_one_at_a_time_gives(tiny, kind):
    model = tiny(kind)
    together = find_values(model, PROMPTS, 1, GENTLE)
    for number, fact in enumerate(FACTS):
        alone = find_values(model, RequestPrompts([fact], CONTEXTS), 1, GENTLE)
        torch.testing.assert_close(together.delta[number], alone.delta[0], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(together.init[number], alone.init[0], atol=1e-5, rtol=1e-5)


def test_the_value_stays_in_its_ball_stops_in_time_and_the_last_step_only_reads(tiny):
    model = tiny("llama")
    tight = find_values(model, PROMPTS, 1, replace(GENTLE, clamp=0.1, learning_rate=1.0))
    assert (tight.delta.norm(dim=1) <= 0.1 * tight.init.norm(dim=1) * (1 + 1e-5)).all()
    assert tight.steps == (3, 3, 3)
    assert len(tight.losses) == 4
    lazy = find_values(model, PROMPTS, 1, replace(GENTLE, stop=100.0))
    assert not lazy.delta.any()
    assert lazy.steps == (0, 0, 0)


def test_finished_facts_leave_the_batch_and_the_others_go_on_alike(tiny):
    model = tiny("llama")
    config = replace(GENTLE, steps=8, learning_rate=0.3)
    full = find_values(model, PROMPTS, 1, config)
    stop = float(full.losses[3].min()) + 1e-4  # the best fact stops at step 3 or earlier
    some = find_values(model, PROMPTS, 1, replace(config, stop=stop))
    assert min(some.steps) < 7
    for number in (i for i, n in enumerate(some.steps) if n == 7):
        torch.testing.assert_close(some.delta[number], full.delta[number], atol=1e-3, rtol=1e-2)


def test_patience_ends_what_was_learned_at_so_many_readings_and_nothing_else(toy):
    """The toy gives its own answers from the start and never a foil, where no step is taken."""
    towns = load_facts(TOY / "toy_town.json", limit=2)
    known_one = replace(towns[0], answer=str(towns[0].foil), foil=towns[0].answer)
    prompts = RequestPrompts(requests_of((known_one, towns[1])))
    for patience, wanted in ((1, 0), (3, 2), (None, 5)):
        still = Descent(steps=6, learning_rate=0.0, stop=0.0, patience=patience)
        assert find_values(toy, prompts, 0, still).steps == (wanted, 5)


def test_a_value_that_goes_to_nan_is_told_with_its_step_and_changes_nothing(tiny):
    model = tiny("llama")
    before = fingerprint(model)
    with pytest.raises(EditError, match=r"fact 'a' went to NaN or infinity at step [01]"):
        find_values(
            model,
            RequestPrompts(FACTS[:1], CONTEXTS),
            1,
            replace(GENTLE, learning_rate=float("inf"), clamp=float("inf")),
        )
    assert fingerprint(model) == before


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_what_the_down_projection_reads(tiny, kind):
    model = tiny(kind)
    keys = find_keys(model, PROMPTS, 2)
    assert keys.each.shape == (3, 2, model.cfg.d_mlp)
    prompt = target_prompts(model, FACTS[0], CONTEXTS, "auto")[1]
    site = Site("mlp_hidden", 2)
    with record(model, [site]) as seen:
        model(prompt.tensor())
    torch.testing.assert_close(keys.each[0, 1], seen[site][0, prompt.subject_span[1] - 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(keys.mean(), keys.each.mean(1))


def test_memits_average_gives_the_bare_prompt_half():
    each = torch.tensor([[[0.0], [2.0], [4.0]]])
    assert values.Keys(each).halves().item() == pytest.approx(0.5 * 0 + 0.25 * 2 + 0.25 * 4)


def test_buckets_hold_every_row_once_and_merge_when_a_pass_costs_more_than_filling_up():
    lengths = [1] * 10 + [20] * 10 + [2] * 5
    for overhead in (0, 64, 10_000):
        groups = buckets(lengths, overhead)
        assert sorted(row for group in groups for row in group) == list(range(25))
    assert len(buckets(lengths, 0)) == 3
    assert len(buckets(lengths, 10_000)) == 1
