"""The device that is not there (helpers/pretend.py) refuses what a GPU refuses, and allows what a GPU allows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.pretend import PRETENDED, Pretend, _Made, pretended

HERE, THERE = torch.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(2, 3).as_subclass(Pretend)
INDEX = torch.tensor([1, 0])

REFUSED: dict[str, Callable[[], Any]] = {
    "arithmetic": lambda: THERE + HERE,
    "a product": lambda: HERE @ THERE.T,
    "in place": lambda: HERE.clone().add_(THERE),
    "joined": lambda: torch.cat([THERE, HERE]),
    "a number joined": lambda: torch.stack([THERE.sum(), HERE.sum()]),
    "index_add": lambda: THERE.index_add(0, INDEX, THERE),
    "gather": lambda: THERE.gather(1, INDEX[:, None]),
    "embedding": lambda: nn.functional.embedding(INDEX, THERE),
    "where": lambda: torch.where(HERE > 2, THERE, THERE),
    "a value set": lambda: THERE.clone().__setitem__(INDEX, HERE),
    "numpy": lambda: THERE.numpy(),
}
ALLOWED: dict[str, Callable[[], Any]] = {
    "a number": lambda: THERE * torch.tensor(2.0),
    "indices": lambda: THERE[INDEX],
    "a mask": lambda: THERE[HERE > 2],
    "a copy": lambda: THERE.clone().copy_(HERE),
    "a slice set": lambda: THERE.clone().__setitem__(slice(0, 1), HERE[:1]),
    "a list": lambda: THERE.tolist(),
    "words": lambda: f"{THERE.sum():.2f}",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_gpu_refuses(what: str) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"two devices|numpy"):
        REFUSED[what]()


@pytest.mark.parametrize("what", ALLOWED)
def test_what_a_gpu_allows(what: str) -> None:
    found = ALLOWED[what]()
    assert not isinstance(found, Tensor) or isinstance(found, Pretend)


def test_tensors_are_where_they_were_made_or_moved() -> None:
    with _Made():
        made_there = (torch.zeros(2, device=PRETENDED), torch.tensor([1], device="mps"), torch.zeros_like(THERE))
        sent = (HERE.to(PRETENDED), HERE.to(THERE), HERE.to(device=PRETENDED))
        for made in (*made_there, *sent, THERE.new_zeros(2)):
            assert made.device == PRETENDED
            assert isinstance(made, Pretend)
        for back in (THERE.cpu(), THERE.to("cpu"), THERE.to(HERE), THERE.new_zeros(2, device="cpu"), torch.zeros(2)):
            assert back.device.type == "cpu"
            assert type(back) is Tensor


def test_gradients_are_where_their_tensors_are() -> None:
    leaf = THERE.clone().requires_grad_(True)
    (leaf * leaf).sum().backward()
    assert isinstance(leaf.grad, Pretend)
    (other,) = torch.autograd.grad((leaf * 3).sum(), leaf)
    assert isinstance(other, Pretend)
    assert torch.equal(other.cpu(), torch.full((2, 3), 3.0))


def test_a_model_goes_there_and_comes_back(tiny: Any) -> None:
    model = tiny("llama")
    tokens, kept = torch.tensor([[1, 2, 3]]), [*model.parameters()]
    here = model(tokens)
    with pretended(model):
        assert all(isinstance(one, Pretend) for one in model.parameters())
        assert torch.equal(model(tokens.to(PRETENDED)).cpu(), here)
        with pytest.raises(RuntimeError, match=r"embedding is given tensors of two devices.*on mps:0.*on cpu"):
            model(tokens)
    assert all(one is other for one, other in zip(model.parameters(), kept, strict=True))
    assert torch.equal(model(tokens), here)
