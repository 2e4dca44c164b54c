"""Which attention is knocked out: tokens by their role in the sentence, and random sets to compare them with."""

from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from factscope.errors import PromptError
from factscope.model.prompts import Prompt
from tracing.flow.results import SOURCES, TARGETS, Knockout

_ALL = 5000  # sets that are listed rather than drawn
FEW = 5  # other sets below which they say nothing, and are not run


def knockouts_of(
    prompt: Prompt, targets: Sequence[str], sources: Sequence[str], answer: int = 1
) -> tuple[Knockout, ...]:
    """The knockouts of a prompt, an answer of `answer` tokens behind it; those of no token are left out.

    Where `sources` names what the prompt does not have at any target, PromptError: a knockout of nothing.
    """
    found = [one for target in targets for source in SOURCES if (one := _knockout(prompt, target, source, answer))]
    for source in sources:
        if not any(one.source == source for one in found):
            places = " and ".join(TARGETS[target] for target in targets)
            raise PromptError(
                f"there is nothing to knock out: in {prompt.text!r} no token is {SOURCES[source]} as seen from {places}"
            )
    chosen = tuple(one for one in found if not sources or one.source in sources)
    if not chosen:
        raise PromptError(f"there is nothing to knock out: in {prompt.text!r} no token sees an earlier one")
    return chosen


def _knockout(prompt: Prompt, target: str, source: str, answer: int) -> Knockout | None:
    """One knockout; None where the prompt has no such tokens, or where another source says the same."""
    last, (first, after) = len(prompt.tokens) - 1, prompt.subject_span
    place = last if target == "last token" else after - 1
    queries = tuple(range(last, last + answer)) if target == "last token" else (place,)
    keys = {
        "subject": range(first, min(after, place)),
        "last subject": range(after - 1, min(after, place)) if after - first > 1 else range(0),
        "relation": [i for i in range(prompt.n_start, place) if not first <= i < after],
        "itself": queries,
        "start token": range(prompt.n_start),
    }[source]
    if not keys or (target == "last subject" and place == last):  # a subject that ends the prompt
        return None
    return Knockout(target, source, queries, tuple(keys))


def closed(knockout: Knockout, positions: int) -> Bool[Tensor, "query key"]:
    """The edges of a knockout among so many positions; later tokens are hidden already."""
    edges = torch.zeros(positions, positions, dtype=torch.bool)
    for query in knockout.queries:
        for key in knockout.keys:
            edges[query, key] = key <= query
    return edges


def random_sets(prompt: Prompt, knockout: Knockout, count: int, seed: int) -> list[Knockout]:
    """Up to `count` other sets of as many words of the prompt; all that there are, none where they are under `FEW`.

    The words are all that the target sees in the prompt, the target among them, but not the start token: models park
    attention there, and its knockout is no fair comparison for words.
    """
    place = knockout.queries[0]
    words = range(prompt.n_start, place + 1)
    size = len([key for key in knockout.keys if key <= place])
    if count < 1 or comb(len(words), size) <= FEW:
        return []
    if comb(len(words), size) <= _ALL:
        every = [keys for keys in combinations(words, size) if keys != knockout.keys[:size]]
        order = np.random.default_rng(seed).permutation(len(every))[:count]
        drawn = [every[i] for i in sorted(order.tolist())]
    else:
        generator, sets = np.random.default_rng(seed), set[tuple[int, ...]]()
        while len(sets) < count:
            keys = tuple(sorted(generator.choice(len(words), size, replace=False).tolist()))
            sets.add(tuple(words[i] for i in keys))
        drawn = sorted(sets - {knockout.keys[:size]})
    return [Knockout(knockout.target, knockout.source, knockout.queries, keys) for keys in drawn]
