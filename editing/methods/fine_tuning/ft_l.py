"""FT-L: fine-tune one MLP matrix on the last position alone, as published (EasyEdit's "prompt_last"; ROME's FT).

What it does: as FT-M, but every target token is asked for at the last token of the prompt:

    loss = mean over facts of -(1/T) sum_t log p(target_t | prompt)

For a target of one token that is FT-M's loss exactly. For a longer one a single distribution is asked to be several
tokens at once, so the loss cannot go below log T and the target is not learned as a sequence. That is what the
published figures named FT-L measure; it is kept to be compared with, and is a mistake to build on.

When not to use it: always use FT-M instead, except to reproduce a figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.methods.fine_tuning import ft_m


@dataclass(frozen=True)
class Config(ft_m.Config):
    """The same as FT-M's."""


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Fine-tune on all target tokens at the prompt's last position."""
    return ft_m.tune(inputs, config, wanted=last_position)[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """The same for every fact alone, all of them side by side."""
    return ft_m.tune(inputs, config, apart=True, wanted=last_position)


def last_position(first: int, target: Sequence[int]) -> tuple[list[int], list[int]]:
    """Every target token at the prompt's last position."""
    return [first] * len(target), list(target)


METHOD = MethodSpec(
    "ft_l",
    "Adam on one matrix, from the prompt's last position alone, as first published",
    Config,
    compute,
    compute_each,
    place="mlp",
    good_for="reproducing a figure",
    not_for="anything else: FT-M learns answers of several tokens, too",
)
