"""A sample of the random inputs: the same ones every time, and the falls that the campaign found."""

import pytest

from campaigns.fuzz import fuzz
from studies.commands import app

EACH = 2
SEED = 18


def test_a_sample_of_random_inputs_ends_well_or_with_a_sentence(tmp_path, toy, monkeypatch):
    usual = app.loader

    def loader(model, device, dtype, spread):
        own = "toy" in model and device in (None, "cpu") and dtype == "float32" and spread is None
        return (lambda: toy) if own else usual(model, device, dtype, spread)

    monkeypatch.setattr(app, "loader", loader)
    monkeypatch.setenv("FACTSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tried = list(fuzz.sample(tmp_path, EACH, SEED))
    fell = [fall for _, fall in tried if fall is not None]
    assert not fell, "\n".join(f"{fall.name}: {fall.words}; {fall.command}" for fall in fell)
    assert len(tried) >= 8 * EACH


@pytest.mark.parametrize("count", [50, 2000])
def test_inputs_are_the_same_for_the_same_seed(count):
    from campaigns.fuzz.grammar import PROMPTS

    assert fuzz.shares(count, {"a": (3, None), "b": (1, None)}) == {"a": count * 3 // 4, "b": count // 4}
    assert fuzz.drawn(PROMPTS, 20, SEED) == fuzz.drawn(PROMPTS, 20, SEED)
