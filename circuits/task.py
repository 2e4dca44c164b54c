"""What a circuit is found for: prompts of one length, what is measured on them, and what cut edges carry instead.

What cut edges carry may come from prompts of another length: the same wording about a subject of other tokens.
Positions are then matched by the role of the token.

A search minimises a loss. It is the chosen metric with its sign turned where a larger value is better, averaged over
the prompts: the answer's negative log-probability, minus the logit difference, minus the probability, or the
divergence from the full model. Upstream's MatchNLL is the first of them less the full model's own value: the same
increments. (Knowledge Circuits divides by the number of padded positions too; here a nat is a nat.)
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factscope.errors import PromptError, TokenMismatch, UserError
from factscope.model import metrics
from factscope.model.agreement import finite
from factscope.model.bridge import Bridge, device, last_logits
from factscope.model.prompts import Prompt
from factscope.model.readout import rank

ALIASES = {"nll": "log_probability", "match_nll": "log_probability", "logit_diff": "logit_difference"}
AUTO = "auto"
REFERRING = ("mean", "mean_overall", "optimal")  # ablations that are made of reference prompts


@dataclass(frozen=True)
class Task:
    """Prompts with answers, all of one length; each with a corrupt twin where the ablation asks for one."""

    prompts: tuple[Prompt, ...]
    metric: str = "log_probability"
    ablation: str = AUTO  # AUTO: what suits the method, as `circuits.ablations.settled` decides
    corrupt: tuple[Prompt, ...] = ()  # one a prompt: the counterfactual ablation runs them
    reference: tuple[Prompt, ...] = ()  # other subjects: the ablations of `REFERRING` read them

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", ALIASES.get(self.metric, self.metric))
        chosen = metrics.metric(self.metric)
        if not self.prompts:
            raise PromptError("a circuit is found for at least one prompt, and there is none")
        one_length("prompts", self.prompts)
        for prompt in self.prompts:
            if not prompt.answer_ids:
                raise PromptError(f"{prompt.text!r} has no answer to find a circuit for; name it with --answer")
            if chosen.name == "logit_difference" and not prompt.foil_ids:
                raise UserError(f"the logit difference of {prompt.text!r} needs a wrong answer; give one with --foil")
        if self.corrupt:
            if len(self.corrupt) != len(self.prompts):
                raise TokenMismatch(f"{len(self.prompts)} prompts have {len(self.corrupt)} corrupt ones beside them")
            for clean, corrupt in zip(self.prompts, self.corrupt, strict=True):
                places_of(clean, corrupt)

    @property
    def n_positions(self) -> int:
        """Tokens in each prompt."""
        return len(self.prompts[0].tokens)

    def tokens(self, model: Bridge) -> Int[Tensor, "row pos"]:
        """The clean prompts."""
        return rows(model, self.prompts)


def rows(model: Bridge, prompts: Sequence[Prompt]) -> Int[Tensor, "row pos"]:
    """Prompts of one length as a batch on the model's device."""
    return torch.tensor([prompt.tokens for prompt in prompts], device=device(model))


def one_length(what: str, prompts: Sequence[Prompt]) -> None:
    """TokenMismatch unless all have the same number of tokens: a padded position would be read like a word."""
    first = prompts[0]
    for other in prompts[1:]:
        if len(other.tokens) != len(first.tokens):
            raise TokenMismatch(
                f"{what} must have one length, but {first.text!r} is {len(first.tokens)} tokens and {other.text!r} is "
                f"{len(other.tokens)}: choose subjects of equal length"
            )


def same_wording(prompt: Prompt, other: Prompt) -> bool:
    """Whether as many tokens stand before the subject and after it."""
    (first, after), (begin, end) = prompt.subject_span, other.subject_span
    return first == begin and len(prompt.tokens) - after == len(other.tokens) - end


