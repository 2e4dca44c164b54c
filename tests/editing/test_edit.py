"""Edits as values: in and out bit for bit, in any order, after anything; saved, loaded, refused, exported."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from editing import edit as editing_edit
from editing.delta import Delta, packed, unpacked
from editing.edit import Edit, applied, commit, in_place, revert
from editing.export.folder import export
from editing.merge.stack import merged
from editing.pages.edit import curves
from editing.restraint import RESTRAINTS, restrained
from editing.restraints import prune, rect
from editing.spectrum import effective_rank, factored, spectra
from editing.weights.lent import in_float32
from factscope.data.fact import Fact
from factscope.data.request import EditRequest
from factscope.errors import EditError, StoreError
from factscope.model.weights import fingerprint, live_weights

FACT = Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo")
KINDS = ("gpt2", "llama", "neox", "gemma3")
ONE, TWO = "blocks.1.mlp.W_out", "blocks.2.mlp.W_out"


def made(model, seed, weights=(ONE,), rank=2, size=0.1, **more):
    """An edit of random factors."""
    generator = torch.Generator().manual_seed(seed)
    deltas = []
    for name in weights:
        d_in, d_out = live_weights(model)[name].shape
        left, right = (size * torch.randn(*shape, generator=generator) for shape in ((d_in, rank), (rank, d_out)))
        deltas.append(Delta(name, right, left))
    fields = {
        "method": "rome",
        "config": {"layer": 1},
        "requests": (EditRequest.of(FACT),),
        "model": "tiny",
        "seed": seed,
    }
    return Edit(**fields | {"deltas": tuple(deltas), "base": fingerprint(model)} | more)


@pytest.mark.parametrize("kind", KINDS)
def test_applied_changes_the_weight_by_the_delta_and_gives_it_back_bitwise(tiny, kind):
    model = tiny(kind)
    before, matrix = fingerprint(model), live_weights(model)[ONE].clone()
    edit = made(model, 0)
    tokens = torch.tensor([[5, 6, 7]])
    logits = model(tokens)
    with edit.applied(model):
        torch.testing.assert_close(live_weights(model)[ONE], matrix + edit.deltas[0].dense(torch.float32))
        assert not torch.equal(model(tokens), logits)
        assert in_place(model) == (edit,)
    assert fingerprint(model) == before
    assert torch.equal(model(tokens), logits)
    assert in_place(model) == ()


@pytest.mark.parametrize("trouble", [ValueError, KeyboardInterrupt])
def test_the_weights_come_back_when_the_block_raises(tiny, trouble):
    model = tiny("llama")
    before = fingerprint(model)
    with pytest.raises(trouble), made(model, 0).applied(model):
        raise trouble
    assert fingerprint(model) == before
    assert in_place(model) == ()


def test_an_interrupt_while_weights_are_being_written_leaves_none_of_them(tiny, monkeypatch):
    model = tiny("llama")
    before = fingerprint(model)
    edit = made(model, 0, (ONE, TWO))
    weights = live_weights(model)

    class Interrupting(dict[str, Any]):
        count = 0

        def __getitem__(self, name):
            Interrupting.count += 1
            if Interrupting.count == 4:  # two reads for the copies, one write, then the second write
                raise KeyboardInterrupt
            return super().__getitem__(name)

    monkeypatch.setattr(editing_edit, "live_weights", lambda _: Interrupting(weights))
    with pytest.raises(KeyboardInterrupt):
        commit(model, [edit])
    assert Interrupting.count >= 4
    assert fingerprint(model) == before
    assert in_place(model) == ()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_edits_stack_and_are_undone_in_any_order(tiny, order):
    model = tiny("gpt2")
    before = fingerprint(model)
    edits = [made(model, 0), made(model, 1, (ONE, TWO)), made(model, 2, (TWO,))]
    for edit in edits:
        edit.commit(model)
    left = list(edits)
    for number in order:
        edits[number].revert(model)
        left.remove(edits[number])
        here = fingerprint(model)
        revert(model, left) if left else None
        assert fingerprint(model) == before
        commit(model, left) if left else None
        assert fingerprint(model) == here  # as if the undone edit had never been there
    assert in_place(model) == ()


def test_a_stack_merged_into_one_does_the_same(tiny):
    model = tiny("llama")
    edits = [made(model, seed, (ONE, TWO)) for seed in range(3)]
    with applied(model, edits):
        stacked = live_weights(model)[ONE].clone()
    one = merged(edits)
    assert one.deltas[0].left is not None
    assert one.deltas[0].left.shape[1] == 6
    with one.applied(model):
        torch.testing.assert_close(live_weights(model)[ONE], stacked, atol=1e-6, rtol=0)


def test_merging_more_ranks_than_the_matrix_has_gives_one_dense_change(tiny):
    model = tiny("llama")
    edits = [made(model, seed, rank=20) for seed in range(3)]
    one = merged(edits).deltas[0]
    assert one.left is None
    torch.testing.assert_close(one.dense(), sum(edit.deltas[0].dense() for edit in edits), atol=1e-6, rtol=0)


def test_another_model_a_missing_weight_and_the_same_edit_twice_are_refused(tiny):
    llama, gpt2 = tiny("llama"), tiny("gpt2")
    edit = made(llama, 0)
    with pytest.raises(EditError, match="fingerprint"):
        edit.commit(gpt2)
    with pytest.raises(EditError, match=r"blocks\.9\.mlp\.W_out"):
        replace(edit, deltas=(replace(edit.deltas[0], weight="blocks.9.mlp.W_out"),), digest="").commit(llama)
    with pytest.raises(EditError, match="twice"):
        commit(llama, [edit, edit])
    with edit.applied(llama), pytest.raises(EditError, match="already"):
        edit.commit(llama)
    with pytest.raises(EditError, match="not in place"):
        edit.revert(llama)
    with pytest.raises(EditError, match="not finite"):
        replace(edit, deltas=(replace(edit.deltas[0], right=edit.deltas[0].right * torch.nan),), digest="").commit(
            llama
        )


def test_a_weight_changed_by_somebody_else_is_noticed(tiny):
    model = tiny("llama")
    edit = made(model, 0)
    edit.commit(model)
    weight = live_weights(model)[ONE]
    here = weight.clone()
    with torch.no_grad():
        weight += 1
    with pytest.raises(EditError, match="something else"):
        edit.revert(model)
    with torch.no_grad():
        weight.copy_(here)
    edit.revert(model)


def test_an_edit_that_was_saved_with_facts_is_read_under_its_name_and_can_be_saved_again(tiny, tmp_path):
    """Before there were requests, a fact whose foil was the target stood for one; the digest was of those facts."""
    edit = made(tiny("llama"), 0, former=(asdict(FACT),))
    path = edit.save(tmp_path / "old") / "result.json"
    document = json.loads(path.read_text())
    document["schema"] = 1
    document["result"]["facts"] = document["result"].pop("former")
    del document["result"]["requests"]
    path.write_text(json.dumps(document))
    again = Edit.load(tmp_path / "old")
    assert (again.digest, again.requests) == (edit.digest, edit.requests)
    assert Edit.load(again.save(tmp_path / "new")).digest == edit.digest
    document["result"]["facts"][0]["foil"] = "Kyiv"
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="was altered"):
        Edit.load(tmp_path / "old")


def test_saved_and_loaded_it_is_the_same_edit_and_small(tiny, tmp_path):
    model = tiny("llama")
    edit = made(model, 0, curve=torch.ones(3, 1))
    again = Edit.load(edit.save(tmp_path / "edit"))
    assert again.digest == edit.digest
    assert again.requests == edit.requests
    with edit.applied(model):
        logits = model(torch.tensor([[1, 2]]))
    with again.applied(model):
        assert torch.equal(model(torch.tensor([[1, 2]])), logits)
    assert sum(file.stat().st_size for file in (tmp_path / "edit").iterdir()) < 10_000


@pytest.mark.parametrize("how", ["cut", "flip", "words"])
def test_a_file_that_was_cut_or_altered_is_refused(tiny, tmp_path, how):
    folder = made(tiny("llama"), 0).save(tmp_path / "edit")
    tensors, words = folder / "result.safetensors", folder / "result.json"
    if how == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-10])
    elif how == "flip":
        content = bytearray(tensors.read_bytes())
        content[-1] ^= 1
        tensors.write_bytes(bytes(content))
    else:
        words.write_text(words.read_text().replace("Oslo", "Bern"))
    with pytest.raises(StoreError, match=r"damaged|altered"):
        Edit.load(folder)


def test_bits_pack_and_unpack():
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(unpacked(packed(mask), 35).view(5, 7), mask)
    assert packed(mask).numel() == 5


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_model_gives_the_same_logits_in_plain_transformers(tiny, tmp_path, kind):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = tiny(kind)
    edit, before = made(model, 0, size=0.5), fingerprint(model)
    tokens = torch.tensor([[3, 9, 4, 12]])
    folder = export(model, [edit], tmp_path / "out")
    assert fingerprint(model) == before
    with edit.applied(model), torch.no_grad():
        ours = model(tokens)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        theirs = plain(tokens).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)  # the same weights; other order of operations
    assert (model(tokens) - theirs).abs().max() > 1e-3
    assert AutoTokenizer.from_pretrained(folder)("a")["input_ids"]
    assert "Oslo" in (folder / "README.md").read_text()
    assert Edit.load(folder / "edit").digest == edit.digest
    with pytest.raises(EditError, match="not empty"):
        export(model, [edit], folder)


def test_a_model_in_half_precision_comes_back_bitwise_after_float32(tmp_path, capsys):
    from factscope.model.load import load
    from helpers.models import save_tiny

    model = load(str(save_tiny("llama", tmp_path)), device="cpu", dtype="float16")
    before = fingerprint(model)

    def dtypes():
        with in_float32(model):
            return next(model.parameters()).dtype, model(torch.tensor([[1, 2]])).dtype

    with pytest.warns(UserWarning, match="float32"):
        assert dtypes() == (torch.float32, torch.float32)
    assert fingerprint(model) == before
    assert capsys.readouterr().out == ""  # standard output is for results


# ---- restraints and spectra ----


def test_factored_is_the_dense_decomposition_without_forming_it(tiny):
    delta = made(tiny("llama"), 0, rank=3).deltas[0]
    left, values, right = factored(delta)
    assert values.shape == (3,)
    torch.testing.assert_close(values, torch.linalg.svdvals(delta.dense())[:3], atol=1e-9, rtol=0)
    torch.testing.assert_close(left * values @ right, delta.dense(), atol=1e-9, rtol=0)


def test_effective_rank_counts_equal_directions():
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0])) == pytest.approx(3)
    assert effective_rank(torch.tensor([2.0, 0.0])) == pytest.approx(1)
    assert effective_rank(torch.zeros(2)) == 0


@pytest.mark.parametrize("config", [prune.Config(), prune.Config(alpha=1.5), prune.Config(mode="linear")])
def test_prune_is_the_identity_below_and_monotone_and_continuous_above(config):
    top = 3.0
    values = torch.linspace(0.1, 30, 500, dtype=torch.float64)
    held = prune.hold(values, top, config)
    below = values <= top
    assert torch.equal(held[below], values[below])
    assert (held.diff() > 0).all()
    assert (held[~below] < values[~below]).all()
    near = torch.tensor([top, top + 1e-9], dtype=torch.float64)
    assert float(prune.hold(near, top, config).diff()) < 1e-8


def test_prune_refuses_a_logarithm_that_amplifies():
    """s_max = 3, s = 4, base 1.2 gives 4.58: larger than it was."""
    with pytest.raises(
        EditError, match=r"1\.2 would make .* larger.*--set restrain\.alpha=.*--set restrain\.mode=linear"
    ):
        prune.hold(torch.tensor([4.0]), 3.0, prune.Config(alpha=1.2))
    with pytest.raises(EditError, match="no mode"):
        prune.hold(torch.tensor([4.0]), 3.0, prune.Config(mode="cube"))


def test_prune_holds_the_spectrum_of_a_stack_and_keeps_its_rank(tiny):
    model = tiny("llama")
    edits = [made(model, seed, size=2.0) for seed in range(2)]
    top = float(torch.linalg.svdvals(live_weights(model)[ONE])[0])
    config = prune.Config(mode="linear")
    one = restrained(model, edits, "prune", config)
    before, after = (factored(delta)[1] for delta in (merged(edits).deltas[0], one.deltas[0]))
    torch.testing.assert_close(after, prune.hold(before, top, config), atol=1e-4, rtol=1e-5)
    assert one.restraints == ("prune linear",)
    gentle = [made(model, 5, size=1e-3)]
    untouched = restrained(model, gentle, "prune", config)
    left, before_left = untouched.deltas[0].left, gentle[0].deltas[0].left
    assert left is not None
    assert before_left is not None
    assert torch.equal(left, before_left)
    assert "unchanged" in untouched.notes[-1]


def test_rect_keeps_the_largest_relative_changes_and_all_of_them_is_the_edit_itself(tiny):
    model = tiny("gpt2")
    edit = made(model, 0)
    weight, dense = live_weights(model)[ONE].double(), edit.deltas[0].dense()
    some = restrained(model, [edit], "rect", rect.Config(keep=0.25)).deltas[0].dense()
    kept = some != 0
    assert int(kept.sum()) == round(0.25 * dense.numel())
    assert torch.equal(some[kept], dense[kept])
    ratio = (dense / weight).abs()
    assert ratio[kept].min() >= ratio[~kept].max()
    assert torch.equal(restrained(model, [edit], "rect", rect.Config(keep=1.0)).deltas[0].dense(), dense)
    with pytest.raises(EditError, match="between 0 and 1"):
        restrained(model, [edit], "rect", rect.Config(keep=0.0))


@pytest.mark.parametrize("name", RESTRAINTS.names())
def test_every_restraint_gives_an_edit_that_saves_loads_and_applies(tiny, tmp_path, name):
    model = tiny("neox")
    config = prune.Config(mode="linear") if name == "prune" else None
    one = restrained(model, [made(model, 0, size=2.0), made(model, 1, (ONE, TWO))], name, config)
    again = Edit.load(one.save(tmp_path / "edit"))
    before = fingerprint(model)
    with again.applied(model):
        assert fingerprint(model) != before
    for ours, theirs in zip(one.deltas, again.deltas, strict=True):
        assert torch.equal(ours.dense(), theirs.dense())


def test_an_edit_has_one_change_of_a_weight(tiny):
    with pytest.raises(EditError, match="several changes of one weight"):
        made(tiny("llama"), 0, (ONE, ONE))


def test_a_learning_curve_keeps_each_facts_last_loss_and_leaves_out_facts_that_never_learned(tiny):
    model, none = tiny("llama"), torch.nan
    curve = torch.tensor([[3.0, none, 4.0], [1.0, none, none], [2.0, none, none]])
    (drawn,) = curves([made(model, 0, curve=curve)])
    assert drawn.series[0].y.tolist() == [3.5, 2.5, 3.0]
    assert curves([made(model, 0, curve=curve[:, 1:2])]) == ()


def test_spectra_are_those_of_the_dense_matrices(tiny):
    model = tiny("llama")
    edits = [made(model, 0), made(model, 1, (ONE, TWO))]
    found = {(s.weight, s.edits): s for s in spectra(model, edits)}
    assert set(found) == {(ONE, 0), (ONE, 1), (ONE, 2), (TWO, 0), (TWO, 2)}
    change = sum(edit.deltas[0].dense() for edit in edits)
    weight = live_weights(model)[ONE].double()
    values = torch.linalg.svdvals(weight + change)
    last = found[ONE, 2]
    assert last.largest == pytest.approx(float(values[0]))
    assert last.condition == pytest.approx(float(values[0] / values[-1]))
    assert last.update_largest == pytest.approx(float(torch.linalg.svdvals(change)[0]), rel=1e-6)
    assert last.share == pytest.approx(float(change.norm() / weight.norm()), rel=1e-6)
