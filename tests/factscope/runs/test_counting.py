"""Bytes count while they are held, and products as they are written."""

import torch

from factscope.runs.counting import counted


def test_bytes_count_once_while_they_are_held_and_products_as_they_are_written() -> None:
    with counted() as count:
        one = torch.zeros(100, 50)
        view = one.T[3:]
        assert count.bytes_now == 20_000
        product = one @ torch.zeros(50, 20)  # the second is freed again
        assert (count.bytes_now, count.bytes_most) == (28_000, 32_000)
        assert count.operations == 2 * 100 * 50 * 20
        del one
        assert count.bytes_now == 28_000, "the view holds it"
        del view, product
        assert count.bytes_now == 0
