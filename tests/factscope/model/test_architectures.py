"""The architecture table: every family equal to plain transformers, or refused in one sentence."""

from typing import Any

import pytest
import torch

from factscope.errors import ModelError
from factscope.model.bridge import info
from helpers.architectures import FAMILIES, plain

TOKENS = torch.tensor([[0, 17, 200, 31, 5, 90, 4, 61, 12]])


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return str(request.param)


def loaded(family: Any, name: str) -> Any:
    """The family's model; a refusal of it is the end of the test."""
    try:
        return family(name)
    except ModelError as refusal:
        pytest.skip(str(refusal))


@torch.no_grad()
def test_the_logits_are_those_of_plain_transformers(family: Any, name: str) -> None:
    model = loaded(family, name)
    torch.testing.assert_close(model(TOKENS), plain(info(model).source)(TOKENS).logits, atol=2e-6, rtol=1e-5)
