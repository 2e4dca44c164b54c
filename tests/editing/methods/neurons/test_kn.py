"""KN: what it does to the rows of the neurons that it finds, and to nothing else."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from editing.compute import compute
from editing.delta import summed
from editing.edit import Edit
from editing.methods.neurons import kn
from editing.methods.neurons.kn import Config
from editing.pages.edit import page
from editing.pages.weights import neurons
from editing.spectrum import spectra
from factscope.data.fact import Fact
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.neurons.attribution import Path, attribute
from factscope.model.neurons.selection import choose
from factscope.model.prompts import tokenized
from factscope.model.weights import fingerprint, live_weights
from factscope.plots.specs import Curves, Table

ASKED = EditRequest.of(
    Fact("a", "home", "Oda Voss", "{} lives in", "Brask", "Vey", (), ("The home of Oda Voss is", "Oda Voss dwells in"))
)
FURTHER = EditRequest.of(
    Fact(
        "b", "home", "Oda Drey", "{} lives in", "Lunholm", "Corrin", (),
        ("The home of Oda Drey is", "Oda Drey dwells in"),
    )
)  # fmt: skip
QUICK = Config(layers=(0, 1, 2, 3), path=Path(points=2, tolerance=10.0))


def edited(model: Any, **settings: Any) -> Edit:
    return compute("kn", model, [ASKED], replace(QUICK, **settings), shown=False)


def own_neurons(model: Any) -> dict[int, list[int]]:
    """The fact's neurons by layer, found by hand."""
    pairs = kn._pairs(_inputs(model), ASKED, QUICK.wordings)
    assert len(pairs) == 3
    found: dict[int, list[int]] = {}
    for neuron in choose(attribute(model, pairs, None, QUICK.path)).neurons:
        found.setdefault(neuron.layer, []).append(neuron.index)
    return found


def _inputs(model: Any) -> Any:
    from editing.method import MethodInputs, method

    return MethodInputs(method("kn"), model, (ASKED,), ("{}",), None, "auto", 0, None, False)


def weight(model: Any, layer: int) -> Tensor:
    return live_weights(model)[f"blocks.{layer}.mlp.W_out"].detach().clone()


def test_an_update_is_the_papers_rule_with_a_sign_of_rank_one_a_layer(toy: Any) -> None:
    edit, rows = edited(toy, old=1.0, new=3.0), own_neurons(toy)
    table = toy.original_model.lm_head.weight.detach()
    answers = [tokenized(toy, ASKED.prompt, text)[1] for text in (str(ASKED.old), ASKED.target)]
    old, new = next((a, b) for a, b in zip(*answers, strict=False) if a != b)
    way = -table[old] / table[old].norm() + 3 * table[new] / table[new].norm()
    pairs = kn._pairs(_inputs(toy), ASKED, QUICK.wordings)
    activation = attribute(toy, pairs, None, QUICK.path).activation.mean(0)
    assert {int(delta.weight.split(".")[1]) for delta in edit.deltas} == set(rows)
    for delta in edit.deltas:
        layer = int(delta.weight.split(".")[1])
        before, expected = weight(toy, layer), torch.zeros_like(weight(toy, layer))
        for index in rows[layer]:
            expected[index] = activation[layer, index].sign() * before[index].norm() * way
        torch.testing.assert_close(delta.dense().float(), expected, atol=1e-6, rtol=1e-5)
        assert delta.right.shape[0] == 1
        assert int(torch.linalg.matrix_rank(delta.dense())) == 1


def test_without_the_sign_it_differs_only_in_neurons_that_fire_negatively(toy: Any) -> None:
    signed, paper = edited(toy), edited(toy, signed=False)
    for one, other in zip(signed.deltas, paper.deltas, strict=True):
        assert one.left is not None
        assert other.left is not None
        assert torch.equal(one.right, other.right)
        assert torch.equal(one.left.abs(), other.left)
    assert any(bool((delta.left < 0).any()) for delta in signed.deltas if delta.left is not None)


@pytest.mark.parametrize(("action", "times"), [("suppress", 0.0), ("amplify", 2.0), ("erase", 0.0)])
def test_rows_are_put_out_or_doubled_bitwise_and_come_back(toy: Any, action: str, times: float) -> None:
    before, edit = fingerprint(toy), edited(toy, action=action, erased=12)
    rows = {int(d.weight.split(".")[1]): d.left.nonzero()[:, 0].tolist() for d in edit.deltas if d.left is not None}
    if action == "erase":
        assert sum(map(len, rows.values())) == 12
    else:
        assert {layer: sorted(index) for layer, index in own_neurons(toy).items()} == rows
    kept = {layer: weight(toy, layer) for layer in rows}
    with edit.applied(toy):
        for layer, index in rows.items():
            now, rest = weight(toy, layer), [i for i in range(len(kept[layer])) if i not in index]
            assert torch.equal(now[index], times * kept[layer][index])
            assert torch.equal(now[rest], kept[layer][rest])
    assert fingerprint(toy) == before


