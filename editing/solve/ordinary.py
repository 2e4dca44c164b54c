"""What stands at a place of the model in an edit's prompts, and in ordinary ones.

The latter are a yardstick of distance, and what an edit must not meet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from editing.requests import bare_prompt
from factscope.data.request import EditRequest
from factscope.data.shipped import relations
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.batched import padded, states_at
from factscope.model.prompts import tokenized
from factscope.model.sites import Site


def at_prompts(
    model: Bridge, requests: Sequence[EditRequest], site: Site, start: str
) -> tuple[Float[Tensor, "fact pos d"], Int[Tensor, " fact"]]:
    """What passes at a site in each request's bare prompt, right-padded, float32; and each prompt's last position."""
    rows = [bare_prompt(model, request, start).tokens for request in requests]
    ends = torch.tensor([len(row) - 1 for row in rows])
    return states_at(model, padded(model, rows), ends, [site])[site].float(), ends


def at_ends(model: Bridge, requests: Sequence[EditRequest], site: Site, start: str) -> Float[Tensor, "fact d"]:
    """The same at each prompt's last token."""
    seen, ends = at_prompts(model, requests, site, start)
    return seen[torch.arange(len(ends)), ends]


@dataclass(frozen=True, eq=False)
class Ordinary:
    """States of shipped prompts at one site, float32 on the CPU, and whom each is about."""

    subjects: tuple[str, ...]
    states: tuple[Tensor, ...]  # one a prompt, [pos d]

    @classmethod
    def of(cls, model: Bridge, site: Site, start: str, apiece: int) -> "Ordinary":
        """Of so many prompts of each shipped relation, on the model as it is."""
        facts = [
            relation.fact(entry, relation.templates[0])
            for relation in relations().values()
            for entry in relation.entries[:apiece]
        ]
        rows = [tokenized(model, fact.prompt, start=start)[0] for fact in facts]
        ends = torch.tensor([len(row) - 1 for row in rows])
        seen = states_at(model, padded(model, rows), ends, [site])[site].float().cpu()
        states = tuple(seen[number, : len(row)] for number, row in enumerate(rows))
        return cls(tuple(fact.subject for fact in facts), states)

    def ends(self) -> Float[Tensor, "prompt d"]:
        """The state at each prompt's last token."""
        return torch.stack([state[-1] for state in self.states])

    def all(self) -> Float[Tensor, "state d"]:
        """The states at all tokens."""
        return torch.cat(self.states)

    def others(self, request: EditRequest, each: bool = False) -> Bool[Tensor, " state"]:
        """Which prompts (or with `each`, states) are about another subject than the request."""
        other = torch.tensor([subject != request.subject for subject in self.subjects])
        return other.repeat_interleave(torch.tensor([len(state) for state in self.states])) if each else other


APIECE = 4  # prompts of each shipped relation that say how far apart keys are
CLEAR = 0.9  # of the way to the nearest of these that is about another subject, a ball may reach


def reaches(
    model: Bridge,
    site: Site,
    start: str,
    reach: float,
    keys: Float[Tensor, "fact d"],
    requests: Sequence[EditRequest],
) -> tuple[Float[Tensor, " fact"], str]:
    """How far a ball around each key may reach, and how that was found.

    `reach` times the median distance between such keys of shipped prompts, at each prompt's last token, and less where
    one of these prompts, about another subject, would fall into the ball. Raises EditError where a key is another
    prompt's, too.
    """
    ordinary = Ordinary.of(model, site, start, APIECE)
    others = ordinary.ends()
    usual = reach * float(torch.pdist(others.double()).median())
    distances = torch.cdist(keys.double(), others.double())
    for number, request in enumerate(requests):
        distances[number, ~ordinary.others(request)] = torch.inf
    clear = CLEAR * distances.min(1).values
    for request, room in zip(requests, clear.tolist(), strict=True):
        if room < 1e-3 * usual:
            raise EditError(
                f"the key of {request.prompt!r} in layer {site.layer} is that of a prompt about another subject, so "
                "the gate would open there too: choose another layer"
            )
    cut = int((clear < usual).sum())
    note = f"a new ball's radius is {usual:.3g}, {reach:g} of the median distance between keys of {len(others)} "
    note += "shipped prompts"
    if cut:
        note += f"; smaller for {cut} of {len(keys)} facts, whose ball one of these would fall into"
    return clear.clamp(max=usual).float(), note
