"""Which facts a model knows: one meaning of the word, as a value that is printed and recorded.

A model knows a fact if the first token of its answer is among the `within` most probable next tokens after its prompt.
The default is the first alone, what the model would say; a circuit may be found for a fact that is known in a weaker
sense. The answer's rank is that of `readout.rank`: a tie counts against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.model.forward.batched import logits_at
from factscope.model.prompts import Prompt
from factscope.model.readout import rank

_AT_ONCE = 256  # prompts whose logits are held together


@dataclass(frozen=True)
class Known:
    """What it means that a model knows a fact; reads as "top 1"."""

    within: int = 1  # the answer is among so many most probable tokens

    def __post_init__(self) -> None:
        if self.within < 1:
            raise UserError(f"an answer cannot be among the first {self.within} tokens; known is top 1 or more")

    @classmethod
    def top(cls, n: int) -> "Known":
        """Among the `n` most probable tokens."""
        return cls(n)

    def __str__(self) -> str:
        return f"top {self.within}"

    def holds(self, answer_rank: int) -> bool:
        """Whether a fact whose answer has this rank is known."""
        return answer_rank <= self.within

    def prompts(self, model: Bridge, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
        """The prompts whose answers `model` knows, in order."""
        ranks = answer_ranks(model, prompts)
        return tuple(prompt for prompt, place in zip(prompts, ranks, strict=True) if self.holds(place))


@torch.no_grad()
def answer_ranks(model: Bridge, prompts: Sequence[Prompt]) -> list[int]:
    """Rank of each prompt's answer among all next tokens, 1 for the most probable; prompts may be of any length."""
    found: list[int] = []
    for some in (prompts[begin : begin + _AT_ONCE] for begin in range(0, len(prompts), _AT_ONCE)):
        logits = logits_at(model, [p.tokens for p in some], [[len(p.tokens) - 1] for p in some])
        found += [int(rank(own[0], p.answer_ids[0])) for own, p in zip(logits, some, strict=True)]
    return found
