"""What a router did: load, consistency and specialisation of experts, from how prompts met them when they were edited.

    load            share of a prompt's tokens whose most likely expert it is; of several prompts their mean
    consistency     the share of what a group of prompts asks that goes to the expert which most of it goes to: 1 where
                    one expert answers all (Wang and Li 2024, eq. 13). *Same* knowledge: the prompt of a fact with its
                    paraphrases. *Similar*: facts of one group
    specialisation  half the absolute difference between the load of a group and that of all, summed over experts and
                    averaged over groups: 0 where all groups are answered alike, towards 1 where each has its own
    balance         entropy of the load of all, over its largest: 1 where all experts are used alike

All are shares from 0 to 1, of prompts in scope that were edited or paraphrase what was; neighbours are left out.
Groups of similar knowledge are the relations where an edit has several, or `groups` of vectors: the paper's five
groups by k-means on cosine similarity.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from editing.bypass import Met
from editing.edit import Edit

ROUNDS = 50  # of k-means, at most


@dataclass(frozen=True)
class Routing:
    """How the experts of one edit were used."""

    load: tuple[float, ...]
    by_group: dict[str, tuple[float, ...]]
    same: float  # consistency of a fact with its paraphrases, the mean over facts
    similar: float  # of a group with itself, the mean over groups
    specialisation: float
    balance: float


def routing(edit: Edit, group: Mapping[int, str] | None = None) -> Routing | None:
    """Of an edit with experts; None where no prompt was in its scope.

    `group` says which group each fact is of, by its number in the edit; without it, its relation.
    """
    own = answered(edit)
    if not own:
        return None
    named = group or {number: request.relation for number, request in enumerate(edit.requests)}
    members: dict[str, list[Met]] = {}
    facts: dict[int, list[Met]] = {}
    for one in own:
        members.setdefault(named[one.fact], []).append(one)
        facts.setdefault(one.fact, []).append(one)
    load, by_group = mean_load(own), {name: mean_load(some) for name, some in members.items()}
    apart = [sum(abs(a - b) for a, b in zip(each, load, strict=True)) / 2 for each in by_group.values()]
    shares = np.array([share for share in load if share > 0])
    entropy = float(-(shares * np.log(shares)).sum()) / np.log(len(load)) if len(load) > 1 else 1.0
    return Routing(
        load, by_group, _mean(consistency(some) for some in facts.values()),
        _mean(consistency(some) for some in members.values()), _mean(apart), entropy,
    )  # fmt: skip


def answered(edit: Edit) -> list[Met]:
    """The prompts in scope that were edited or paraphrase what was."""
    return [one for one in edit.met if one.opened and one.about != "neighbour"]


def mean_load(some: Sequence[Met]) -> tuple[float, ...]:
    """Of several prompts, each counting the same."""
    return tuple(np.array([one.load for one in some]).mean(0).tolist())


def consistency(some: Sequence[Met]) -> float:
    """The largest share of these prompts' mean load."""
    return max(mean_load(some))


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def groups(vectors: Float[Tensor, "fact d"], count: int, seed: int = 0) -> Int[Tensor, " fact"]:
    """k-means by cosine similarity: the group of each vector, from 0 on; no more groups than vectors.

    Begins with a drawn vector, and then with the one that is least like any that was taken, again and again.
    """
    unit = torch.nn.functional.normalize(vectors.double() - vectors.double().mean(0), dim=-1)
    taken = [int(torch.randint(len(unit), (1,), generator=torch.Generator().manual_seed(seed)))]
    while len(taken) < min(count, len(unit)):
        taken.append(int((unit @ unit[taken].T).max(1).values.argmin()))
    centres, found = unit[taken], torch.full((len(unit),), -1)
    for _ in range(ROUNDS):
        now = (unit @ centres.T).argmax(1)
        if torch.equal(now, found):
            break
        found = now
        sums = torch.zeros_like(centres).index_add(0, found, unit)
        full = torch.bincount(found, minlength=len(centres)) > 0
        centres = torch.where(full[:, None], torch.nn.functional.normalize(sums, dim=-1), centres)
    return found
