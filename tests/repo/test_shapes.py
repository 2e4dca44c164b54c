"""The tests check shapes of tensors at run time: where they are named, and nowhere else."""

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from editing.solve.closed_form import guarded
from helpers.typechecked import names_a_shape


def test_a_tensor_of_another_shape_than_its_annotation_is_refused() -> None:
    with pytest.raises(TypeCheckError, match="guarded"):
        guarded(torch.eye(3), torch.ones(2, 4))


def test_a_shape_is_found_within_a_hint() -> None:
    shape = Float[Tensor, "row d"]
    assert all(map(names_a_shape, (shape, shape | None, tuple[int, shape], list[tuple[shape, ...]], "unread")))
    assert not any(map(names_a_shape, (int, Tensor, tuple[int, Tensor], None)))
