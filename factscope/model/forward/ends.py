"""Where the prompt of each row ends, for what decides once by the prompt: the gate of an edit beside a module.

A decision that looked at the whole row would be another while an answer is being written than when it is scored. So
whoever runs prompts says with `ending` where they end, and a gate decides there, once for each row, in the one pass
that runs this token. A gate that looks at the whole prompt (at its words, or at a mean over its tokens) acts on every
position of its row, also on those before what it was decided by; what it decided is kept for the passes that follow. A
pass that nobody spoke for (`model(tokens)`, a trace, a circuit) is taken as prompts that fill their rows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(eq=False)
class Ends:
    """The prompts of the rows that are run, in one pass or in several that continue each other."""

    last: Tensor  # [row] the position of each prompt's last token
    begun: int = 0  # positions that earlier passes have run
    tokens: Tensor | None = None  # [row pos] the rows from their first tokens on, where they are known
    decided: dict[int, Any] = field(default_factory=dict)  # what gates have decided about these rows, by who asks

    def once(self, who: object, decide: Callable[[], T]) -> T:
        """What `who` decided about these rows: now, or in an earlier pass."""
        if id(who) not in self.decided:
            self.decided[id(who)] = decide()
        found: T = self.decided[id(who)]
        return found


_ENDS: ContextVar[Ends | None] = ContextVar("ends", default=None)


@contextmanager
def ending(last: Tensor, begun: int = 0, tokens: Tensor | None = None) -> Iterator[Ends]:
    """The block runs prompts whose last tokens stand at `last` [row], counted from each row's first token.

    `tokens` [row pos] are the rows from their first tokens on, for gates that read words.
    """
    now = Ends(last, begun, tokens)
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
