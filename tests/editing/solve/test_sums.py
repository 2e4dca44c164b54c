"""Sums of half a matrix, a piece at a time, are the sums of the whole matrix of all keys."""

from pathlib import Path

import pytest
import torch

from editing.solve import sums
from editing.solve.sums import Sums, Triangle


@pytest.mark.parametrize("width", [3, 8, 11])
def test_a_triangle_is_the_sum_of_the_outer_products(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "BLOCK", 4)
    keys = torch.randn(50, width, generator=torch.Generator().manual_seed(width))
    triangle = Triangle.zeros(width)
    for piece in keys.split(7):
        triangle.add(piece)
    wanted = keys.double().T @ keys.double()
    torch.testing.assert_close(triangle.whole(), wanted, atol=1e-5, rtol=1e-6)  # products of float32
    torch.testing.assert_close(triangle.over(50).whole(), wanted / 50, atol=1e-6, rtol=1e-6)
    assert torch.equal(triangle.whole(), triangle.whole().T)
    held = sum(row.numel() for row in triangle.rows)
    assert held <= (width * width + 4 * width) / 2  # half, and half of the blocks on the diagonal


def test_sums_are_taken_up_where_a_stop_left_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was written of a piece that did not end does not count."""
    monkeypatch.setattr(sums, "BLOCK", 4)
    keys = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    nothing = {"pieces": 0, "tokens": 0, "left_out": 0}

    def read(made: Sums, pieces: range) -> Sums:
        for number in pieces:
            made.add("3", keys[10 * number : 10 * number + 10], 40)
            made.state = {"pieces": number + 1, "tokens": 10 * number + 10, "left_out": number + 1}
            made.keep(tmp_path)
        return made

    whole = read(Sums.of({"3": 6}, nothing), range(4))
    for file in tmp_path.iterdir():
        file.unlink()
    read(Sums.of({"3": 6}, nothing), range(2))
    (tmp_path / "3-3.safetensors").write_bytes(b"cut short")
    again = read(Sums.taken_up(tmp_path, {"3": 6}, nothing), range(2, 4))
    assert len(list(tmp_path.iterdir())) == 4  # the sums, C at a quarter and at half, and which piece they are of
    for one, other in zip(whole.estimated("3", 40, 1.0)[:2], again.estimated("3", 40, 1.0)[:2], strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=0, atol=0)
