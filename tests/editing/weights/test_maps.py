"""Maps of edited weights, on changes small enough to count by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from editing.bypass import Bypass
from editing.delta import Delta, packed
from editing.edit import Edit
from editing.pages import weights as pages
from editing.weights import maps as mapping
from editing.weights.maps import weight_maps
from editing.weights.sparsity import Spread, column_energy, concentration, half, row_energy
from factscope.data.fact import Fact
from factscope.data.request import requests_of
from factscope.errors import EditError
from factscope.model.bridge import info
from factscope.model.prompts import tokenized
from factscope.model.weights import as_matrix, fingerprint, live_weights
from helpers.results import check_result

FACTS = requests_of((Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),))


def edit_of(model: Any, *deltas: Delta, method: str = "rome") -> Edit:
    return Edit(method, {}, FACTS, deltas, base=fingerprint(model), model=info(model).name, seed=0)


def matrix(model: Any, name: str) -> torch.Tensor:
    return as_matrix(name, live_weights(model)[name].detach()).clone()


# ---- how sparse ----


def test_the_share_of_the_largest_lines_is_counted_by_hand() -> None:
    delta = Delta("blocks.0.mlp.W_out", torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 4.0, 0.0]]))
    assert row_energy(delta).tolist() == [9, 0, 16]
    assert column_energy(delta).tolist() == [9, 16, 0]
    assert concentration(row_energy(delta)).tolist() == [16 / 25, 1, 1]
    assert Spread.of(row_energy(delta)) == Spread(16 / 25, 1.0, 16 / 25)
    assert half(delta.dense()) == 1 / 9  # the 4 alone
    assert half(torch.ones(4, 5)) == 0.5
    assert np.isnan(half(torch.zeros(2, 2)))
    assert Spread.of(torch.zeros(3, dtype=torch.float64)) == Spread(0.0, 0.0, 0.0)


def test_factors_are_as_spread_as_their_product() -> None:
    generator = torch.Generator().manual_seed(0)
    thin = Delta("blocks.0.mlp.W_out", torch.randn(2, 7, generator=generator), torch.randn(300, 2, generator=generator))
    whole = Delta(thin.weight, thin.dense().float())
    sparse = replace(thin, keep=packed(torch.arange(2100).view(300, 7) % 3 == 0))
    for energy, axis in ((row_energy, 1), (column_energy, 0)):
        torch.testing.assert_close(energy(thin), energy(whole), rtol=1e-5, atol=1e-6)
        assert torch.equal(energy(sparse), sparse.dense().square().sum(axis))
    assert Spread.of(row_energy(thin)).percent == pytest.approx(
        float(row_energy(whole).topk(3).values.sum() / whole.dense().square().sum())
    )


# ---- where ----


def test_a_map_finds_the_rows_that_were_moved_and_leaves_the_model_alone(tiny: Any) -> None:
    """Two rows of 48 move, by 3 and 4: the norm, the rank, the share of entries and the picture are known."""
    model = tiny("llama")
    before, name = fingerprint(model), "blocks.2.mlp.W_out"
    left = torch.zeros(48, 2)
    left[7, 0], left[40, 1] = 3.0, 4.0
    ways = torch.zeros(2, 32)
    ways[0, 5], ways[1, 9] = 1.0, 1.0
    (own,) = weight_maps(model, [edit_of(model, Delta(name, ways, left))]).matrices
    assert fingerprint(model) == before
    assert own.norm == pytest.approx(5 / float(matrix(model, name).norm()))
    assert (own.rank, own.shape, own.top_rows[:2]) == (2, (48, 32), (40, 7))
    assert own.changed == pytest.approx(2 / (48 * 32))
    assert own.half == pytest.approx(1 / (48 * 32))
    assert own.rows == Spread(16 / 25, 1.0, 16 / 25)
    assert own.effective_rank == pytest.approx(float(np.exp(-sum(p * np.log(p) for p in (3 / 7, 4 / 7)))))
    assert own.blocks.shape == (48, 32)
    assert own.blocks.nonzero().tolist() == [[7, 5], [40, 9]]
    assert own.blocks[40, 9] == 4


def test_a_picture_of_a_large_matrix_has_the_mean_square_of_its_blocks() -> None:
    change = torch.randn(101, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    blocks = mapping._blocks(change)
    assert blocks.shape == (48, 48)
    assert blocks[0, 0] == pytest.approx(float(change[:3, :2].square().mean().sqrt()))
    assert blocks[-1, -1] == pytest.approx(float(change[-2:, -1:].square().mean().sqrt()))


@pytest.mark.parametrize("name", ["attn.W_Q", "attn.W_K", "attn.W_O", "mlp.W_in"])
def test_attention_is_mapped_as_a_matrix(tiny: Any, name: str) -> None:
    model, weight = tiny("llama"), f"blocks.1.{name}"
    shape = matrix(model, weight).shape
    maps = weight_maps(model, [edit_of(model, Delta(weight, torch.ones(1, shape[1]), torch.ones(shape[0], 1)))])
    assert maps.matrices[0].shape == tuple(shape)
    assert maps.matrices[0].changed == 1.0
    assert maps.matrices[0].half == pytest.approx(0.5)
    assert bool(maps.ranks) == (name == "attn.W_O")  # the others do not write to the residual stream


# ---- in words ----


def test_a_row_that_is_turned_to_the_target_says_it_and_no_more_the_old_answer(tiny: Any) -> None:
    """One row is moved from the old answer's row of the unembedding to the target's; RMS norm's gain is divided out."""
    model, name = tiny("llama"), "blocks.2.mlp.W_out"
    target, old = (tokenized(model, FACTS[0].prompt, answer)[1] for answer in (FACTS[0].target, FACTS[0].old))
    place = next(i for i, (one, other) in enumerate(zip(target, old, strict=False)) if one != other)
    table, gain = model.unembed.original_component.weight.detach(), model.ln_final.original_component.weight.detach()
    way = {which: 100 * table[ids[place]] / gain for which, ids in (("target", target), ("old", old))}
    left = torch.zeros(48, 1)
    left[11] = 1.0
    move = way["target"] - matrix(model, name)[11]
    first = edit_of(model, Delta(name, move[None], left))
    maps = weight_maps(model, [first])
    found = {(r.answer, r.read_as): r.rank for r in maps.ranks}
    assert len(maps.ranks) == 6
    assert found["target", "rows after"] == 1
    assert found["target", "directions"] == 1  # 100 times as long as what it replaces
    assert maps.hit("rome", "target", "rows after", 1) == 1.0
    logits = (matrix(model, name)[list(maps.matrices[0].top_rows)] * gain) @ table.T
    assert found["target", "rows before"] == int((logits >= logits[:, [target[place]]]).sum(1).min())
    back = edit_of(model, Delta(name, (way["old"] - way["target"])[None], left))
    ranks = {(r.answer, r.read_as): r.rank for r in weight_maps(model, [back]).ranks}
    assert (ranks["target", "directions"], ranks["old", "directions"]) == (1, 1)  # both ends


