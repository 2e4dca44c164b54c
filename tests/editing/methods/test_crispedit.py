"""CrispEdit: its change lies flat, one edit after another as well, and it learns within that."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from editing import compute as computing
from editing.edit import remembered
from editing.methods.fine_tuning import crispedit, ft_m
from editing.solve.curvature import Flat, slopes_of_text
from factscope.data.fact import Fact
from factscope.errors import EditError
from helpers.moments import text_moments

FACTS = (
    Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),
    Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris"),
)
CONFIG = crispedit.Config(layer=1, steps=6, stop=0.0, energy=0.6)


def made(model: Any, facts: Any = FACTS, config: Any = CONFIG, **how: Any) -> Any:
    how = {"moments": text_moments(model, [1])} | how
    return computing.compute("crispedit", model, facts, config, shown=False, **how)


def test_the_change_lies_flat_and_the_facts_are_learned_in_it(tiny: Any) -> None:
    model = tiny("llama")
    moments, edit = text_moments(model, [1]), made(model)
    flat = Flat(moments.of(1), slopes_of_text(model, 1, moments).matrix, CONFIG.energy)
    change = edit.deltas[0].dense(torch.float32)
    torch.testing.assert_close(flat(change), change, atol=1e-6, rtol=1e-4)
    assert edit.curve is not None
    assert float(edit.curve[-1].mean()) < float(edit.curve[0].mean())
    assert "lie flat" in edit.notes[0]


def test_without_anything_steep_it_is_ft_m_but_for_one_direction(tiny: Any) -> None:
    model = tiny("llama")
    one = made(model, config=replace(CONFIG, energy=1e-12)).deltas[0].dense()
    other = ft_m.Config(layer=1, steps=6, stop=0.0)
    whole = computing.compute("ft_m", model, FACTS, other, shown=False).deltas[0].dense()
    assert float((one - whole).norm()) < 0.2 * float(whole.norm())


def test_the_next_edit_counts_what_this_one_read(tiny: Any) -> None:
    model = tiny("llama")
    moments = text_moments(model, [1])
    first = made(model, FACTS[:1])
    reads, slopes = (remembered([first], f"crispedit.1.{what}") for what in ("reads", "slopes"))
    assert reads is not None
    assert slopes is not None
    assert len(reads) == len(slopes)
    alone = made(model, FACTS[1:])
    with first.applied(model):
        after = made(model, FACTS[1:], moments=moments)
    text = slopes_of_text(model, 1, moments)
    a = (moments.of(1) * moments.tokens + reads.double().T @ reads.double()) / (moments.tokens + len(reads))
    slopes = slopes.double()
    b = (text.matrix.double() * text.tokens + slopes.T @ slopes) / (text.tokens + len(slopes))
    change = after.deltas[0].dense(torch.float32)
    torch.testing.assert_close(Flat(a, b, CONFIG.energy)(change), change, atol=1e-6, rtol=1e-4)
    assert not torch.equal(alone.deltas[0].dense(), after.deltas[0].dense())


def test_bad_input_is_one_sentence(tiny: Any) -> None:
    with pytest.raises(EditError, match="needs moments"):
        made(tiny("llama"), moments=None)
    with pytest.raises(EditError, match="between 0"):
        crispedit.Config(energy=1.0)
