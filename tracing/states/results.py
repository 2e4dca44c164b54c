"""What the readers of states found, as values that can be saved and drawn again."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
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


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a relation's maps say of held-out facts; `state` counts the states that were read."""

    layer: int  # the state whose map is told, as a number among those that were read
    beta: Float[Tensor, " state"]
    chosen_by: Float[Tensor, " state"]  # share of the facts that chose beta, that are right with it
    right: Bool[Tensor, "fact state"]  # the map's first token is the model's own
    log_probability: Float[Tensor, "fact state"]  # of the model's own first token, nats
    bias_alone: Bool[Tensor, "fact state"]  # right with beta = 0
    null: Bool[Tensor, "draw fact state"]  # right with the map's input turned at random
    answers: tuple[str, ...]  # the model's own first tokens
    says: tuple[str, ...]  # the map's, of the state that is told


@dataclass(frozen=True, eq=False)
class Edited:
    """Subjects' states moved by the map's pseudo-inverse, towards the answers of other subjects."""

    rank: Int[Tensor, " state"]
    subjects: tuple[str, ...]
    targets: tuple[str, ...]  # subjects whose answers are wanted
    wanted: tuple[str, ...]  # their first tokens
    says: tuple[str, ...]  # what the model says after the edit, at the state that is told
    right: Bool[Tensor, "fact state"]  # what is wanted is said
    random: Bool[Tensor, "fact state"]  # after a step of the same length in a random direction
    substituted: Bool[Tensor, "fact state"]  # with the other subject's own state in the place of this


@shown("tracing.pages.linear_relation")
@dataclass(frozen=True, eq=False)
class RelationResult(Result):
    """A relation as an affine map from the subject's state to the final state (Hernandez et al. 2024).

    `states` are the states that were read, counted as in the lens: 0 the embedding, l what block l-1 leaves.
    """

    relation: str
    template: str
    settings: dict[str, str | int | float | bool | tuple[int, ...] | tuple[float, ...]]
    examples: tuple[str, ...]  # subjects whose first orders were averaged
    choice: tuple[str, ...]  # subjects that chose beta, rank and layer
    subjects: tuple[str, ...]  # held-out subjects that are scored
    skipped: dict[str, str]  # id -> why
    states: tuple[int, ...]
    decoded: Decoded
    edited: Edited
    weight: Float[Tensor, "out d_model"]  # of the state that is told
    bias: Float[Tensor, " out"]
    run: Run

    @property
    def state(self) -> int:
        """The state whose map is told."""
        return self.states[self.decoded.layer]

    def predict(self, subject: Float[Tensor, "*fact d_model"]) -> Float[Tensor, "*fact out"]:
        """The final states that the map gives of subjects' states after the layer that is told: beta W s + b."""
        return float(self.decoded.beta[self.decoded.layer]) * (subject @ self.weight.T) + self.bias


@shown("tracing.pages.lenses")
@dataclass(frozen=True, eq=False)
class LensesResult(Result):
    """What each state would say by several lenses; states and ranks are counted as in the logit lens."""

    prompt: Prompt
    readers: tuple[str, ...]
    settings: dict[str, str | int]  # of the fit
    log_probability: Float[Tensor, "reader state pos"]  # of the answer's first token, nats
    rank: Int[Tensor, "reader state pos"]
    kl: Float[Tensor, "reader state pos"]  # KL(the model's own prediction || the lens), nats
    same: Bool[Tensor, "reader state pos"]  # the lens's first token is the model's own
    top: tuple[tuple[tuple[str, ...], ...], ...]  # [reader][state][pos]
    top_probability: Float[Tensor, "reader state pos"]
    held_out: Float[Tensor, "reader state"]  # mean KL on texts that the fit did not see, nats
    run: Run
    tuned_settings: dict[str, str | int | float] | None = None  # of the tuned lens's training
    held_out_documents: Float[Tensor, "2 state"] | None = None  # on documents: the logit and the tuned lens
