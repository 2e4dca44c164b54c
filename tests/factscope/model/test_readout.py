"""From states to logits: the model's own on every architecture, linear where it must be, refused where it is not so."""

from typing import Any

import pytest
import torch

from factscope.errors import ModelError, PromptError
from factscope.model import readout as reading
from factscope.model.hooks import record
from factscope.model.readout import checked, rank, readout
from factscope.model.sites import Site

KINDS = ("gpt2", "llama", "neox", "gemma3", "gemma2", "granite", "cohere", "gptj")
WITHOUT_BIAS = ("llama", "granite", "cohere")  # in the final norm and the unembedding, and no cap


def states_and_logits(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    last = Site("resid", model.cfg.n_layers - 1)
    with torch.no_grad(), record(model, [last]) as seen:
        logits = model(torch.tensor([[0, 17, 200, 31, 5]]), use_cache=False)[0]
    return seen[last][0], logits


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_state_read_per_state_is_what_the_model_says(tiny: Any, kind: str) -> None:
    """Layer and RMS norms, gains of w and 1 + w, a bias in the unembedding, a multiplier, a soft cap."""
    model = tiny(kind)
    states, logits = states_and_logits(model)
    torch.testing.assert_close(readout(model).logits(states), logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(readout(model).logits(states[0]), logits[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_direct_effects_of_parts_add_up_and_are_differences_of_linear_logits(tiny: Any, kind: str) -> None:
    read, (states, _) = readout(tiny(kind)), states_and_logits(tiny(kind))
    final, part = states[-1], torch.randn(states.shape[-1], generator=torch.Generator().manual_seed(0))
    whole = read.direct(final, final, 7)
    torch.testing.assert_close(read.direct(part, final, 7) + read.direct(final - part, final, 7), whole)
    linear = read.linear(final, final)
    torch.testing.assert_close(whole, linear[7] - linear.mean(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", WITHOUT_BIAS)
def test_without_bias_and_cap_the_two_readings_of_the_final_state_are_one(tiny: Any, kind: str) -> None:
    """So the multiplier of Granite and Cohere is in direct effects too."""
    read, (states, logits) = readout(tiny(kind)), states_and_logits(tiny(kind))
    torch.testing.assert_close(read.linear(states, states), logits, atol=1e-5, rtol=1e-5)


def test_the_cap_holds_per_state_and_the_bias_is_left_out_of_final_scale(tiny: Any) -> None:
    capped, (states, logits) = readout(tiny("gemma2")), states_and_logits(tiny("gemma2"))
    assert logits.abs().max() <= 2.0
    linear = capped.linear(states, states)
    torch.testing.assert_close(2.0 * torch.tanh(linear / 2.0), logits, atol=1e-5, rtol=1e-5)
    biased, (states, logits) = readout(tiny("gptj")), states_and_logits(tiny("gptj"))
    model = tiny("gptj")
    shift = model.unembed(model.ln_final.original_component.bias[None, None])[0, 0]  # both biases at once
    torch.testing.assert_close(biased.linear(states, states) + shift, logits, atol=1e-4, rtol=1e-4)


def test_a_model_that_does_more_than_we_know_is_refused_in_words(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof compares with the model's own logits, so that another last step is noticed whatever it is."""
    model = tiny("llama")
    monkeypatch.setattr(reading, "_PROOFS", {})
    own = type(model.adapter).apply_output_logits_transform
    monkeypatch.setattr(
        type(model.adapter), "apply_output_logits_transform", lambda self, logits: own(self, logits) * 1.1
    )
    with pytest.raises(ModelError, match="do not give the model's own logits"):
        readout(model)


def test_a_norm_that_cannot_be_taken_apart_gives_no_direct_effects(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    states, logits = states_and_logits(model)
    monkeypatch.setattr(reading, "_PROOFS", {})
    monkeypatch.setattr(reading.NormParts, "centre", lambda _, states: states - states.mean(-1, keepdim=True))
    read = readout(model)
    torch.testing.assert_close(read.logits(states), logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match="neither LayerNorm nor RMSNorm"):
        read.direct(states, states, 3)


def test_a_tie_counts_against_the_answer_and_so_does_a_nan() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, float("nan"), 0.0, 2.0]])
    assert rank(logits, 0).tolist() == [1, 4, 3]
    assert rank(logits, 1).tolist() == [4, 4, 4]
    assert rank(logits, torch.tensor([2, 3, 3])).tolist() == [2, 4, 2]
    assert int(rank(logits[0], 3)) == 4


def test_a_norm_by_another_name_is_refused() -> None:
    assert checked("final-scale") == "final-scale"
    with pytest.raises(PromptError, match="choose per-state or final-scale"):
        checked("last")