def places_of(prompt: Prompt, other: Prompt) -> tuple[int, ...]:
    """For each position of `prompt` the one of `other` that has its role; TokenMismatch where the wordings differ.

    Prompts of one length are matched place by place. Else the subjects have different numbers of tokens: what stands
    before and after them is matched one to one, the subject's first token with the first, the last with the last, and
    those between by how far along they are.
    """
    if len(prompt.tokens) == len(other.tokens):
        return tuple(range(len(prompt.tokens)))
    if not same_wording(prompt, other):
        raise TokenMismatch(
            f"{prompt.text!r} and {other.text!r} differ outside the subject, so their tokens have no common roles: "
            "choose a prompt of the same wording, or of equal length"
        )
    (first, after), (_, end) = prompt.subject_span, other.subject_span
    own, theirs = after - first, end - first
    # of a subject of one token that token is the last, as in `Prompt.roles`
    inside = [round(i * (theirs - 1) / (own - 1)) if own > 1 else theirs - 1 for i in range(own)]
    return (*range(first), *(first + i for i in inside), *range(end, len(other.tokens)))


def largest_group(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The prompts of the length that most of them have; of the shorter one in a tie."""
    counts = Counter(len(prompt.tokens) for prompt in prompts)
    chosen = min(counts, key=lambda length: (-counts[length], length))
    return tuple(prompt for prompt in prompts if len(prompt.tokens) == chosen)


def alike(prompt: Prompt, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Those that align with `prompt` token for token: of its length, with the subject in the same place."""
    place = (len(prompt.tokens), prompt.subject_span)
    return tuple(other for other in prompts if (len(other.tokens), other.subject_span) == place)


def corresponding(prompt: Prompt, prompts: Sequence[Prompt], least: int = 1) -> tuple[Prompt, ...]:
    """Those that align with `prompt` token for token if they are `least`; else all of its wording, by token role."""
    aligned = alike(prompt, prompts)
    return aligned if len(aligned) >= least else tuple(other for other in prompts if same_wording(prompt, other))


def twin(prompt: Prompt, prompts: Sequence[Prompt]) -> Prompt | None:
    """The next of `prompts`, after this one and around, whose answer begins differently; None if there is none."""
    place = next((i for i, other in enumerate(prompts) if other.text == prompt.text), 0)
    around = (*prompts[place:], *prompts[:place])
    return next((other for other in around if other.answer_ids[0] != prompt.answer_ids[0]), None)


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of a batch of logits; knows the full model's own logits."""

    metric: metrics.Metric
    targets: tuple[metrics.Target, ...]
    clean: Float[Tensor, "row vocab"]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Bridge, task: Task) -> "Objective":
        """Run the full model once for what the loss compares with."""
        clean = finite(last_logits(model, task.tokens(model)))
        targets = tuple(
            metrics.Target(prompt.answer_ids[0], prompt.foil_ids[0] if prompt.foil_ids else None, clean[row])
            for row, prompt in enumerate(task.prompts)
        )
        return cls(metrics.metric(task.metric), targets, clean)

    def losses(self, logits: Float[Tensor, "variant row vocab"]) -> Float[Tensor, " variant"]:
        """One loss for each variant, the mean over its rows; smaller is better, in the metric's unit."""
        each = [self.metric(logits[:, row], target) for row, target in enumerate(self.targets)]
        return -self.metric.toward * torch.stack(each).mean(0)

    def ranks(self, logits: Float[Tensor, "row vocab"]) -> tuple[int, ...]:
        """Rank of each row's answer among all tokens, as `readout.rank` counts it."""
        answers = torch.tensor([target.answer for target in self.targets], device=logits.device)
        return tuple(rank(logits, answers).tolist())

    def hit(self, logits: Float[Tensor, "row vocab"], within: int = 10) -> float:
        """Share of rows whose answer is among the `within` most probable tokens."""
        ranks = self.ranks(logits)
        return sum(place <= within for place in ranks) / len(ranks)
