"""What the readers of states found, as values that can be saved and drawn again."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from factscope.model.prompts import Prompt
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs.provenance import Run

Settings = dict[str, str | int | float | bool | tuple[str, ...] | None]


@shown("tracing.pages.patchscope")
@dataclass(frozen=True, eq=False)
class PatchscopeResult(Result):
    """What a state makes another prompt say (Ghandeharioun et al. 2024, Patchscopes).

    State 0 is the embedding, state l what block l-1 leaves. A cell [source, into] has the state `source` of the
    prompt's token in the place of the state `into` of the target's placeholder. Log-probabilities (nats) and ranks
    (from 1) are of the first token of the prompt's answer, as the target's next token.
    """

    prompt: Prompt
    position: int  # of the prompt, where states are taken
    target: Prompt  # its subject is the placeholder, whose last token is patched
    settings: Settings
    into: tuple[int, ...]  # [source] the target's state that is written over in `texts` and `null`
    texts: tuple[str, ...]  # [source] what the target is continued by
    unpatched_text: str
    log_probability: Float[Tensor, "source into"]
    rank: Int[Tensor, "source into"]
    top: tuple[tuple[str, ...], ...]  # [source][into], the most probable next token
    unpatched: float  # log-probability without a patch
    unpatched_rank: int
    null: Float[Tensor, "other source"]  # log-probability with another subject's state, scaled to the state's norm
    others: tuple[str, ...]  # the other subjects
    notes: tuple[str, ...]
    run: Run

    @property
    def chosen(self) -> Float[Tensor, " source"]:
        """Log-probability of the answer where each state goes where `texts` has it."""
        return self.log_probability[range(len(self.into)), self.into]
