"""The side memory by hand: TIES, which shard answers, and what stays as it is."""

from dataclasses import replace

import pytest
import torch

from editing.bypass import Bypass, join
from editing.bypasses.side import KIND, Writer, distances, shards, ties
from factscope.errors import EditError
from factscope.model.forward.ends import Ends

LAST = torch.tensor([3, 3])


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers of the unit normal distribution."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def part(*changes: torch.Tensor, threshold: float = 0.0, merge: bool = False) -> Bypass:
    """Shards of these changes."""
    tensors = {"changes": torch.stack(changes), "threshold": torch.full((len(changes),), threshold)}
    return Bypass("side", 0, tensors, {"merge": float(merge), "density": 1.0}, ("x",) * len(changes))


def test_ties_of_one_shard_is_the_shard_and_of_disjoint_ones_their_sum() -> None:
    one, two = drawn(6, 4), drawn(6, 4, seed=1)
    assert torch.equal(ties(one[None], 1.0), one)
    half = (torch.arange(6) < 3).float()[:, None]
    assert torch.equal(ties(torch.stack([one * half, two * (1 - half)]), 1.0), one * half + two * (1 - half))
    torch.testing.assert_close(ties(torch.stack([one, two]), 0.5), ties(torch.stack([two, one]), 0.5))


def test_ties_by_hand() -> None:
    """Of each shard the two largest entries; the sign of the sum; the mean of those that agree."""
    some = torch.tensor([[[3.0, -1.0, 0.5, 0.0]], [[1.0, 2.0, 0.0, -0.5]], [[-2.0, 0.0, 4.0, 0.0]]])
    assert ties(some, 2 / 3).tolist() == [[2.0, 2.0, 4.0, 0.0]]


def test_the_furthest_shard_above_its_threshold_answers_and_below_it_nothing_changes() -> None:
    small, large = 0.1 * drawn(6, 4), drawn(6, 4, seed=1)
    x, y = drawn(2, 4, 6), drawn(2, 4, 4, seed=2)
    x[1] *= 1e-3
    both = part(small, large, threshold=0.05)
    far = distances(x, LAST, both.tensors["changes"])
    torch.testing.assert_close(far[0, 1], (x[0, 1:] @ large).norm(dim=-1).mean())
    assert Writer(both).decide(x, Ends(LAST)).tolist() == [1, -1]
    out = Writer(both)(x, y, Ends(LAST))
    assert out is not None
    assert torch.equal(out[1], y[1])
    torch.testing.assert_close(out[0], y[0] + x[0] @ large)
    assert Writer(part(small, large, threshold=99.0))(x, y, Ends(LAST)) is None
    assert Writer(part(0 * small))(x, y, Ends(LAST)) is None  # a copy that is the projection is never away from it


def test_merged_shards_are_one_with_the_lowest_threshold() -> None:
    one, two = part(drawn(6, 4), threshold=0.3, merge=True), part(drawn(6, 4, seed=1), threshold=0.2, merge=True)
    changes, threshold = shards(join([one, two])[0])
    assert torch.equal(changes[0], ties(torch.stack([drawn(6, 4), drawn(6, 4, seed=1)]), 1.0))
    assert threshold.tolist() == pytest.approx([0.2])
    with pytest.raises(EditError, match="some of these edits are merged and some not"):
        join([one, replace(two, numbers={"merge": 0.0, "density": 1.0})])


def test_a_null_writes_elsewhere_and_answers_the_same_prompts() -> None:
    x, whole = drawn(2, 4, 6), part(drawn(6, 4))
    other = KIND.scrambled(whole, torch.Generator().manual_seed(1), False)
    torch.testing.assert_close(*(distances(x, LAST, one.tensors["changes"]) for one in (whole, other)))
    assert not torch.allclose(whole.tensors["changes"], other.tensors["changes"])
