"""A second moment pulled towards its diagonal: its limits, its likelihood, and whether the direction gets better."""

import math

import pytest
import torch
from torch import Tensor

from editing.solve.shrinkage import PRIORS, chosen, shrunk


def truth(width: int, alike: float) -> Tensor:
    """A second moment with variances of many sizes and this correlation."""
    scale = torch.logspace(-1, 1, width, dtype=torch.float64)
    mixed: Tensor = torch.full((width, width), alike, dtype=torch.float64).fill_diagonal_(1.0)
    found: Tensor = scale[:, None] * mixed * scale
    return found


def draws(matrix: Tensor, keys: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(keys, len(matrix), generator=generator, dtype=torch.float64)
    found: Tensor = white @ torch.linalg.cholesky(matrix).T
    return found


def moment(rows: Tensor) -> Tensor:
    return rows.T @ rows / len(rows)


def test_the_limits_of_the_prior_are_the_counted_matrix_and_its_diagonal() -> None:
    counted = moment(draws(truth(6, 0.3), 40, 0))
    assert torch.equal(shrunk(counted, 40, 0), counted)
    torch.testing.assert_close(shrunk(counted, 40, 1e9), torch.diag(counted.diagonal()), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(shrunk(counted, 10**12, 8.0), counted, atol=1e-9, rtol=1e-9)
    # 40 keys and 2 for each of 6 dimensions: by hand
    off = shrunk(counted, 40, 2.0)[0, 1]
    assert float(off) == pytest.approx(float(counted[0, 1]) * 40 / 52)


def test_a_dimension_in_which_nothing_fires_leaves_it_definite() -> None:
    rows = draws(truth(5, 0.3), 40, 0)
    rows[:, 2] = 0.0
    assert torch.linalg.eigvalsh(shrunk(moment(rows), 40, 4.0))[0] > 0


def test_the_prior_is_the_one_of_highest_likelihood_on_the_other_keys() -> None:
    """Against the density of a Gaussian, row by row, which knows nothing of eigenvectors."""
    rows = draws(truth(7, 0.4), 60, 1)
    first, second = rows[:30], rows[30:]
    means = []
    for prior in PRIORS:
        of = torch.distributions.MultivariateNormal(torch.zeros(7).double(), shrunk(moment(first), 30, prior))
        means.append(float(of.log_prob(second).mean()))
    assert chosen(moment(first), moment(second), 30) == PRIORS[means.index(max(means))]


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_the_direction_of_an_update_is_nearer_to_the_truth(alike: float) -> None:
    """Most where the diagonal is the truth; and where it is not, held-out keys keep the prior small."""
    width, real = 40, truth(40, alike)
    keys, wanted = draws(real, 20, 9).T, []
    for seed in range(4):
        rows = draws(real, 8 * width, seed)
        half = 4 * width
        prior = chosen(moment(rows[:half]), moment(rows[half:]), half)
        wanted.append((cosine(shrunk(moment(rows), len(rows), prior), real, keys), cosine(moment(rows), real, keys)))
    pulled, counted = (math.fsum(each) / len(wanted) for each in zip(*wanted, strict=True))
    assert pulled > counted


def cosine(one: Tensor, other: Tensor, keys: Tensor) -> float:
    mine, theirs = (torch.linalg.solve(matrix, keys) for matrix in (one, other))
    return float(torch.cosine_similarity(mine, theirs, dim=0).mean())
