"""What a trace found, as values that carry their axes, units and provenance, and can be saved and drawn again."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factscope.model.neurons.selection import Neuron
from factscope.model.prompts import Prompt
from factscope.model.readout import Component
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs.provenance import Run
from factscope.statistics import standard_error

KINDS = {
    "resid": "residual stream after the block",
    "mlp": "MLP output",
    "attn": "attention output",
    "head": "one attention head",
    "severed_mlp": "residual stream, MLPs of the token severed",
    "severed_attn": "residual stream, attention of the token severed",
}
WINDOWED = ("mlp", "attn")


@dataclass(frozen=True, eq=False)
class Grid:
    """Indirect effects of one kind of restoration, in the metric's unit; positive where restoring helped the answer.

    Mean over the corrupted samples of metric(restored) - metric(corrupted), sample by sample, and the standard error
    of that mean (NaN for a single sample). Restoring before the subject changes nothing: those cells are exactly zero.
    """

    kind: str  # a key of KINDS
    effect: Float[Tensor, "layer *head pos"]
    error: Float[Tensor, "layer *head pos"]

    def strongest(self, count: int = 1, skip: Sequence[int] = ()) -> list[tuple[tuple[int, ...], float, float]]:
        """The largest effects with index (layer, [head,] pos) and standard error; `skip` leaves positions out."""
        masked = self.effect.clone()
        masked[..., list(skip)] = -torch.inf
        order = masked.flatten().argsort(descending=True)[:count]
        found = []
        for flat in order.tolist():
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), self.effect.shape))
            if masked[index] > -torch.inf:
                found.append((index, float(self.effect[index]), float(self.error[index])))
        return found


@shown("tracing.pages.trace")
@dataclass(frozen=True, eq=False)
class TraceResult(Result):
    """A causal trace of one prompt (Meng et al. 2022, section 2)."""

    prompt: Prompt
    settings: dict[str, str | int | float | bool | tuple[str, ...] | None]  # the whole config, by name
    metric: str
    unit: str
    toward: int  # +1 where a larger metric is better
    clean: Float[Tensor, " sample"]  # metric of the clean run; differs between samples only where foils do
    corrupted: Float[Tensor, " sample"]
    clean_probability: float  # of the answer's first token, whatever the metric
    corrupted_probability: float  # mean over samples
    predicted: str  # the clean run's most probable next token
    noise_level: float | None
    swapped: tuple[str, ...]  # the counterfactual subjects
    grids: tuple[Grid, ...]
    run: Run

    @property
    def total_effect(self) -> float:
        """How much the corruption hurt: toward * mean(clean - corrupted), in the metric's unit."""
        return float(self.toward * (self.clean - self.corrupted).mean())

    @property
    def total_effect_error(self) -> float:
        """Standard error of the total effect over samples; NaN for a single one, which cannot say."""
        return standard_error(self.clean - self.corrupted)

    def grid(self, kind: str) -> Grid:
        """The grid of one kind."""
        for grid in self.grids:
            if grid.kind == kind:
                return grid
        raise KeyError(f"this trace has no {kind!r}; it has {', '.join(grid.kind for grid in self.grids)}")

    def restored(self, kind: str) -> Float[Tensor, "layer *head pos"]:
        """Mean metric of the restored runs, the number that ROME's figures show: corrupted + toward * effect."""
        return float(self.corrupted.mean()) + self.toward * self.grid(kind).effect


@shown("tracing.pages.logit_lens")
@dataclass(frozen=True, eq=False)
class LensResult(Result):
    """What each state would answer if it were unembedded at once (nostalgebraist 2020, the logit lens).

    Ranks count from 1. Entropy in nats. `layer` 0 is the embedding, layer l the state after block l-1.
    """

    prompt: Prompt
    norm: str  # "per-state" or "final-scale"; see tracing.logit_lens
    log_probability: Float[Tensor, "layer pos"]  # of the answer's first token, nats
    rank: Int[Tensor, "layer pos"]
    entropy: Float[Tensor, "layer pos"]
    foil_log_probability: Float[Tensor, "layer pos"] | None
    top: tuple[tuple[str, ...], ...]  # [layer][pos], the most probable token
    components: tuple[Component, ...]  # at the last position
    run: Run
    top_probability: Float[Tensor, "layer pos"] | None = None  # of the tokens in `top`; None in older results


@shown("tracing.pages.average")
@dataclass(frozen=True, eq=False)
class AverageResult(Result):
    """Traces of many facts, averaged by token role (the average indirect effect plots of Meng et al. 2022, Fig. 2)."""

    source: str  # where the facts came from
    settings: dict[str, str | int | float | bool | tuple[str, ...] | None]
    metric: str
    unit: str
    roles: tuple[str, ...]
    kinds: tuple[str, ...]
    facts: tuple[str, ...]  # ids of the traced facts
    skipped: dict[str, str]  # id -> why
    per_fact: Float[Tensor, "fact kind layer role"]  # mean over the role's tokens; NaN where the prompt has none
    clean: Float[Tensor, " fact"]
    corrupted: Float[Tensor, " fact"]
    total: Float[Tensor, " fact"]
    mean: Float[Tensor, "kind layer role"]
    low: Float[Tensor, "kind layer role"]  # bootstrap over subjects, 95 %; NaN for a role of under five of them
    high: Float[Tensor, "kind layer role"]
    count: Int[Tensor, " role"]  # facts that have the role
    run: Run
    subjects: tuple[str, ...] = ()  # of each fact: those of one subject are drawn together; () in older results


@shown("tracing.pages.neurons")
@dataclass(frozen=True, eq=False)
class NeuronResult(Result):
    """What the neurons of the MLPs carry of one answer, and the few that are the fact's (Dai et al. 2022).

    In units of probability (or logits); positive where a neuron, as it fires at the last token, raises the answer. Over
    the neurons of a layer, attributions sum to `whole - without`, but for `gap`.
    """

    prompt: Prompt
    wordings: tuple[str, ...]  # whole prompts; the first is the prompt's own
    settings: dict[str, str | int | float | bool | tuple[str, ...] | None]
    unit: str
    attribution: Float[Tensor, "wording layer d_mlp"]  # summed over the answer's tokens, where they are all asked for
    activation: Float[Tensor, "wording layer d_mlp"]  # at the last token of the wording
    whole: Float[Tensor, " wording"]  # of the answer, in the unit
    without: Float[Tensor, "wording layer"]  # with all neurons of the layer at zero
    points: Int[Tensor, "wording layer"]  # of the path
    gap: Float[Tensor, "wording layer"]
    neurons: tuple[Neuron, ...]  # the fact's, those of most wordings first
    share: float  # of the wordings in which a neuron had to be found
    deciding: int  # wordings that decided
    common: tuple[tuple[int, int], ...]  # layer and index of neurons left out, because many facts share them
    notes: tuple[str, ...]
    run: Run

    @property
    def by_layer(self) -> Float[Tensor, " layer"]:
        """What the neurons of each layer carry together, mean over the wordings."""
        return self.attribution.sum(-1).mean(0)

    @property
    def chosen_by_layer(self) -> Float[Tensor, " layer"]:
        """The same of the fact's neurons alone."""
        total = torch.zeros(self.attribution.shape[1])
        for neuron in self.neurons:
            total[neuron.layer] += neuron.attribution
        return total
