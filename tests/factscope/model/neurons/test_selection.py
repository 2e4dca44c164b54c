"""The choice of a fact's neurons, on attributions small enough to be chosen from by hand."""

import pytest
import torch
from torch import Tensor

from factscope.errors import UserError
from factscope.model.neurons.attribution import Attribution
from factscope.model.neurons.selection import Chosen, Refinement, choose, shared_by_many

# Four wordings, two layers of three neurons. In 0.0 all, in 1.1 three, in 1.2 two (below .2 of the largest in one), in
# 0.2 one wording; the rest never.
VALUE = torch.tensor(
    [
        [[1.0, 0.1, 0.3], [0.0, 0.5, 0.3]],
        [[2.0, 0.1, 0.3], [0.0, 0.9, 0.3]],
        [[1.0, -3.0, 0.1], [0.0, 0.3, 0.4]],
        [[1.0, 0.1, 0.1], [0.0, 0.1, 0.3]],
    ]
)


def found(value: Tensor, layers: tuple[int, ...] = (5, 9)) -> Attribution:
    zeros = torch.zeros(value.shape[:2])
    return Attribution(layers, value, -value, zeros[:, 0], zeros, torch.ones_like(zeros).long())


def places(chosen: Chosen) -> list[tuple[int, int]]:
    return [neuron.place for neuron in chosen.neurons]


def test_neurons_above_the_threshold_in_enough_wordings_are_chosen() -> None:
    chosen = choose(found(VALUE), Refinement(share=0.75))
    assert places(chosen) == [(5, 0), (9, 1), (9, 2)]
    assert [neuron.wordings for neuron in chosen.neurons] == [4, 3, 3]
    assert chosen.share == 0.75
    assert not chosen.notes
    assert chosen.neurons[0].attribution == pytest.approx(1.25)
    assert chosen.neurons[0].activation == pytest.approx(-1.25)


def test_the_share_moves_until_the_number_is_as_asked() -> None:
    down = choose(found(VALUE), Refinement(share=1.0, step=0.1, fewest=2))
    assert (len(down.neurons), down.share) == (3, 0.7)
    up = choose(found(VALUE), Refinement(share=0.5, step=0.3, fewest=1, most=1))
    assert (places(up), up.share) == [(5, 0)] or up.share == 0.8
    assert not down.notes


def test_a_share_that_cannot_move_enough_is_said() -> None:
    few = choose(found(VALUE), Refinement(share=1.0, moves=0, fewest=2))
    assert places(few) == [(5, 0), (9, 1)]
    assert "added" in few.notes[0]
    many = choose(found(VALUE), Refinement(share=0.75, moves=0, fewest=1, most=2))
    assert places(many) == [(5, 0), (9, 1)]
    assert "strongest are kept" in many.notes[0]


def test_the_order_of_wordings_changes_nothing() -> None:
    for order in ([3, 1, 0, 2], [2, 3, 1, 0]):
        one, other = choose(found(VALUE)), choose(found(VALUE[order]))
        assert places(one) == places(other)
        assert [n.wordings for n in one.neurons] == [n.wordings for n in other.neurons]


def test_under_three_wordings_the_first_decides_alone() -> None:
    chosen = choose(found(VALUE[:2]))
    assert places(chosen) == places(choose(found(VALUE[:1])))
    assert chosen.wordings == 1
    assert "the first decides alone" in chosen.notes[0]


def test_neurons_that_many_facts_share_are_left_out() -> None:
    own, other = choose(found(VALUE)), choose(found(VALUE.flip(2)))
    common = shared_by_many([own, own, other], Refinement(common=0.5))
    assert common == own.places
    assert shared_by_many([own, other]) == own.places | other.places
    assert not shared_by_many([])
    assert places(choose(found(VALUE), Refinement(fewest=1), common={(5, 0), (7, 0)}))[0] == (9, 1)


def test_an_answer_that_no_neuron_carries_is_said() -> None:
    with pytest.raises(UserError, match="no neuron"):
        choose(found(-VALUE.abs()))


@pytest.mark.parametrize("wrong", [{"share": 1.1}, {"fewest": 0}, {"fewest": 6}, {"step": 0.0}, {"threshold": -1.0}])
def test_a_rule_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError):
        Refinement(**wrong)  # type: ignore[arg-type]
