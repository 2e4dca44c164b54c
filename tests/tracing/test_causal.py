"""Causal tracing: identities, two engines, and a third implementation that knows only plain transformers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from factscope.data.load import load_facts
from factscope.errors import NoGap, PromptError, TokenMismatch, UserError
from factscope.model.metrics import METRICS, Target, metric
from factscope.model.prompts import make_prompt, prompt_of, with_answer
from factscope.runs.store import same
from helpers.models import TOY
from tracing import corruption as corrupt
from tracing.causal import Config, cells_of, trace, window_of
from tracing.pages.trace import doubts
from tracing.results import KINDS

SHAPES = ("gpt2", "llama", "neox", "gemma3")
EVERYTHING = Config(sites=tuple(KINDS), samples=3, noise_level=2.0, window=3, metric="kl")
FLOAT32: dict[str, Any] = {"atol": 3e-6, "rtol": 1e-3}  # four layers in float32, summed in another order


def _town(model: Any, start: str = "auto") -> Any:
    return prompt_of(model, load_facts(TOY / "toy_town.json")[0], start=start)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("corruption", ["noise", "swap"])
def test_the_fast_engine_gives_the_reference_numbers(tiny: Any, name: str, corruption: str) -> None:
    model = tiny(name)
    prompt = make_prompt(model, "In Vey [Mira Hallin] lives in")
    swaps = ("Pello Hallin", "Ilse Hallin") if corruption == "swap" else ()
    config = replace(EVERYTHING, corruption=corruption, swaps=swaps)
    slow, fast = (trace(model, prompt, replace(config, engine=engine)) for engine in ("reference", "fast"))
    small = trace(model, prompt, replace(config, chunk_tokens=40))  # other batches, forks cut in other places
    for one, two, three in zip(slow.grids, fast.grids, small.grids, strict=True):
        assert float(one.effect.abs().max()) > 1e-4, "an effect to compare"
        torch.testing.assert_close(two.effect, one.effect, **FLOAT32)
        torch.testing.assert_close(two.error, one.error, **FLOAT32)
        torch.testing.assert_close(three.effect, one.effect, **FLOAT32)


def test_the_same_trace_twice_is_bitwise_the_same(toy: Any) -> None:
    one, two = (trace(toy, _town(toy)) for _ in range(2))
    assert same(one.grids, two.grids)


@pytest.mark.parametrize("kind", ["resid", "severed_mlp", "severed_attn"])
def test_restoring_the_last_state_restores_everything(toy: Any, kind: str) -> None:
    result = trace(toy, _town(toy), Config(sites=(kind,)))
    assert result.grid(kind).effect[-1, -1] == pytest.approx(result.total_effect, abs=1e-6)


def test_a_window_over_all_layers_at_every_token_would_restore_the_last_token(toy: Any) -> None:
    """Attention and MLP outputs of all layers at the last token, clean: only its embedding is not theirs to restore,
    and that is clean already."""
    prompt = _town(toy)
    wide = trace(toy, prompt, Config(sites=("attn",), window=100))
    assert torch.allclose(wide.grid("attn").effect[0], wide.grid("attn").effect[-1], atol=1e-6)  # one window for all


def test_nothing_changes_before_the_subject(toy: Any) -> None:
    prompt = make_prompt(toy, "In Vey [Mira Hallin] lives in")
    result = trace(toy, prompt, Config(noise=5.0, metric="kl"))
    first = prompt.subject_span[0]
    assert first > 1
    for grid in result.grids:
        assert torch.all(grid.effect[:, :first] == 0)
        assert torch.any(grid.effect[:, first:] != 0)


def test_windows_are_romes() -> None:
    assert [tuple(window_of(layer, 10, 30)) for layer in (0, 5, 29)] == [
        tuple(range(5)),
        tuple(range(10)),
        tuple(range(24, 30)),
    ]
    assert list(window_of(3, 1, 5)) == [3]
    assert list(window_of(3, 3, 5)) == [2, 3, 4]


def test_noise_is_romes_stream_scaled_and_on_the_subject_alone(toy: Any) -> None:
    prompt = _town(toy)
    made = corrupt.noise(toy, prompt, samples=4, multiple=2.0, seed=1)
    draws = np.random.RandomState(1).randn(4, len(prompt.subject_positions), 48)
    level = 2.0 * corrupt.embedding_deviation(toy)
    assert made.level == pytest.approx(level)
    torch.testing.assert_close(made.noise, torch.from_numpy(draws).float() * level)
    given = corrupt.noise(toy, prompt, samples=4, level=level, draws=torch.from_numpy(draws).float())
    assert torch.equal(given.noise, made.noise)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        corrupt.noise(toy, prompt, samples=3, draws=torch.zeros(4, 2, 48))


def test_effects_are_paired_means_with_their_standard_errors(toy: Any) -> None:
    """With one sample each, the traces of three draws have the mean and error of the trace that holds all three."""
    prompt = _town(toy)
    together = corrupt.noise(toy, prompt, samples=3, level=1.5, seed=4)
    config = Config(sites=("mlp",), metric="log_probability", window=2)
    whole = trace(toy, prompt, config, corruption=together)
    assert together.noise is not None
    parts = []
    for i in range(3):
        alone = replace(together, tokens=together.tokens[i : i + 1], noise=together.noise[i : i + 1], foils=(None,))
        try:
            parts.append(trace(toy, prompt, config, corruption=alone).grid("mlp").effect)
        except NoGap:
            pytest.fail("choose draws that hurt")
    stacked = torch.stack(parts)
    torch.testing.assert_close(whole.grid("mlp").effect, stacked.mean(0), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(whole.grid("mlp").error, stacked.std(0) / 3**0.5, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_plain_transformers_by_romes_recipe_gives_the_same_scores(tiny: Any, name: str) -> None:
    """Meng et al.'s procedure, written again on the bare Hugging Face modules: no TransformerLens, no tail."""
    model = tiny(name)
    prompt = make_prompt(model, "In Vey [Mira Hallin] lives in")
    result = trace(model, prompt, Config(noise_level=1.5, samples=4, window=2))
    bare = model.original_model
    inner = bare.transformer if name == "gpt2" else bare.model
    blocks = inner.h if name == "gpt2" else inner.layers
    embedding = inner.wte if name == "gpt2" else inner.embed_tokens
    attention = "attn" if name == "gpt2" else "self_attn"
    a, b = prompt.subject_span
    noise = torch.from_numpy(np.random.RandomState(1).randn(4, b - a, 32)).float() * 1.5
    tokens = prompt.tensor().repeat(5, 1)
    answer = result.prompt.answer_ids[0]

    def run(restored: list[Any], position: int) -> float:
        def corrupting(_: Any, __: Any, out: Tensor) -> Tensor:
            out = out.clone()
            out[1:, a:b] += noise
            return out

        def restoring(_: Any, __: Any, out: Any) -> Any:
            state = (out[0] if isinstance(out, tuple) else out).clone()
            state[1:, position] = state[0, position]
            return (state, *out[1:]) if isinstance(out, tuple) else state

        handles = [embedding.register_forward_hook(corrupting)]
        handles += [module.register_forward_hook(restoring) for module in restored]
        try:
            with torch.no_grad():
                return float(torch.softmax(bare(tokens).logits[1:, -1], -1)[:, answer].mean())
        finally:
            for handle in handles:
                handle.remove()

    assert float(result.corrupted.mean()) == pytest.approx(run([], 0), abs=1e-6)
    for position in (a, b - 1, len(prompt.tokens) - 1):
        for layer in (0, 2, 3):
            window = [blocks[i] for i in range(max(0, layer - 1), min(4, layer + 1))]
            cases = {
                "resid": [blocks[layer]],
                "mlp": [block.mlp for block in window],
                "attn": [getattr(block, attention) for block in window],
            }
            for kind, modules in cases.items():
                expected = run(modules, position)
                assert float(result.restored(kind)[layer, position]) == pytest.approx(expected, abs=1e-6), kind