def test_a_change_of_zeros_has_a_map_and_no_words(tiny: Any) -> None:
    model, name = tiny("llama"), "blocks.2.mlp.W_out"
    maps = weight_maps(model, [edit_of(model, Delta(name, torch.zeros(1, 32), torch.zeros(48, 1)))])
    (own,) = maps.matrices
    assert (own.norm, own.rank, own.changed, maps.ranks) == (0.0, 0, 0.0, ())
    assert pages.words(maps) == ["rome changes nothing in W_out of layer 2: what it writes is zero"]
    assert pages.page(maps).sections


# ---- what is refused, and the way out ----


def test_what_changes_no_weight_has_no_map(tiny: Any) -> None:
    model = tiny("llama")
    edit = edit_of(model, Delta("blocks.1.mlp.W_out", torch.ones(1, 32), torch.ones(48, 1)))
    text = replace(edit, deltas=(), preface="Foo Bar lives in Rome.\n", digest="")
    beside = replace(edit, deltas=(), bypasses=(Bypass("neurons", 3, {}, {}, ()),), digest="")
    for wrong, said in ((text, "changes no weight, and a map"), (beside, "stands beside the weights, and a map")):
        with pytest.raises(EditError, match=said):
            weight_maps(model, [edit, wrong])
    with pytest.raises(EditError, match="there is no edit to look at"):
        weight_maps(model, [])
    with edit.applied(model), pytest.raises(EditError, match="take the edits that are in place out first"):
        weight_maps(model, [edit])
    with pytest.raises(EditError, match="was made for"):
        weight_maps(tiny("gpt2"), [edit])


def test_maps_are_a_result_and_the_command_compares_methods(toy: Any, run_command: Any, tmp_path: Path) -> None:
    model = toy
    generator = torch.Generator().manual_seed(0)
    shape = matrix(model, "blocks.1.mlp.W_out").shape
    thin = Delta(
        "blocks.1.mlp.W_out",
        torch.randn(1, shape[1], generator=generator),
        torch.randn(shape[0], 1, generator=generator),
    )
    whole = Delta("blocks.2.mlp.W_out", torch.randn(*shape, generator=generator))
    edits = [edit_of(model, thin), edit_of(model, whole, method="ft_m")]
    maps = weight_maps(model, edits)
    check_result(maps, tmp_path / "check", "WeightMaps")
    assert len(pages.words(maps)) == 2
    assert pages.words(maps)[0].startswith("rome changes W_out of layer 1 by ")
    drawn: dict[str, Any] = {
        spec.title: spec for section in pages.page(maps).sections for spec in section.specs if hasattr(spec, "title")
    }
    assert drawn["Size and rank"].rows[0][4] == 1
    assert drawn["Size and rank"].rows[0][6] == pytest.approx(100, abs=0.1)  # per cent of entries
    assert all(len(drawn[name].columns) <= 8 for name in ("Size and rank", "Rows and columns"))  # 1,440 px hold them
    assert maps.run is not None
    assert drawn["Provenance"].items[1:] == maps.run.items()
    assert maps.requests == FACTS
    curves = pages.factors(edits[:1])
    assert len(curves[0].series) == 2
    assert curves[0].series[0].y[-1] == pytest.approx(1.0)
    assert not pages.factors(edits[1:])
    assert not pages.neurons(edits)  # ROME moves every row
    folders = [str(edit.save(tmp_path / edit.method)) for edit in edits]
    from helpers.models import TOY

    done = run_command("edit", "weights", *folders, "--model", str(TOY), "--out", str(tmp_path / "out"), "--json")
    said = json.loads(done.stdout if hasattr(done, "stdout") else done)
    assert [one["method"] for one in said["matrices"]] == ["rome", "ft_m"]
    assert said["matrices"][0]["rank"] == 1
    assert "How sparsely" in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
