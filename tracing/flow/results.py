"""What a study of the flow of information found, for one fact and averaged over facts."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factscope.model.prompts import Prompt
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs.provenance import Run

TARGETS = {
    "last token": "the last token",
    "last subject": "the subject's last token",
}
SOURCES = {
    "subject": "the subject",
    "last subject": "the subject's last token alone",
    "relation": "the other words",
    "itself": "the token itself",
    "start token": "the start token",
}
PARTS = ("attn", "mlp")  # whose updates may extract the answer


@dataclass(frozen=True)
class Knockout:
    """Which attention is knocked out: the `queries` no longer see the `keys`. Positions count from 0.

    Of an answer of several tokens the queries at the last token are all positions that say a token of the answer.
    """

    target: str  # a key of TARGETS
    source: str  # a key of SOURCES
    queries: tuple[int, ...]
    keys: tuple[int, ...]

    def in_words(self) -> str:
        """As a page says it: "the last token from the subject"."""
        return f"{TARGETS[self.target]} from {SOURCES[self.source]}"


@dataclass(frozen=True, eq=False)
class Enrichment:
    """The attributes rate of the subject's last token (Geva et al. 2023, section 5), by layer.

    Of the 50 most probable words of the lens, the share that are attributes of the subject. State 0 is the embedding,
    state l the one after block l-1. `null` is the same share for attributes of other subjects, and not of this one.
    """

    words: tuple[str, ...]  # the attributes
    words_from: str  # "given", or the facts that they are of
    rate: Float[Tensor, " state"]
    null: Float[Tensor, " state"]  # mean over other subjects; NaN where there is none
    others: int  # other subjects
    top: tuple[tuple[str, ...], ...]  # [state], the first words of the lens


@dataclass(frozen=True, eq=False)
class Extraction:
    """What attention and MLPs write at the last token, read alone (Geva et al. 2023, section 6).

    A layer's update extracts the answer where the answer's first token is the first of all tokens: where its rank is 1.
    Updates are read through the final norm at the scale of the last state, so that they add up.
    """

    rank: Int[Tensor, "part layer"]  # in the order of PARTS, from 1
    top: tuple[tuple[str, ...], ...]  # [part][layer], the update's first token

    @property
    def extracts(self) -> Bool[Tensor, "part layer"]:
        """Where an update extracts the answer."""
        return self.rank == 1


@shown("tracing.pages.flow")
@dataclass(frozen=True, eq=False)
class FlowResult(Result):
    """The flow of information to one answer (Geva et al. 2023): attention knocked out, source by layer.

    Log-probabilities are of the whole answer, teacher-forced, in nats. The cell of layer l has the attention knocked
    out in the `window` layers around l (`window_of`). A null is the same knockout of other words, as many.
    """

    prompt: Prompt
    settings: dict[str, str | int | float | bool | tuple[str, ...] | None]
    window: int  # layers
    knockouts: tuple[Knockout, ...]
    clean: float  # log-probability without a knockout
    log_probability: Float[Tensor, "knockout layer"]
    null: Float[Tensor, "knockout set layer"]  # NaN beyond the sets that there are
    predicted: str  # the clean run's most probable next token
    enrichment: Enrichment | None  # None where no attribute of the subject is known
    extraction: Extraction
    run: Run

    @property
    def change(self) -> Float[Tensor, "knockout layer"]:
        """Relative change of the answer's probability, (p_knockout - p) / p: -1 where nothing of it is left."""
        return torch.expm1(self.log_probability - self.clean)

    @property
    def null_change(self) -> Float[Tensor, "knockout set layer"]:
        """The same for the random sets."""
        return torch.expm1(self.null - self.clean)

    @property
    def log_change(self) -> Float[Tensor, "knockout layer"]:
        """Change of the answer's log-probability, nats; negative where the knockout costs."""
        return self.log_probability - self.clean

    def number(self, target: str, source: str) -> int:
        """The row of one knockout; KeyError, with those there are, if there is none."""
        for number, one in enumerate(self.knockouts):
            if (one.target, one.source) == (target, source):
                return number
        known = ", ".join(f"{one.target} from {one.source}" for one in self.knockouts)
        raise KeyError(f"this flow has no knockout of {target} from {source}; it has {known}")


@shown("tracing.pages.flow_average")
@dataclass(frozen=True, eq=False)
class FlowAverage(Result):
    """The flow of many facts, averaged: relative change of each answer's probability, by knockout and layer.

    Intervals are percentile bootstraps over subjects (95 %), each layer by itself; NaN for a knockout that under five
    subjects have. A fact that has no such tokens counts nowhere in that knockout's mean.
    """

    source: str  # where the facts came from
    settings: dict[str, str | int | float | bool | tuple[str, ...] | None]
    window: int
    knockouts: tuple[tuple[str, str], ...]  # (target, source)
    facts: tuple[str, ...]
    subjects: tuple[str, ...]
    skipped: dict[str, str]  # id -> why
    clean: Float[Tensor, " fact"]  # probability of the whole answer
    per_fact: Float[Tensor, "fact knockout layer"]  # relative change of the probability; NaN where there are no tokens
    log_per_fact: Float[Tensor, "fact knockout layer"]  # change of the log-probability, nats
    null_per_fact: Float[Tensor, "fact knockout layer"]  # mean over a fact's random sets
    mean: Float[Tensor, "knockout layer"]
    low: Float[Tensor, "knockout layer"]
    high: Float[Tensor, "knockout layer"]
    null: Float[Tensor, "knockout layer"]
    attributes: Float[Tensor, "fact state"]  # attributes rate, from the embedding on; NaN where no attribute is known
    attributes_null: Float[Tensor, "fact state"]
    extracts: Float[Tensor, "fact part layer"]  # 1 where the update extracts the answer, else 0
    run: Run
