"""Blocks and their index by hand: how clusters grow, split and forget, which block speaks, where the gate stands."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from editing.bypass import Bypass, functions, join
from editing.bypasses.blocks import KIND, Gate, Writer, index
from editing.bypasses.codebook import GAP
from factscope.errors import EditError
from factscope.model.forward.ends import Ends, ending


def part(*points: tuple[tuple[float, float], float, str], gate: int = 0, rank: int = 1) -> Bypass:
    """Points of (key, reach, target), each with a block of its own that adds its number to every coordinate."""
    keys, reach, words = zip(*points, strict=True)
    count = len(keys)
    left = torch.ones(count, 2, rank) / (2 * rank)
    right = torch.arange(1.0, count + 1)[:, None, None].expand(-1, rank, 3).clone()
    tensors = {
        "keys": torch.tensor(keys).float(), "reach": torch.tensor(reach).float(), "which": torch.arange(count).float(),
        "left": left, "right": right,
    }  # fmt: skip
    return Bypass("blocks", 0, tensors, {"gate": float(gate)}, tuple(words))


@pytest.mark.parametrize(
    ("points", "centres", "radii", "forgotten"),
    [
        ([((0, 0), 1, "a")], [[0, 0]], [1], 0),
        ([((0, 0), 1, "a"), ((2.5, 0), 1, "b")], [[0, 0], [2.5, 0]], [1, 1], 0),  # further than reach and radius
        ([((0, 0), 1, "a"), ((1.5, 0), 1, "b")], [[0, 0], [1.5, 0]], [0.75 - GAP, 0.75], 0),  # they part in the middle
        ([((0, 0), 1, "a"), ((0.4, 0), 1, "a")], [[0.2, 0]], [1], 0),  # one more point, near: the mean, no smaller
        ([((0, 0), 1, "a"), ((1.8, 0), 0.9, "a")], [[0.9, 0]], [0.9], 0),  # far: as wide as its points
        ([((0, 0), 1, "a"), ((0, 0), 1, "a")], [[0, 0]], [1], 0),  # the same edit twice
        (  # the cluster of both is cut at .35, and what lies .9 from its centre is forgotten: nothing is left of it
            [((0, 0), 1, "a"), ((1.8, 0), 1, "a"), ((0.9, 0.7), 1, "b")], [[0.9, 0.7]], [0.35], 2
        ),
        ([((0, 0), 0.2, "a"), ((1.1, 0), 1, "b")], [[0, 0], [1.1, 0]], [0.2, 0.55], 0),  # a split never widens
    ],
)  # fmt: skip
def test_the_table_of_the_index(points: Any, centres: Any, radii: list[float], forgotten: int) -> None:
    found = index(part(*points))
    torch.testing.assert_close(found.centres, torch.tensor(centres).float())
    assert found.radii.tolist() == pytest.approx(radii)
    assert found.forgotten == forgotten


def test_one_key_with_two_targets_is_refused() -> None:
    with pytest.raises(EditError, match="one key is asked for two targets, 'a' and 'b'"):
        join([part(((0, 0), 1, "a")), part(((0, 0), 1, "b"))])


def test_the_nearest_point_of_the_cluster_says_the_block_and_of_the_same_point_the_latest() -> None:
    """The cluster's centre is .6; a query at 1.3 is within it, and nearer to the second point."""
    gate = Gate(part(((0, 0), 1, "a"), ((1.2, 0), 1, "a"), ((1.2, 0), 1, "a"), ((9, 0), 1, "b")))
    queries = torch.tensor([[[0.1, 0.0]], [[1.3, 0.0]], [[9.5, 0.0]], [[4.0, 0.0]]])
    assert gate(queries, Ends(torch.zeros(4, dtype=torch.long))).tolist() == [0, 2, 3, -1]


def test_edits_joined_speak_each_with_its_own_block_and_thinner_ones_are_filled_up() -> None:
    one, two = part(((0, 0), 1, "a")), part(((5, 0), 1, "b"), rank=2)
    (both,) = join([one, two])
    assert both.tensors["which"].tolist() == [0, 1]
    assert both.tensors["left"].shape == (2, 2, 2)
    x = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 3.0], [5.0, 0.0]]])
    y, now = torch.zeros(2, 2, 3), Ends(torch.tensor([1, 1]))
    out = Writer(both)(x, y, now)
    assert out is not None
    assert out[:, 0, 0].tolist() == [1.0, 2.0]  # the mean of x, times the block's number; at every position
    with pytest.raises(EditError, match="stand in different layers"):
        join([one, replace(two, numbers={"gate": 1.0})])


def test_a_block_behind_an_open_gate_is_a_change_of_the_weight() -> None:
    own = part(((0, 0), 1e6, "a"))
    x, y = torch.randn(1, 4, 2), torch.randn(1, 4, 3)
    out = Writer(own)(x, y, Ends(torch.tensor([3])))
    torch.testing.assert_close(out, y + x @ (own.tensors["left"][0] @ own.tensors["right"][0]))
    assert KIND.load(own, None)(x, Ends(torch.tensor([3]))).tolist() == [[1.0]]  # type: ignore[arg-type]


def test_a_gate_below_decides_once_and_a_pass_that_does_not_reach_it_is_refused(toy: Any) -> None:
    own = replace(part(((0, 0), 1, "a")), layer=2)
    (_, meet), (site, decide), (_, read), (_, write) = functions([own], toy)
    assert (site.kind, site.layer) == ("mlp_hidden", 0)
    x, y = torch.ones(1, 2, 2), torch.zeros(1, 2, 3)
    with ending(torch.tensor([1]), tokens=torch.tensor([[5, 6]])) as now:
        read(x)
        with pytest.raises(EditError, match="stands in layer 0 and writes in layer 2, and this runs parts"):
            write(y)
        decide(torch.zeros(1, 2, 2))
        read(x)
        assert torch.equal(write(y), torch.ones(1, 2, 3))  # type: ignore[arg-type]
        now.begun = 2  # the next token, of which the gate is asked no more
        decide(torch.full((1, 1, 2), 9.0))
        read(x[:, :1])
        assert torch.equal(write(y[:, :1]), torch.ones(1, 1, 3))  # type: ignore[arg-type]
    meet(torch.tensor([[5, 6]]))
    decide(torch.full((1, 2, 2), 9.0))
    read(x)
    assert write(y) is None
