"""How the final state moves with a state below: exact Jacobians, from one graph for all layers at once.

Row r of a batch of equal rows asks for one coordinate of the final state; backward from the sum of these coordinates
gives each row its own row of the Jacobian, and the gradients at all states come from the same pass. So the Jacobians of
all layers cost one forward pass, and d_model / rows backward passes, of the positions from the asked one on.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from factscope.model.bridge import without_gradients
from factscope.model.forward.at_once import fitting, slope_bytes
from factscope.model.forward.ends import ending
from tracing.states.clean import CleanRun

ROWS, LEAST = 320, 8  # tokens in one graph, and rows at least, or as many as find room


def jacobians(clean: CleanRun, position: int, summed: bool = False) -> Float[Tensor, "state out pos d_model"]:
    """d (final state at the last position) / d (state at each position from `position` on), for all but the last state.

    A state's position moves alone: the other positions of its layer stay as they are, and all that follows goes along.
    With `summed`, it is the sum of the final states at all positions from `position` on that is differentiated. Raises
    ModelError where the graph of not even one row finds room.
    """
    width, columns, model = clean.states.shape[-1], clean.last + 1 - position, clean.frame.model
    each = slope_bytes(model, len(clean.kept), columns, position, 0)
    size = fitting(model, min(width, max(LEAST, ROWS // columns)), each, f"the gradients of {columns} tokens")
    found = torch.empty(len(clean.kept), width, columns, width)
    with torch.enable_grad(), without_gradients(model):
        rows, taken = clean.states[0, position:].repeat(size, 1, 1).requires_grad_(), []
        with ending(torch.full((size,), clean.last), position, clean.tokens.expand(size, -1)):
            for layer, (keys, values) in enumerate(clean.kept):
                taken.append(rows)
                before = tuple(part[:, :, :position].expand(size, -1, -1, -1) for part in (keys, values))
                rows = clean.frame.block(layer, rows, (before[0], before[1]) if position else None)
        final = rows.sum(1) if summed else rows[:, -1]
        for begin in range(0, width, size):
            out = range(begin, min(begin + size, width))
            asked = final[range(len(out)), out].sum()
            for state, part in enumerate(torch.autograd.grad(asked, taken, retain_graph=out.stop < width)):
                found[state, begin : out.stop] = part[: len(out)].detach().float().cpu()
    return found