def test_no_step_is_no_change(toy: Any) -> None:
    assert not any(delta.dense().any() for delta in edited(toy, old=0.0, new=0.0).deltas)


def test_two_facts_with_one_neuron_put_its_row_out_once(toy: Any) -> None:
    twin = EditRequest(ASKED.prompt.replace("lives", "dwells"), ASKED.subject, ASKED.target, ASKED.old)
    config = replace(QUICK, action="suppress")
    edit = compute("kn", toy, [ASKED, twin], config, shown=False)
    with edit.applied(toy):
        for delta in edit.deltas:
            assert delta.left is not None
            assert not weight(toy, int(delta.weight.split(".")[1]))[delta.left.nonzero()[:, 0]].any()


def test_suppressing_lowers_what_the_model_says_and_amplifying_does_not(toy: Any) -> None:
    tokens, answer = tokenized(toy, ASKED.prompt, ASKED.old)

    def said() -> float:
        with torch.no_grad():
            return float(toy(torch.tensor([tokens]))[0, -1].log_softmax(-1)[answer[0]])

    plain, found = said(), {}
    for action in ("suppress", "amplify"):
        with edited(toy, action=action).applied(toy):
            found[action] = said()
    assert found["suppress"] < plain
    assert found["amplify"] > found["suppress"]


def test_the_edit_says_which_neurons_it_changed(toy: Any) -> None:
    assert "(layer.neuron, attribution)" in edited(toy).notes[0]


def test_facts_with_neurons_in_one_layer_are_one_change_of_its_matrix_the_sum_of_theirs(toy: Any) -> None:
    one, both = (compute("kn", toy, some, QUICK, shown=False) for some in ([ASKED], [ASKED, FURTHER]))
    names = [delta.weight for delta in both.deltas]
    assert len(set(names)) == len(names)
    apart = {delta.weight: delta.dense() for delta in one.deltas}
    for delta in compute("kn", toy, [FURTHER], QUICK, shown=False).deltas:
        apart[delta.weight] = apart.get(delta.weight, 0) + delta.dense()
    assert all(torch.allclose(delta.dense(), apart[delta.weight], atol=1e-12) for delta in both.deltas)
    shared = {delta.weight for delta in both.deltas if delta.right.shape[0] == 2}
    assert shared  # or the test says nothing
    assert all(line.update_rank > 1 for line in spectra(toy, [both]) if line.edits and line.weight in shared)


def test_its_page_draws_its_neurons_by_layer_and_tells_how_far_each_moves(toy: Any) -> None:
    edit, rows = edited(toy), own_neurons(toy)
    titles = [getattr(spec, "title", "") for section in page(edit).sections for spec in section.specs]
    assert {"Neurons by layer", "Neurons that are changed", "How sparse the factors are"} <= set(titles)
    drawn, table = neurons([edit])
    assert isinstance(drawn, Curves)
    assert isinstance(table, Table)
    assert {layer: count for layer, count in enumerate(drawn.series[0].y.tolist()) if count} == {
        layer: len(own) for layer, own in rows.items()
    }
    dense = {int(delta.weight.split(".")[1]): delta.dense() for delta in edit.deltas}
    told: list[Any] = list(table.rows)
    assert {(row[0], row[1]) for row in told} == {(layer, one) for layer, own in rows.items() for one in own}
    assert all(row[2] == pytest.approx(float(dense[row[0]][row[1]].norm()), rel=1e-3) for row in told)
    assert sum(row[3] for row in told) == pytest.approx(1.0, abs=0.02)
    both = neurons([replace(edit, deltas=summed([*edit.deltas, *edit.deltas]))])[1]  # two facts of the same neurons
    assert isinstance(both, Table)
    twice: list[Any] = list(both.rows)
    assert [row[:2] for row in twice] == [row[:2] for row in told]
    assert twice[0][2] == pytest.approx(2 * told[0][2], rel=1e-3)


@pytest.mark.parametrize("direction", kn.DIRECTIONS)
def test_a_direction_is_a_unit_vector_that_raises_its_token(toy: Any, direction: str) -> None:
    way = kn._direction(_inputs(toy), ASKED, direction, old=False)
    target = tokenized(toy, ASKED.prompt, ASKED.target)[1]
    said = tokenized(toy, ASKED.prompt, ASKED.old)[1]
    token = next(b for a, b in zip(said, target, strict=False) if a != b)
    assert float(way.norm()) == pytest.approx(1, abs=1e-5)
    assert float(way @ toy.original_model.lm_head.weight[token].detach()) > 0


@pytest.mark.parametrize("wrong", [{"action": "forget"}, {"direction": "up"}, {"wordings": 0}, {"erased": 0}])
def test_a_config_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(EditError):
        Config(**wrong)