def test_the_answer_is_the_models_own_unless_given(toy: Any) -> None:
    fact = load_facts(TOY / "toy_town.json")[0]
    own = trace(toy, make_prompt(toy, fact.prompt, subject=fact.subject), Config(sites=("resid",), samples=2))
    assert own.prompt.answer == f" {fact.answer}" == own.predicted
    assert "own prediction" in own.prompt.answer_from


@pytest.mark.parametrize("name", METRICS)
def test_effects_are_positive_where_restoring_helps_in_every_metric(toy: Any, name: str) -> None:
    result = trace(toy, _town(toy), Config(sites=("resid",), metric=name))
    assert result.total_effect > 0
    assert result.grid("resid").effect[-1, -1] == pytest.approx(result.total_effect, rel=1e-4)


def test_the_noise_follows_the_embeddings_that_there_are(tiny: Any) -> None:
    model = tiny("llama")
    before = corrupt.embedding_deviation(model)
    assert corrupt.embedding_deviation(model) == before
    with torch.no_grad():
        for weight in model.embed.parameters():
            weight.mul_(2.0)
    assert corrupt.embedding_deviation(model) == pytest.approx(2 * before, rel=1e-5)
    with torch.no_grad():
        for weight in model.embed.parameters():
            weight.div_(2.0)
    assert corrupt.embedding_deviation(model) == pytest.approx(before, rel=1e-5)


