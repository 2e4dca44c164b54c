"""How the final state moves with a state below: exact Jacobians, from one graph for all layers at once.

Row r of a batch of equal rows asks for one coordinate of the final state; backward from the sum of these coordinates
gives each row its own row of the Jacobian, and the gradients at all states come from the same pass. So the Jacobians of
all layers cost d_model / `ROWS` forward and backward passes of the positions from the asked one on.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from factscope.model.bridge import without_gradients
from factscope.model.forward.ends import ending
from tracing.states.clean import CleanRun

ROWS = 64


def jacobians(clean: CleanRun, position: int, summed: bool = False) -> Float[Tensor, "state out pos d_model"]:
    """d (final state at the last position) / d (state at each position from `position` on), for all but the last state.

    A state's position moves alone: the other positions of its layer stay as they are, and all that follows goes along.
    With `summed`, it is the sum of the final states at all positions from `position` on that is differentiated.
    """
    width, columns = clean.states.shape[-1], clean.last + 1 - position
    found = torch.empty(len(clean.kept), width, columns, width)
    with torch.enable_grad(), without_gradients(clean.frame.model):
        for begin in range(0, width, ROWS):
            out = range(begin, min(begin + ROWS, width))
            rows, taken = clean.states[0, position:].repeat(len(out), 1, 1).requires_grad_(), []
            tokens = clean.tokens.expand(len(out), -1)
            with ending(torch.full((len(out),), clean.last), position, tokens):
                for layer, (keys, values) in enumerate(clean.kept):
                    taken.append(rows)
                    kept = tuple(part[:, :, :position].expand(len(out), -1, -1, -1) for part in (keys, values))
                    rows = clean.frame.block(layer, rows, (kept[0], kept[1]) if position else None)
            final = rows.sum(1) if summed else rows[:, -1]
            asked = final[range(len(out)), out].sum()
            for state, part in enumerate(torch.autograd.grad(asked, taken)):
                found[state, begin : out.stop] = part.detach().float().cpu()
    return found
