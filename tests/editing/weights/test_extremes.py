"""Two singular values by iteration are those of the full decomposition, whatever the shape and the condition."""

import pytest
import torch

from editing.weights import extremes as by_iteration
from editing.weights.extremes import STEEP, extremes, largest


def with_values(values: torch.Tensor, rows: int) -> torch.Tensor:
    """A matrix [rows, values] of these singular values, in random directions."""
    generator = torch.Generator().manual_seed(len(values))
    left, right = (
        torch.linalg.qr(torch.randn(count, len(values), generator=generator, dtype=torch.float64))[0]
        for count in (rows, len(values))
    )
    made: torch.Tensor = left * values @ right.T
    return made


@pytest.mark.parametrize("spread", [1.0, 2.0, STEEP / 2, 10 * STEEP], ids=["alike", "near", "far", "steep"])
def test_the_largest_and_the_smallest_are_those_of_the_full_decomposition(
    spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_iteration, "SMALL", 0)
    matrix = with_values(torch.linspace(1.0, 1 / spread, 60, dtype=torch.float64), 90)
    for one in (matrix, matrix.T):
        values = torch.linalg.svdvals(one)
        assert largest(one) == pytest.approx(float(values[0]), rel=1e-9)
        assert extremes(one) == pytest.approx((float(values[0]), float(values[-1])), rel=1e-7)


def test_a_singular_matrix_has_the_smallest_of_the_full_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_iteration, "SMALL", 0)
    matrix = with_values(torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64), 5)
    assert extremes(matrix) == pytest.approx((3.0, 0.0), abs=1e-12)


def test_few_products_find_the_largest_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """By iteration, not by a decomposition of the whole."""
    monkeypatch.setattr(torch.linalg, "svdvals", None)
    monkeypatch.setattr(torch.linalg, "matrix_norm", None)
    values = torch.linspace(2.0, 1.0, 300, dtype=torch.float64)
    assert extremes(with_values(values, 320)) == pytest.approx((2.0, 1.0), rel=1e-8)