def test_fewer_swapped_subjects_than_were_asked_for_are_told(toy: Any) -> None:
    result = trace(toy, _town(toy), Config(sites=("resid",), samples=4))
    fewer = replace(result, settings=result.settings | {"corruption": "swap", "samples": 10})
    assert "Only 4 other subjects fit, of the 10 samples asked for" in doubts(fewer)
    assert not any("other subjects fit" in doubt for doubt in doubts(result))


def test_metrics_on_paper() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [np.log(3.0), 0.0, 0.0, 0.0]], dtype=torch.float64)
    target = Target(0, 1, logits[0])
    assert metric("probability")(logits, target).tolist() == pytest.approx([0.25, 0.5])
    assert metric("log_probability")(logits, target).tolist() == pytest.approx([np.log(0.25), np.log(0.5)])
    assert metric("logit_difference")(logits, target).tolist() == pytest.approx([0.0, np.log(3.0)])
    # KL(uniform over 4 || (1/2, 1/6, 1/6, 1/6)) = 1/4 ln(1/2) + 3/4 ln(3/2)
    assert metric("kl")(logits, target).tolist() == pytest.approx([0.0, 0.25 * np.log(0.5) + 0.75 * np.log(1.5)])


def test_swapped_subjects_are_of_the_relation_and_bring_their_answers(toy: Any) -> None:
    relation = load_facts(TOY / "toy_town.json")
    prompt = _town(toy)
    made = corrupt.swap(toy, prompt, samples=4, relation=relation)
    answers = {fact.subject: with_answer(toy, prompt, fact.answer, "fact").answer_ids[0] for fact in relation}
    assert len(made.subjects) == 4
    for subject, foil in zip(made.subjects, made.foils, strict=True):
        assert subject != prompt.subject
        assert foil == answers[subject] != prompt.answer_ids[0]
    result = trace(toy, replace(prompt, foil=None, foil_ids=()), Config(metric="logit_difference"), corruption=made)
    assert result.swapped == made.subjects
    assert result.grid("resid").effect[-1, -1] == pytest.approx(result.total_effect, rel=1e-4)


def test_a_corruption_that_does_not_hurt_is_no_gap(toy: Any) -> None:
    prompt = _town(toy)
    still = corrupt.noise(toy, prompt, level=0.0)
    with pytest.raises(NoGap, match="does not hurt"):
        trace(toy, prompt, corruption=still)


def test_swaps_that_cannot_be_made_are_refused(toy: Any) -> None:
    prompt = _town(toy)
    with pytest.raises(PromptError, match="no shipped fact"):
        corrupt.swap(toy, prompt)
    with pytest.raises(TokenMismatch):
        corrupt.swap(toy, prompt, subjects=("Mira",))
    with pytest.raises(PromptError, match="no other subject"):
        corrupt.swap(toy, prompt, relation=load_facts(TOY / "toy_town.json")[:1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sites": ("residual",)}, "no site"),
        ({"sites": ()}, "no site"),
        ({"corruption": "blur"}, "noise or swap"),
        ({"samples": 0}, "at least 1"),
        ({"sites": ("mlp", "attn", "mlp")}, "a site is there twice in mlp, attn, mlp"),
        ({"metric": "accuracy"}, "no metric"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Config(**options)


def test_logit_difference_needs_a_foil(toy: Any) -> None:
    prompt = replace(_town(toy), foil=None, foil_ids=())
    with pytest.raises(UserError, match="--foil"):
        trace(toy, prompt, Config(metric="logit_difference"))


def test_progress_counts_every_cell(toy: Any) -> None:
    prompt, config = _town(toy), Config(sites=("resid", "head"), samples=1)
    seen: list[int] = []
    trace(toy, prompt, config, advance=seen.append)
    assert sum(seen) == cells_of(toy, prompt, config)


def test_a_severed_trace_differs_from_the_plain_one_by_what_was_cut(toy: Any) -> None:
    """Below the top layer, freezing later MLPs of the token changes effects; at the top there is nothing later."""
    result = trace(toy, _town(toy), Config(sites=("resid", "severed_mlp")))
    plain, severed = result.grid("resid").effect, result.grid("severed_mlp").effect
    assert torch.allclose(plain[-1], severed[-1], atol=1e-6)
    assert (plain[0] - severed[0]).abs().max() > 0.01
