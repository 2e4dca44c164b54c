"""How far a lens is from the model's own prediction, on texts that it was not made of: KL(final || lens), in nats."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from factscope.model.bridge import Bridge
from factscope.model.readout import readout
from tracing.states.clean import CleanRun

Moved = Callable[[int, Tensor], Tensor]  # a state's number, its values -> where a lens unembeds them


def as_it_is(state: int, values: Tensor) -> Tensor:
    """The logit lens."""
    del state
    return values


@torch.no_grad()
def held_out(
    model: Bridge, lenses: Sequence[Moved], rows: Sequence[Sequence[int]], skip: int
) -> Float[Tensor, "lens state"]:
    """Mean divergence of each lens at each state, over the positions of the rows of tokens but the first `skip`."""
    sums, count = list[Tensor](), 0
    for row in rows:
        states = CleanRun.of(model, row, check=False).states[:, skip:]
        own = _logs(model, states[-1])
        sums.append(
            torch.stack(
                [
                    torch.stack([_divergence(model, lens(n, one), own) for n, one in enumerate(states)])
                    for lens in lenses
                ]
            )
        )
        count += len(own)
    return torch.stack(sums).sum(0) / count


def _divergence(model: Bridge, values: Float[Tensor, "pos d_model"], own: Float[Tensor, "pos vocab"]) -> Tensor:
    return (own.exp() * (own - _logs(model, values))).sum()


def _logs(model: Bridge, states: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos vocab"]:
    return torch.log_softmax(readout(model).logits(states).float().cpu(), -1)
