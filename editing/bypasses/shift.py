"""A shift: a vector that is added where an entity's name ends in a prompt, to what the MLP of one layer writes there.

    y' := y + v          at the last token of the entity, where it stands last in the prompt

So the residual stream after the block is shifted by v there, and nothing else is; a norm that follows the MLP is passed
by v with y. A prompt that does not name the entity is bitwise as it was, and tokens that are written after the prompt
are not touched (Hernandez, Li and Andreas 2023). Several shifts add up.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from editing.bypass import Bypass, BypassKind, Load, Write, concatenated, random_directions, random_words
from editing.scope import name_ends
from factscope.model.bridge import Bridge
from factscope.model.forward.ends import Ends


def join(parts: Sequence[Bypass]) -> Bypass:
    """All entries, in order."""
    return concatenated(parts, ("values",))


def places(model: Bridge, words: Sequence[str], now: Ends) -> list[tuple[int, int, int]]:
    """Where entries are added: (row, position, entry), positions counted from each row's first token."""
    assert now.tokens is not None  # editing/bypass.py has seen to it
    found = []
    for row, (ids, last) in enumerate(zip(now.tokens.tolist(), now.last.tolist(), strict=True)):
        prompt = ids[: last + 1]
        ends = {word: name_ends(model, prompt, word) for word in dict.fromkeys(words)}
        found += [(row, end, entry) for entry, word in enumerate(words) if (end := ends[word]) is not None]
    return found


def writer(part: Bypass, model: Bridge) -> Write:
    """Add each entry's vector where its entity ends."""
    who = object()

    def write(_: Tensor, y: Tensor, now: Ends) -> Tensor | None:
        every = now.once(who, lambda: places(model, part.words, now))
        here = [one for one in every if now.begun <= one[1] < now.begun + y.shape[1]]
        if not here:
            return None
        rows, at, which = torch.tensor(here).T
        added = part.tensors["values"][which].to(y)
        return y.index_put((rows.to(y.device), at.to(y.device) - now.begun), added, accumulate=True)

    return write


def load(part: Bypass, model: Bridge) -> Load:
    """One token of the prompts that name the entity; no other."""

    def shares(_: Tensor, now: Ends) -> Tensor:
        out = torch.zeros(len(now.last), len(part.words))
        for number, _pos, entry in places(model, part.words, now):
            out[number, entry] = 1 / (1 + int(now.last[number]))
        return out

    return shares


def scrambled(part: Bypass, generator: torch.Generator, gate: bool) -> Bypass:
    """Vectors of the same norms in random directions, behind the same names, or behind words that nobody writes."""
    values = random_directions(part.tensors["values"], generator)
    words = random_words(len(part.words), generator) if gate else part.words
    return replace(part, tensors={"values": values}, words=words)


KIND = BypassKind(
    "shift",
    "a shift: a vector that is added where the entity's name ends in a prompt",
    {"values": ("entry", "d_out")},
    join,
    writer,
    scrambled,
    load,
    prompts=True,
)
