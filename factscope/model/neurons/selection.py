"""Which few neurons are the fact's: those that carry the answer under most wordings (Dai et al. 2022, section 3.2).

For each wording, the neurons above `threshold` of its largest attribution; of these the ones found in at least `share`
of the wordings. While their number is not within `fewest` to `most`, the share moves by `step`, up to `moves` times, as
in the authors' code. Two choices are ours, and a note says where they were made: a set that is still too large keeps
its `most` neurons of most wordings and then largest mean attribution, and one that is still too small is filled up to
`fewest` in the same order. Under three wordings a share says nothing, and the first wording decides alone.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from factscope.errors import UserError
from factscope.model.neurons.attribution import Attribution

Place = tuple[int, int]  # layer, index
ENOUGH = 3  # wordings, for a share of them to say anything


@dataclass(frozen=True)
class Refinement:
    """How neurons are chosen; the numbers are the authors'."""

    threshold: float = 0.2  # of the largest attribution of the wording
    share: float = 0.7  # of the wordings
    step: float = 0.05
    moves: int = 6
    fewest: int = 2
    most: int = 5
    common: float = 0.1  # of other facts of the relation: a neuron found for more of them is not the fact's

    def __post_init__(self) -> None:
        for name in ("threshold", "share", "common"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is a share from 0 to 1, not {getattr(self, name)}")
        if not 1 <= self.fewest <= self.most:
            raise UserError(f"a fact has between 1 and more neurons: fewest {self.fewest}, most {self.most}")
        if self.step <= 0 or self.moves < 0:
            raise UserError(f"the share moves by more than 0, 0 times or more, not by {self.step}, {self.moves} times")


@dataclass(frozen=True)
class Neuron:
    """One neuron of an MLP that carries an answer."""

    layer: int
    index: int
    wordings: int  # in how many it is above the threshold
    attribution: float  # mean over the wordings
    activation: float  # mean over the wordings, at the last token of each
    raises: tuple[str, ...] = ()  # the tokens that it raises most as it fires

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self.layer, self.index

    def __str__(self) -> str:
        return f"{self.layer}.{self.index}"


@dataclass(frozen=True)
class Chosen:
    """The neurons of a fact, those of most wordings first, and how they were found."""

    neurons: tuple[Neuron, ...]
    share: float  # that the rule ended with
    wordings: int  # that decided
    notes: tuple[str, ...] = ()

    @property
    def places(self) -> frozenset[Place]:
        """Where they stand."""
        return frozenset(neuron.place for neuron in self.neurons)


def choose(found: Attribution, rule: Refinement = Refinement(), common: Collection[Place] = ()) -> Chosen:
    """The neurons of the fact whose wordings `found` holds; those in `common` are left out.

    Raises UserError where no neuron carries the answer at all.
    """
    total = len(found.value)
    alone = total < ENOUGH
    value, activation = (part[:1] if alone else part for part in (found.value, found.activation))
    top = value.flatten(1).max(1).values
    above = (value > rule.threshold * top[:, None, None]) & (value > 0)
    counts, mean = above.sum(0), value.mean(0)
    for layer, index in common:
        if layer in found.layers:
            counts[found.layers.index(layer), index] = 0
    ordered = _ordered(counts, mean)
    if not ordered:
        raise UserError("no neuron of the MLPs carries this answer: every attribution is zero or negative")
    n, share = len(value), rule.share
    kept = _within(ordered, counts, share, n)
    for _ in range(0 if alone else rule.moves):
        if rule.fewest <= len(kept) <= rule.most:
            break
        share = round(share + (rule.step if len(kept) > rule.most else -rule.step), 10)
        kept = _within(ordered, counts, share, n)
    notes = [f"under {ENOUGH} wordings a share of them says nothing, so the first decides alone"] if alone else []
    if len(kept) > rule.most:
        notes.append(f"{len(kept)} neurons pass, and the {rule.most} strongest are kept")
        kept = kept[: rule.most]
    elif len(kept) < rule.fewest:
        notes.append(f"{len(kept)} passed at {share:.0%} of the wordings, so those found in most wordings were added")
        kept = ordered[: rule.fewest]
    neurons = tuple(
        Neuron(
            found.layers[place], index, int(counts[place, index]), float(mean[place, index]),
            float(activation[:, place, index].mean()),
        )
        for place, index in kept
    )  # fmt: skip
    return Chosen(neurons, share, n, tuple(notes))


def shared_by_many(others: Sequence[Chosen], rule: Refinement = Refinement()) -> frozenset[Place]:
    """The neurons that are found for more than `rule.common` of other facts."""
    counts: dict[Place, int] = {}
    for other in others:
        for place in other.places:
            counts[place] = counts.get(place, 0) + 1
    return frozenset(place for place, count in counts.items() if count > rule.common * len(others))


def _ordered(counts: Tensor, mean: Tensor) -> list[Place]:
    """All neurons that were found in some wording: those of most wordings first, then by mean attribution."""
    some = counts.nonzero().tolist()
    return sorted(
        ((place, index) for place, index in some),
        key=lambda at: (-int(counts[at]), -float(mean[at]), at),
    )


def _within(ordered: Sequence[Place], counts: Tensor, share: float, wordings: int) -> list[Place]:
    return [at for at in ordered if int(counts[at]) >= share * wordings - 1e-9]
