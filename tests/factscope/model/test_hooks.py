"""Borrowing the model: what is patched is patched, what is read is read, and all of it is gone afterwards."""

from typing import Any

import pytest
import torch

from factscope.errors import ModelError
from factscope.model.hooks import HookNeverFired, Patch, flags, hooked, patched, record
from factscope.model.sites import Site
from helpers.models import hooks_left

SHAPES = ("gpt2", "llama", "neox", "gemma3")
TOKENS = torch.arange(1, 11)[None]


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_patching_every_block_output_with_another_run_gives_that_run(tiny: Any, name: str) -> None:
    model, other = tiny(name), TOKENS + 5
    site = Site("resid", model.cfg.n_layers - 1)
    with record(model, [site]) as seen:
        wanted = model(other)
    with patched(model, [Patch(site, seen[site])]):
        assert torch.equal(model(TOKENS), wanted)  # bitwise: the same arithmetic from there on


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_a_block_adds_its_attention_and_its_mlp(tiny: Any, name: str) -> None:
    model = tiny(name)
    sites = {kind: Site(kind, 2) for kind in ("resid_pre", "resid", "mlp", "attn")}
    with record(model, list(sites.values())) as seen:
        model(TOKENS)
    total = seen[sites["resid_pre"]] + seen[sites["attn"]] + seen[sites["mlp"]]
    assert torch.allclose(total, seen[sites["resid"]], atol=1e-5)  # float32


@torch.no_grad()
def test_rows_and_positions_select_a_grid_and_nothing_else_changes(tiny: Any) -> None:
    model, site = tiny("llama"), Site("mlp", 1)
    rows = TOKENS.repeat(4, 1)
    with record(model, [site]) as before:
        model(rows)
    with patched(model, [Patch(site, torch.zeros(32), rows=[1, 3], positions=[2, 5])]), record(model, [site]) as after:
        model(rows)
    changed = (before[site] != after[site]).any(-1)
    assert changed.nonzero().tolist() == [[1, 2], [1, 5], [3, 2], [3, 5]]
    assert torch.all(after[site][[1, 3]][:, [2, 5]] == 0)


@torch.no_grad()
def test_adding_and_computing_patches(tiny: Any) -> None:
    model, site = tiny("gpt2"), Site("head", 1, 2)
    with record(model, [site]) as clean:
        model(TOKENS)
    patches = [Patch(site, torch.ones(8), add=True), Patch(site, lambda old: old * 2)]
    with patched(model, patches), record(model, [site]) as seen:
        model(TOKENS)
    assert torch.allclose(seen[site], (clean[site] + 1) * 2, atol=1e-6)


def test_a_patch_that_never_fires_is_an_error(tiny: Any) -> None:
    model = tiny("gpt2")
    with pytest.raises(HookNeverFired, match="mlp3"), patched(model, [Patch(Site("mlp", 3), torch.zeros(32))]):
        model(TOKENS, stop_at_layer=2)
    assert hooks_left(model) == []


def test_a_site_that_does_not_exist_is_an_error(tiny: Any) -> None:
    with pytest.raises(ModelError, match="4 layers"), record(tiny("gpt2"), [Site("mlp", 17)]):
        pass
    with pytest.raises(ValueError, match="no site kind"):
        Site("nothing")


def test_a_silent_hook_names_its_flag_and_flags_come_back(tiny: Any) -> None:
    model, site = tiny("llama"), Site("head_result", 0)
    with pytest.raises(ValueError, match="use_attn_result"), record(model, [site]):
        pass
    with torch.no_grad(), flags(model, use_attn_result=True), record(model, [site]) as seen:
        model(TOKENS)
    assert seen[site].shape == (1, 10, 4, 32)
    assert not model.cfg.use_attn_result


def test_an_exception_inside_leaves_no_hook_and_no_flag(tiny: Any) -> None:
    model = tiny("llama")
    with pytest.raises(RuntimeError, match="ours"), flags(model, use_hook_mlp_in=True):  # noqa: SIM117
        with patched(model, [Patch(Site("mlp", 0), torch.zeros(32))]):
            raise RuntimeError("ours")
    assert hooks_left(model) == []
    assert not model.cfg.use_hook_mlp_in


def test_nested_hooks_at_one_site_leave_in_any_order(tiny: Any) -> None:
    model, site = tiny("gpt2"), Site("mlp", 0)
    outer, inner = hooked(model, [(site, lambda _: None)]), hooked(model, [(site, lambda _: None)])
    outer.__enter__()
    inner.__enter__()
    with torch.no_grad():
        model(TOKENS)
    outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    assert hooks_left(model) == []
