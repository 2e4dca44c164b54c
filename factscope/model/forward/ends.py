"""Where the prompt of each row ends, for what decides once by the prompt: the gate of an edit beside a module.

A decision that looked at the whole row would be another while an answer is being written than when it is scored. So
whoever runs prompts says with `ending` where they end, and a gate decides there, once for each row, in the one pass
that runs this token. A pass that nobody spoke for (`model(tokens)`, a trace, a circuit) is taken as prompts that fill
their rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Ends:
    """The prompts of the rows that are run, in one pass or in several that continue each other."""

    last: Tensor  # [row] the position of each prompt's last token
    begun: int = 0  # positions that earlier passes have run


_ENDS: ContextVar[Ends | None] = ContextVar("ends", default=None)


@contextmanager
def ending(last: Tensor, begun: int = 0) -> Iterator[Ends]:
    """The block runs prompts whose last tokens stand at `last` [row], counted from each row's first token."""
    now = Ends(last, begun)
    token = _ENDS.set(now)
    try:
        yield now
    finally:
        _ENDS.reset(token)


def ends_of(rows: int, width: int) -> Ends:
    """What is known of a pass of so many rows and positions."""
    now = _ENDS.get()
    if now is None:
        return Ends(torch.full((rows,), width - 1))
    if len(now.last) != rows:
        raise RuntimeError(f"a pass of {rows} rows where the prompts of {len(now.last)} are announced")
    return now
