"""CaliNET, MEMOIR and WISE: what learns is what speaks, what must stay does, and limits of their settings."""

from typing import Any

import pytest
import torch

from editing.compute import compute
from editing.edit import Edit, applied
from editing.method import method
from editing.pages.beside import beside
from editing.pages.edit import kind
from editing.requests import request, target_prompts
from editing.solve.ordinary import Ordinary
from factscope.errors import EditError
from factscope.model.forward.scoring import Pair, score
from factscope.model.sites import Site
from factscope.plots.specs import Heatmap, Table

NAMES = ("calinet", "memoir", "wise")
FACTS = (("[Oda Voss] lives in", "Vey"), ("[Mira Drey] speaks", "Norrish"))


def made(model: Any, name: str, **settings: Any) -> Edit:
    """Both facts in one edit."""
    asked = [request(model, text, target) for text, target in FACTS]
    return compute(name, model, asked, method(name).config_for(model, settings), shown=False)


@pytest.fixture(scope="module")
def both(toy: Any) -> dict[str, Edit]:
    """Both facts in one edit of each method."""
    return {name: made(toy, name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_that_training_read_last_is_that_of_the_model_with_the_edit(toy: Any, both: Any, name: str) -> None:
    """Trained as one product, answered by a gate and its memory: two ways to the same numbers."""
    edit = both[name]
    more = made(toy, name, steps=len(edit.curve) + 1, stop=1e-9) if edit.curve[-1].mean() >= 0.01 else edit
    pairs = []
    for one in edit.requests:
        prompt = target_prompts(toy, one, ("{}",), "auto")[0]
        pairs.append(Pair(tuple(prompt.tokens), tuple(prompt.answer_ids)))
    with applied(toy, [edit]):
        losses = [each.nll for each in score(toy, pairs)]
    assert more.curve is not None
    assert losses == pytest.approx(more.curve[len(edit.curve) - 1 + (more is not edit)].tolist(), abs=2e-3)
    assert max(losses) < 0.7


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_of_one_step_is_the_unedited_model(toy: Any, name: str) -> None:
    """The last step only reads, and all begin as no change."""
    prompt = target_prompts(toy, request(toy, *FACTS[0]), ("{}",), "auto")[0]
    tokens = torch.tensor([prompt.tokens])
    before = toy(tokens)
    edit = made(toy, name, steps=1, learning_rate=1e-12)
    with applied(toy, [edit]):
        torch.testing.assert_close(toy(tokens), before, atol=1e-5, rtol=1e-5)


def test_what_calinet_writes_elsewhere_is_what_quiet_costs(toy: Any, both: Any) -> None:
    part, layer = both["calinet"].bypasses[0], both["calinet"].bypasses[0].layer
    states = Ordinary.of(toy, Site("mlp_read", layer), "auto", 4).all()

    def loud(one: Any) -> float:
        said = (states @ one.tensors["keys"].T).relu() @ one.tensors["values"]
        return float(said.pow(2).sum(-1).mean())

    paper = made(toy, "calinet", quiet=0.0).bypasses[0]
    assert loud(part) < 0.5 * loud(paper)
    assert not part.tensors["bias"].any()


def test_memoirs_rows_are_those_of_its_masks_and_a_later_edit_knows_them(toy: Any, both: Any) -> None:
    part = both["memoir"].bypasses[0]
    masks = part.tensors["masks"]
    assert masks.sum(1).tolist() == [part.numbers["active"]] * 2
    assert part.tensors["which"].tolist() == masks.any(0).nonzero()[:, 0].tolist()
    first = compute("memoir", toy, [request(toy, *FACTS[0])], shown=False)
    asked = request(toy, *FACTS[1])
    prompt = target_prompts(toy, asked, ("{}",), "auto")[0]
    pair = Pair(tuple(prompt.tokens), tuple(prompt.answer_ids))
    with applied(toy, [first]):
        second = compute("memoir", toy, [asked], shown=False)
        with applied(toy, [second]):
            (after,) = score(toy, [pair])
    assert second.curve is not None
    assert after.nll < 0.7


def test_a_wise_copy_changes_in_its_mask_alone_and_within_its_bound(toy: Any, both: Any) -> None:
    change = both["wise"].bypasses[0].tensors["changes"]
    assert float((change != 0).float().mean()) == pytest.approx(0.2, abs=0.03)
    tight = made(toy, "wise", bound=0.01, steps=10).bypasses[0].tensors["changes"]
    assert float(tight.abs().max()) == pytest.approx(0.01)
    assert not torch.equal(*(compute("wise", toy, [request(toy, *fact)], method("wise").config_for(
        toy, {"steps": 2}), shown=False).bypasses[0].tensors["changes"] != 0 for fact in FACTS))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("calinet", {"slots": 0}, "slots is 0, and must be above 0"),
        ("calinet", {"quiet": -1.0}, "quiet is -1, and must be at least 0"),
        ("memoir", {"active": 1.5}, "active and overlap are shares"),
        ("wise", {"ratio": 1.0}, "ratio below 1"),
        ("wise", {"beta": 0.5}, r"below alpha \+ gamma"),
        ("wise", {"learning_rate": 0.0}, "learning_rate is 0, and must be above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(toy: Any, name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(EditError, match=said):
        made(toy, name, **settings)


def test_pages_draw_what_is_inside(both: Any) -> None:
    drawn = {spec.title: spec for name in NAMES for spec in beside([both[name]])}
    shared = drawn["Rows that facts share"]
    assert isinstance(shared, Heatmap)
    assert shared.values.diagonal().tolist() == [1.0, 1.0]
    table = drawn["Shards of the side memory"]
    assert isinstance(table, Table)
    assert table.rows[0][1] == pytest.approx(0.2, abs=0.03)
    assert "What the gate met" in drawn
    fires = next(spec for title, spec in drawn.items() if title.startswith("What the neurons fire for"))
    assert isinstance(fires, Heatmap)
    own = both["calinet"].met[0]
    assert fires.rows[-1] == "prompts as edited"  # the last row is drawn at the top
    assert fires.values[fires.rows.index(f"E: {own.prompt}")].tolist() == pytest.approx(
        [own.load[int(number)] for number in fires.columns]
    )
    assert all(kind(both[name]).startswith("An edit beside the weights, at layer ") for name in NAMES)
