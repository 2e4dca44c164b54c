"""SimIE: the closed form against the recursion and the least squares it solves, its limits, and edits of a model."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from editing import compute as computing
from editing.delta import Delta
from editing.edit import Edit
from editing.merge.simie import Config, joined, simie
from editing.methods.fine_tuning import ft_m, lora
from editing.requests import target_prompts
from factscope.data.fact import Fact
from factscope.data.request import EditRequest, requests_of
from factscope.errors import EditError
from factscope.model.forward.batched import logits_at
from helpers.moments import text_moments

WIDTH, OUT = 12, 7
FACTS = requests_of(
    (
        Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),
        Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris"),
        Fact("c", "home", "Ze", "{} is", "Bern", "York"),
    )
)


def some(seed: int, *tokens: int) -> tuple[list[Tensor], list[Delta]]:
    generator = torch.Generator().manual_seed(seed)
    keys = [torch.randn(count, WIDTH, generator=generator, dtype=torch.float64) for count in tokens]
    deltas = [
        Delta("w", torch.randn(2, OUT, generator=generator), torch.randn(WIDTH, 2, generator=generator)) for _ in tokens
    ]
    return keys, deltas


def total(parts: list[Delta]) -> Tensor:
    return torch.stack([part.dense() for part in parts]).sum(0)


def test_the_closed_form_is_the_recursion_and_meets_the_normal_equations() -> None:
    """Edit after edit, P += K'K and W += P^-1 K'K (D - W), ends where the sum over all edits is solved at once."""
    keys, deltas = some(0, 5, 9, 4)
    share = 0.1
    ridge = share * float(torch.cat(keys).square().sum()) / WIDTH
    within, now = ridge * torch.eye(WIDTH, dtype=torch.float64), torch.zeros(WIDTH, OUT, dtype=torch.float64)
    for own, delta in zip(keys, deltas, strict=True):
        within = within + own.T @ own
        now = now + torch.linalg.solve(within, own.T @ own @ (delta.dense() - now))
    found = total(joined(keys, deltas, share))
    torch.testing.assert_close(found, now, atol=1e-6, rtol=1e-5)  # the factors are saved in float32
    slope = sum(own.T @ own @ (found - delta.dense()) for own, delta in zip(keys, deltas, strict=True)) + ridge * found
    assert float(slope.abs().max()) < 1e-4 * float((within @ found).abs().max())


def test_without_a_ridge_each_edit_is_exact_on_its_own_tokens() -> None:
    keys, deltas = some(1, 4, 3, 4)  # 11 tokens in 12 dimensions: nothing is asked for twice
    found = total(joined(keys, deltas, 1e-10))
    for own, delta in zip(keys, deltas, strict=True):
        torch.testing.assert_close(own @ found, own @ delta.dense(), atol=1e-4, rtol=1e-4)


def test_one_edit_is_projected_on_its_keys_and_is_itself_where_they_span_everything() -> None:
    (few,), (delta,) = some(2, 5)
    across = torch.linalg.qr(few.T).Q
    torch.testing.assert_close(
        total(joined([few], [delta], 1e-10)), across @ across.T @ delta.dense(), atol=1e-4, rtol=1e-4
    )
    (many,), _ = some(3, 3 * WIDTH)
    torch.testing.assert_close(total(joined([many], [delta], 1e-10)), delta.dense(), atol=1e-4, rtol=1e-4)


def test_a_ridge_without_end_leaves_nothing_and_order_and_form_do_not_matter() -> None:
    keys, deltas = some(4, 5, 6)
    assert float(total(joined(keys, deltas, 1e9)).abs().max()) < 1e-7
    forth, back = total(joined(keys, deltas, 0.01)), total(joined(keys[::-1], deltas[::-1], 0.01))
    torch.testing.assert_close(forth, back, atol=1e-6, rtol=1e-5)
    whole = [Delta("w", delta.dense(torch.float32)) for delta in deltas]
    torch.testing.assert_close(total(joined(keys, whole, 0.01)), forth, atol=1e-5, rtol=1e-4)
    measure = 3 * torch.eye(WIDTH, dtype=torch.float64)  # only the directions of A matter: its size is in lambda
    torch.testing.assert_close(total(joined(keys, deltas, 0.01, measure)), forth, atol=1e-6, rtol=1e-5)


def separate(model: Any) -> list[Edit]:
    config = lora.Config(layers=(0, 1), rank=2, steps=25, learning_rate=0.02)
    return computing.compute_each("lora", model, FACTS, config, shown=False)


def target_losses(model: Any) -> list[float]:
    rows = [target_prompts(model, fact, ("{}",), "auto")[0] for fact in FACTS]
    tokens = [(*p.tokens, *p.answer_ids[:-1]) for p in rows]
    logits = logits_at(model, tokens, [range(len(p.tokens) - 1, len(t)) for p, t in zip(rows, tokens, strict=True)])
    return [
        float(-one.log_softmax(-1).gather(1, torch.tensor(p.answer_ids)[:, None]).mean())
        for one, p in zip(logits, rows, strict=True)
    ]


def loss_of(model: Any, edit: Edit) -> list[float]:
    with edit.applied(model):
        return target_losses(model)


def test_independent_edits_of_a_model_are_one_thin_edit_and_each_is_taken_out_exactly(tiny: Any) -> None:
    model = tiny("llama")
    edits = separate(model)
    one = simie(model, edits)
    assert [len(delta.right) for delta in one.deltas] == [6, 6]
    assert one.requests == FACTS
    assert list(one.config["edits"]) == [edit.digest for edit in edits]
    before, together = target_losses(model), loss_of(model, one)
    assert all(now < then - 0.5 for now, then in zip(together, before, strict=True))
    rest = simie(model, [edits[0], edits[2]])
    assert simie(model, [edit for edit in edits if edit.digest != edits[1].digest]).digest == rest.digest
    with_moments = simie(model, edits, moments=text_moments(model, [0, 1]))
    assert with_moments.moments != one.moments == "identity"
    assert with_moments.digest != one.digest


def test_what_was_not_computed_apart_is_refused(tiny: Any) -> None:
    model = tiny("llama")
    first, second, _ = separate(model)
    above = replace(second, below=(first.digest,), digest="")
    same = replace(
        second, requests=(EditRequest.of(Fact("d", "home", "Foo Bar", "{} lives in", "Rome", "Bern")),), digest=""
    )
    text = replace(second, deltas=(), preface="A text.\n", digest="")
    for wrong, said in ((above, "on top of others"), (same, "has two targets"), (text, "changes no weight")):
        with pytest.raises(EditError, match=said):
            simie(model, [first, wrong])
    with first.applied(model), pytest.raises(EditError, match="in place out first"):
        simie(model, [first, second])
    with pytest.raises(EditError, match="made for another model"):
        simie(tiny("gpt2"), [first, second])
    with pytest.raises(EditError, match="the share must be above 0"):
        Config(share=0.0)
    whole = computing.compute("ft_m", model, FACTS[1:2], ft_m.Config(layer=1, steps=4), shown=False)
    assert not simie(model, [first, whole]).deltas[1].low_rank
