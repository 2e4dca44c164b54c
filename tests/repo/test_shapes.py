"""The tests check shapes of tensors at run time: where they are named, and nowhere else."""

from typing import Any

import jaxtyping
import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from editing.solve.closed_form import guarded
from helpers.typechecked import check, names_a_shape, told_by_shapes


def test_a_tensor_of_another_shape_than_its_annotation_is_refused() -> None:
    with pytest.raises(TypeCheckError, match="guarded"):
        guarded(torch.eye(3), torch.ones(2, 4))


def made(size: int) -> Any:
    """A function within a function, as the import hook would have it checked."""

    def doubled(one: Float[Tensor, "row d"], other: Float[Tensor, " row"] | None = None) -> Float[Tensor, "row d"]:
        calls.append(size)
        return one.repeat(size, 1) if other is None else one.T

    return jaxtyping.jaxtyped(typechecker=check)(doubled)  # conftest has put ours in the place of theirs


calls: list[int] = []


def test_shapes_that_passed_are_forgiven_no_others() -> None:
    square, flat, row = torch.ones(2, 2), torch.ones(2, 3), torch.ones(2)
    for _ in range(2):  # the second function is a new one, of the same code
        assert made(1)(square).shape == made(1)(square, other=row).shape == (2, 2)
    calls.clear()
    assert made(1)(flat).shape == (2, 3)
    for wrong in (
        lambda: made(2)(flat),  # arguments that passed, a result that does not fit them
        lambda: made(1)(flat, other=row),
        lambda: made(1)(square, other=torch.ones(3)),
        lambda: made(1)(square.int()),
        lambda: made(1)(square[0]),
        lambda: made(1)(None),
    ):
        for _ in range(2):
            with pytest.raises(TypeCheckError, match="doubled"):
                wrong()
    assert calls == [1, 2, 2, 1, 1]  # a result is checked as it is, and not computed again


def test_a_shape_within_a_list_is_checked_at_every_call() -> None:
    shape = Float[Tensor, "row d"]
    assert all(map(told_by_shapes, (shape, shape | None, tuple[shape, int], int, list[int], Tensor)))
    assert not any(map(told_by_shapes, (list[shape], tuple[shape, ...], dict[str, shape] | None, "unread")))


def test_a_shape_is_found_within_a_hint() -> None:
    shape = Float[Tensor, "row d"]
    assert all(map(names_a_shape, (shape, shape | None, tuple[int, shape], list[tuple[shape, ...]], "unread")))
    assert not any(map(names_a_shape, (int, Tensor, tuple[int, Tensor], None)))
