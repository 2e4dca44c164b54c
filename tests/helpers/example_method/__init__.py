"""An editing method in a package of its own, as another distribution would offer it; see test_method.py."""

from dataclasses import dataclass
from typing import Any

import torch

from editing.delta import Delta
from editing.method import MethodInputs, MethodOutput, MethodSpec


@dataclass(frozen=True)
class Config:
    """How large the change is, and where."""

    layer: int = 0
    size: float = 0.01

    @classmethod
    def for_model(cls, _: Any) -> "Config":
        """The same for every model."""
        return cls()


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """A rank-one change in one direction, whatever the facts are."""
    size = inputs.model.cfg
    right, left = torch.full((1, size.d_model), config.size), torch.ones(size.d_mlp, 1)
    return MethodOutput((Delta(f"blocks.{config.layer}.mlp.W_out", right, left),))


METHOD = MethodSpec("push", "a push in one direction, to show how a method is added", Config, compute, place="mlp")
