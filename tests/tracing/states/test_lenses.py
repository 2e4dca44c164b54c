"""The Jacobian lens is TransformerLens's; it and the tuned lens are the logit lens at the end, and resume."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.tools.analysis import JacobianLens as Theirs

import factscope as fs
from factscope.data.load import load_facts
from factscope.errors import UserError
from factscope.model.prompts import prompt_of
from factscope.model.readout import readout
from factscope.plots.show import pictures
from factscope.plots.specs import Heatmap
from helpers.models import TOY
from helpers.results import check_result
from tracing.logit_lens import lens
from tracing.states import jacobian_lens as fitting
from tracing.states import tuned_lens as tuning
from tracing.states.clean import CleanRun
from tracing.states.jacobian import jacobians
from tracing.states.jacobian_lens import JacobianConfig, jacobian_lens
from tracing.states.lenses import lenses
from tracing.states.tuned_lens import TunedConfig, tuned_lens

QUICK = JacobianConfig(texts=2, held_out=1, length=10, skip=2)
TRAINED = TunedConfig(documents=12, held_out=4, length=24, steps=30, rows=32, rate=3e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_mean_jacobian_is_that_of_transformer_lens(tiny: Any, name: str) -> None:
    model, text, skip = tiny(name), "In Vey Mira Hallin lives in Brask and Oda lives in Vey", 2
    theirs = Theirs.fit(model, [text], corpus="one sentence", skip_first_positions=skip, show_progress=False)
    row = model.to_tokens(text)[0].tolist()
    found = jacobians(CleanRun.of(model, row[:-1]), skip, summed=True).mean(2)
    for layer in theirs.source_layers:
        torch.testing.assert_close(found[layer + 1], theirs.jacobians[layer].float(), atol=1e-4, rtol=1e-3)


def test_at_the_end_it_is_the_logit_lens_and_the_logit_lens_is_the_other_one(toy: Any, tmp_path: Path) -> None:
    prompt = prompt_of(toy, load_facts(TOY / "toy_town.json")[0])
    fitted = jacobian_lens(toy, QUICK, folder=tmp_path / "fit")
    found, plain = lenses(toy, prompt, fitted), lens(toy, prompt)
    torch.testing.assert_close(found.log_probability[0], plain.log_probability, atol=1e-4, rtol=1e-4)
    assert torch.equal(found.rank[0], plain.rank)
    assert found.top[0] == plain.top
    assert torch.equal(found.log_probability[1, -1], found.log_probability[0, -1])
    assert found.top[1][-1] == found.top[0][-1]
    assert torch.all(found.kl[:, -1].abs() < 1e-4)
    assert torch.all(fitted.kl[:, -1].abs() < 1e-4)
    assert torch.all(found.kl > -1e-4)
    assert not torch.allclose(found.log_probability[1, 1], found.log_probability[0, 1])
    assert sum(isinstance(spec, Heatmap) and spec.cell_labels is not None for spec in pictures(found)) == 2
    check_result(found, tmp_path, "LensesResult")
    assert "gurnee2026verbalizable" in fs.cite(found)


def test_a_stopped_fit_goes_on_to_the_same_bits_and_is_kept(toy: Any, tmp_path: Path, monkeypatch: Any) -> None:
    whole = jacobian_lens(toy, QUICK, folder=tmp_path / "whole")
    asked: list[int] = []
    real = fitting.jacobians

    def stopping(*given: Any, **more: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(*given, **more)

    monkeypatch.setattr(fitting, "jacobians", stopping)
    with pytest.raises(KeyboardInterrupt):
        jacobian_lens(toy, QUICK, folder=tmp_path / "stopped")
    again = jacobian_lens(toy, QUICK, folder=tmp_path / "stopped")
    assert len(asked) == 3  # the first text was not asked again
    assert torch.equal(again.matrices, whole.matrices)
    assert torch.equal(again.kl, whole.kl)
    jacobian_lens(toy, QUICK, folder=tmp_path / "stopped")
    assert len(asked) == 3
    assert [file.name for file in (tmp_path / "stopped").iterdir()] == ["lens.safetensors"]


def test_it_is_kept_by_the_model_and_the_settings(toy: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path))
    one = jacobian_lens(toy, QUICK)
    other = jacobian_lens(toy, replace(QUICK, seed=1))
    assert len(list((tmp_path / "lenses").iterdir())) == 2
    assert not torch.allclose(one.matrices, other.matrices)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"texts": 0}, "texts must be 1 or more"),
        ({"length": 5}, "length must be 6 or more"),
        ({"length": 100}, "longer than the model reads, 64"),
        ({"texts": 5000}, "the shipped facts do not fill"),
    ],
)
def test_a_mistake_is_one_sentence(toy: Any, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as seen:
        jacobian_lens(toy, JacobianConfig(**change), folder=tmp_path)
    assert words in str(seen.value)


def test_a_tuned_lens_begins_as_the_logit_lens_and_then_comes_nearer_to_the_model(toy: Any, tmp_path: Path) -> None:
    prompt = prompt_of(toy, load_facts(TOY / "toy_town.json")[0])
    fitted = jacobian_lens(toy, QUICK, folder=tmp_path / "fit")
    untrained = tuned_lens(toy, replace(TRAINED, steps=0), folder=tmp_path / "untrained")
    assert torch.equal(untrained.kl[0], untrained.kl[1])
    trained = tuned_lens(toy, TRAINED, folder=tmp_path / "trained")
    assert torch.equal(trained.kl[0], untrained.kl[0])
    assert torch.all(trained.kl[1, :-1] < 0.9 * trained.kl[0, :-1])
    assert torch.all(trained.kl[:, -1].abs() < 1e-4)
    same, other = (lenses(toy, prompt, fitted, each) for each in (untrained, trained))
    assert torch.equal(same.log_probability[2], same.log_probability[0])
    assert torch.equal(other.log_probability[:2], same.log_probability[:2])
    assert torch.equal(other.log_probability[2, -1], other.log_probability[0, -1])  # the last state is the model's
    assert not torch.allclose(other.log_probability[2, :-1], other.log_probability[0, :-1])
    torch.testing.assert_close(same.held_out[2], fitted.kl[0])
    assert sum(isinstance(spec, Heatmap) and spec.cell_labels is not None for spec in pictures(other)) == 3
    check_result(other, tmp_path, "LensesResult")
    assert "belrose2023eliciting" in fs.cite(other)
    assert "belrose2023eliciting" not in fs.cite(lenses(toy, prompt, fitted))


def test_a_tuned_lens_finds_the_map_that_was_put_before_it(toy: Any) -> None:
    """States that are the final ones, turned and shifted: undoing that is the best that a translator can do."""
    width = int(toy.cfg.d_model)
    generator = torch.Generator().manual_seed(0)
    final = torch.randn(512, width, generator=generator)
    map_, shift = torch.eye(width) + 0.3 * torch.randn(width, width, generator=generator) / width**0.5, 0.3
    states = torch.linalg.solve(map_, (final - shift).T).T
    begin = (torch.eye(width), torch.zeros(width))
    config = TunedConfig(steps=200, rows=128, rate=3e-3)
    matrix, bias = tuning._trained(toy, config, states[:448], final[:448], begin)
    own, before, after = (
        readout(toy).logits(x[448:]).log_softmax(-1) for x in (final, states, states @ matrix.T + bias)
    )
    far, near = ((own.exp() * (own - each)).sum(-1).mean().item() for each in (before, after))
    assert near < 0.1 * far


def test_a_stopped_training_goes_on_to_the_same_bits(toy: Any, tmp_path: Path, monkeypatch: Any) -> None:
    quick = replace(TRAINED, steps=2)
    whole = tuned_lens(toy, quick, folder=tmp_path / "whole")
    asked: list[int] = []
    real = tuning._trained

    def stopping(*given: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(tuning, "_trained", stopping)
    with pytest.raises(KeyboardInterrupt):
        tuned_lens(toy, quick, folder=tmp_path / "stopped")
    again = tuned_lens(toy, quick, folder=tmp_path / "stopped")
    assert len(asked) == 1 + len(whole.matrices)  # the last layer was not trained again
    assert torch.equal(again.matrices, whole.matrices)
    assert torch.equal(again.biases, whole.biases)
    assert torch.equal(again.kl, whole.kl)
    assert [file.name for file in (tmp_path / "stopped").iterdir()] == ["lens.safetensors"]
    for wrong, words in (
        ({"documents": 0}, "documents must be 1"),
        ({"rate": 0.0}, "above 0"),
        ({"length": 1}, "length"),
    ):
        with pytest.raises(UserError, match=words):
            TunedConfig(**wrong)
    with pytest.raises(UserError, match="too few for 600"):
        tuned_lens(toy, replace(quick, documents=600), folder=tmp_path / "none")
