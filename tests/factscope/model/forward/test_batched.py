"""Rows of any length in one batch against each by itself."""

import pytest
import torch

from factscope.model.forward.batched import logits_at, padded, states_at
from factscope.model.hooks import record
from factscope.model.sites import Site


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma3"])
def test_logits_at_wanted_positions_are_the_models(tiny, kind):
    model = tiny(kind)
    rows = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]]
    found = logits_at(model, rows, [[1, 4], [1], [0, 2]])
    for row, places, logits in zip(rows, [[1, 4], [1], [0, 2]], found, strict=True):
        torch.testing.assert_close(logits, model(torch.tensor([row]))[0, places], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma3"])
@pytest.mark.parametrize("top", [0, -1])
def test_states_are_those_that_pass_in_the_whole_model(tiny, kind, top):
    """Stopped above the highest site, or run without the unembedding, beside longer rows or alone."""
    model = tiny(kind)
    sites = [Site("resid_pre", 0), Site("mlp_write", top % model.cfg.n_layers)]
    rows = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]]
    found = states_at(model, padded(model, rows), torch.tensor([len(row) - 1 for row in rows]), sites)
    for number, row in enumerate(rows):
        with torch.no_grad(), record(model, sites) as seen:
            model(torch.tensor([row]))
        for site in sites:
            torch.testing.assert_close(found[site][number, : len(row)], seen[site][0], atol=1e-5, rtol=1e-4)
