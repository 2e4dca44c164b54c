"""A weight seen as the matrix that it multiplies with."""

from typing import Any

import pytest
import torch

from factscope.model.hooks import record
from factscope.model.sites import Site
from factscope.model.weights import PROJECTIONS, WeightName, as_matrix, from_matrix, live_weights

TOKENS = torch.tensor([[0, 5, 9, 12, 40, 7]])


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "qwen3", "olmo2", "gemma2", "phi", "falcon 40b", "llama biased"])
def test_a_projection_writes_what_it_reads_times_its_matrix(family: Any, name: str) -> None:
    """But for a bias, which the differences between positions do not have."""
    model = family(name)
    weights, met = live_weights(model), 0
    for part, kinds in PROJECTIONS.items():
        weight = WeightName(1, part)
        if str(weight) not in weights:
            continue
        met += 1
        sites = [Site(kind, 1) for kind in kinds]
        with record(model, sites) as seen:
            model(TOKENS, use_cache=False)
        read, wrote = (seen[site].flatten(2)[0] for site in sites)
        product = read @ as_matrix(str(weight), weights[str(weight)])
        torch.testing.assert_close(product - product[:1], wrote - wrote[:1], atol=1e-5, rtol=1e-4)
    assert met >= 6  # attention's four and an MLP's two


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_matrix_becomes_the_weight_again(tiny: Any, kind: str) -> None:
    for name, weight in live_weights(tiny(kind)).items():
        matrix = as_matrix(name, weight)
        assert torch.equal(from_matrix(name, matrix, weight), weight)
        if any(name.endswith(part) for part in PROJECTIONS):
            assert matrix.ndim == 2
