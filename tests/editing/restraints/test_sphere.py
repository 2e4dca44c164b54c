"""SPHERE: nothing, everything, and a weight small enough for paper."""

import pytest
import torch

from editing.delta import Delta
from editing.edit import Edit
from editing.restraint import restrained
from editing.restraints import sphere
from factscope.data.fact import Fact
from factscope.data.request import requests_of
from factscope.errors import EditError
from factscope.model.weights import fingerprint, live_weights

NAME = "blocks.1.mlp.W_out"
FACTS = requests_of((Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),))


def made(model, thin=True):
    """An edit of random factors, or the same as a whole matrix."""
    generator = torch.Generator().manual_seed(0)
    d_in, d_out = live_weights(model)[NAME].shape
    left, right = torch.randn(d_in, 2, generator=generator), torch.randn(2, d_out, generator=generator)
    delta = Delta(NAME, right, left) if thin else Delta(NAME, left @ right)
    return Edit("rome", {}, FACTS, (delta,), base=fingerprint(model), model="tiny", seed=0)


def test_the_directions_are_those_that_the_outputs_read_whatever_their_size():
    """Two outputs read the first key coordinate, one the second; scaled to length 1 the first holds two thirds."""
    matrix = torch.tensor([[1.0, 5.0, 0.0], [0.0, 0.0, 100.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).double()
    one, two = sphere.principal(matrix, 0.5), sphere.principal(matrix, 0.7)
    torch.testing.assert_close(one.abs(), torch.eye(4).double()[:, :1])
    torch.testing.assert_close(two @ two.T, torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])).double())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_alpha_0_is_the_edit_and_alpha_1_leaves_nothing_along_the_directions(tiny, kind):
    model = tiny(kind)
    edit, weight = made(model), live_weights(model)[NAME].double()
    assert torch.equal(restrained(model, [edit], "sphere", sphere.Config(alpha=0.0)).deltas[0].dense(), dense(edit))
    held = restrained(model, [edit], "sphere", sphere.Config(alpha=1.0))
    along = sphere.principal(weight, 0.5)
    assert along.shape[0] == weight.shape[0]  # the side of the keys, also where a model stores its weights transposed
    torch.testing.assert_close(along.T @ dense(held), torch.zeros_like(along.T @ dense(held)), atol=1e-5, rtol=0)
    beside = dense(edit) - along @ (along.T @ dense(edit))
    torch.testing.assert_close(dense(held), beside, atol=1e-5, rtol=1e-5)
    assert held.deltas[0].low_rank
    assert held.restraints == ("sphere 0.5 1",)


def test_a_whole_matrix_is_held_as_its_factors_are_and_half_is_half_way(tiny):
    model = tiny("llama")
    thin, whole, all_of_it = (
        dense(restrained(model, [made(model, thin)], "sphere", sphere.Config(alpha=alpha)))
        for thin, alpha in ((True, 0.5), (False, 0.5), (True, 1.0))
    )
    torch.testing.assert_close(thin, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(thin, (dense(made(model)) + all_of_it) / 2, atol=1e-5, rtol=1e-5)


def test_a_share_is_a_share(tiny):
    model = tiny("llama")
    for config in (sphere.Config(alpha=1.5), sphere.Config(share=-0.1)):
        with pytest.raises(EditError, match="between 0 and 1"):
            restrained(model, [made(model)], "sphere", config)


def dense(edit):
    return edit.deltas[0].dense()
