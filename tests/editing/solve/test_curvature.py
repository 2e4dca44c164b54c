"""The curvature of ordinary text, against plain transformers, and what the projection on its flat part keeps."""

from typing import Any

import pytest
import torch
from torch import Tensor

from editing.solve.curvature import Flat, SlopeMoment, slopes, slopes_of_text
from factscope.model.bridge import info
from helpers.architectures import plain
from helpers.moments import text_moments


def spread(width: int, seed: int) -> Tensor:
    """A second moment whose eigenvalues are of many sizes."""
    rows = torch.randn(4 * width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = rows * torch.logspace(0, -2, width, dtype=torch.float64)
    return rows.T @ rows / len(rows)


A, B = spread(7, 0), spread(5, 1)


@pytest.mark.parametrize("energy", [0.3, 0.9, 0.999])
def test_the_projection_keeps_what_lies_flat(energy: float) -> None:
    flat, change = Flat(A, B, energy), torch.randn(7, 5, generator=torch.Generator().manual_seed(2))
    other = torch.randn(7, 5, generator=torch.Generator().manual_seed(3))
    inside = flat(change)
    torch.testing.assert_close(flat(inside), inside, atol=1e-5, rtol=1e-4)
    assert float((other * inside).sum()) == pytest.approx(float((flat(other) * change).sum()), abs=1e-5)
    steep = torch.trace(inside.double() @ B @ inside.double().T @ A)
    assert float(steep) <= flat.limit * float(inside.double().norm() ** 2) * (1 + 1e-6)
    steeper = torch.outer(flat.a, flat.b)[flat.kept == 0].sum()  # all that may not move carries the share, and no less
    assert float(steeper) >= energy * float(torch.outer(flat.a, flat.b).sum()) * (1 - 1e-9)


def test_no_share_leaves_all_but_the_steepest_direction_and_the_whole_leaves_nothing() -> None:
    assert Flat(A, B, 1e-9).kept.sum() == 34
    assert not Flat(A, B, 1 - 1e-15).kept.any()


def test_slopes_are_those_of_plain_transformers(tiny: Any) -> None:
    model, rows = tiny("llama"), [[5, 6, 7, 8, 9, 10], [7, 8, 9, 11], [1, 2]]  # the last has nothing to count
    network, found = plain(info(model).source), []
    for row in rows[:2]:
        written: list[Tensor] = []

        def leaf(_: Any, __: Any, out: Tensor, written: list[Tensor] = written) -> Tensor:
            written.append(out.detach().requires_grad_())
            return written[0]

        handle = network.model.layers[1].mlp.register_forward_hook(leaf)
        tokens = torch.tensor([row])
        logp = network(tokens).logits[0, :-1].log_softmax(-1)
        loss = -logp.gather(1, tokens[0, 1:, None]).sum()
        found.append(torch.autograd.grad(loss, written)[0][0, 1:-1])
        handle.remove()
    torch.testing.assert_close(slopes(model, 1, rows), torch.cat(found), atol=1e-5, rtol=1e-3)


def test_a_text_is_read_once(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    moments = text_moments(model, [1])
    first = slopes_of_text(model, 1, moments, shown=False)
    assert isinstance(first, SlopeMoment)
    assert first.tokens >= model.cfg.d_model
    monkeypatch.setattr("editing.solve.curvature._collected", None)
    assert torch.equal(slopes_of_text(model, 1, moments, shown=False).matrix, first.matrix)
