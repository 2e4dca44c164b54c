"""The residual memory by hand: masks and overlaps, rows that are shared or not, and its limits."""

from typing import Any

import pytest
import torch

from editing.bypass import Bypass, join
from editing.bypasses.residual import Writer, feature, masks, matrix, nearest, told
from factscope.errors import EditError
from factscope.model.forward.ends import Ends


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers of the unit normal distribution."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def part(mask: torch.Tensor, seed: int, floor: float = 0.9, active: int | None = None) -> Bypass:
    """One fact's memory, of random rows under its mask."""
    which = mask.nonzero()[:, 0]
    tensors = {
        "rows": drawn(len(which), 3, seed=seed), "which": which.float(), "masks": mask[None],
        "floor": torch.tensor([floor]), "mean": torch.zeros(1, len(mask)),
    }  # fmt: skip
    return Bypass("residual", 0, tensors, {"active": float(active or mask.sum()), "seed": 0.0}, (str(seed),))


def written(one: Bypass, x: torch.Tensor, y: torch.Tensor) -> Any:
    """What stands in the place of y, for prompts that fill their rows."""
    return Writer(one)(x, y, Ends(torch.full((len(x),), x.shape[1] - 1)))


def test_the_first_position_speaks_only_where_there_is_no_other() -> None:
    assert told(3, torch.tensor([2, 1, 0])).tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 0]]
    x = torch.tensor([[[9.0], [1.0], [3.0]], [[9.0], [1.0], [3.0]]])
    assert feature(x, torch.tensor([2, 0]), torch.tensor([0.5])).tolist() == [[1.5], [8.5]]


def test_a_permutation_changes_no_overlap_and_a_repeat_overlaps_whole() -> None:
    features = drawn(4, 20)
    plain = torch.zeros_like(features).scatter(1, features.abs().topk(6).indices, 1.0)
    moved = masks(features, 6, seed=3)
    assert moved.sum(1).tolist() == [6] * 4
    assert not torch.equal(moved, plain)
    assert torch.equal(moved @ moved.T, plain @ plain.T)
    assert nearest(moved, moved, torch.ones(4), 6).tolist() == [0, 1, 2, 3]
    assert nearest(moved[:1], moved[1:], torch.ones(3), 6).tolist() == [-1]


def test_facts_whose_masks_share_no_row_do_not_hear_each_other() -> None:
    half = (torch.arange(20) < 10).float()
    one, two = part(half, 1, floor=0.0), part(1 - half, 2, floor=0.0)
    x, y = drawn(1, 4, 20), drawn(1, 4, 3, seed=5)
    both = join([one, two])[0]
    mine = Writer(both).decide(x, Ends(torch.tensor([3])))
    alone = written((one, two)[int(mine)], x, y)
    torch.testing.assert_close(written(both, x, y), alone)
    torch.testing.assert_close(matrix(both), matrix(one) + matrix(two))


def test_with_every_entry_active_it_is_a_matrix_that_is_always_added() -> None:
    one = part(torch.ones(20), 1)
    x, y = drawn(2, 4, 20), drawn(2, 4, 3, seed=5)
    torch.testing.assert_close(written(one, x, y), y + x @ matrix(one))


def test_below_the_floor_nothing_is_written_also_beside_a_row_that_is_open() -> None:
    x, y = drawn(2, 4, 20), drawn(2, 4, 3, seed=5)
    mask = masks(feature(x[:1], torch.tensor([3]), torch.zeros(20)), 6, seed=0)[0]
    one = part(mask, 1)
    out = written(one, x, y)
    assert torch.equal(out[1], y[1])
    torch.testing.assert_close(out[0], y[0] + (x[0] * mask) @ matrix(one))
    assert written(one, x[1:], y[1:]) is None
    with pytest.raises(EditError, match="reads whole prompts"):
        Writer(one)(x, y, Ends(torch.tensor([3, 3]), begun=2))


def test_memories_that_look_at_prompts_in_different_ways_are_not_one() -> None:
    one, two = part(torch.ones(20), 1), part(torch.ones(20), 2, active=5)
    with pytest.raises(EditError, match="another k, seed or start token"):
        join([one, two])
