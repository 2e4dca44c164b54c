"""Two ways to make the model forget which subject it was asked about.

*Noise* (Meng et al. 2022, ROME, section 2.1): Gaussian noise on the embeddings of the subject's tokens. The level is a
multiple, 3 by default, of the standard deviation over all entries of the embeddings of many subjects' tokens, ours
being the shipped facts' (ROME's were its known facts'; on the default model the two agree within 1 %). The draws come
from NumPy's RandomState, whose stream NumPy has frozen for good and which ROME uses too: seed 1 gives ROME's draws.

*Swap* (symmetric token replacement): the same sentence about other subjects of the same relation, of as many tokens.
In distribution, unlike noise, and each counterfactual subject brings the answer that it should give instead.

A `Corruption` is data: rows of tokens, and what is added to their embeddings. Every cell of a trace sees the same one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.data.shipped import find_fact, relations
from factscope.errors import PromptError, TokenMismatch
from factscope.model.bridge import Bridge, device
from factscope.model.hooks import Patch, record
from factscope.model.prompts import Prompt, swap_subject
from factscope.model.sites import Site
from factscope.model.weights import storage_of


@dataclass(frozen=True, eq=False)
class Corruption:
    """The corrupted rows of a trace, one a sample."""

    kind: str  # "noise" or "swap"
    tokens: Int[Tensor, "sample pos"]
    noise: Float[Tensor, "sample subject d_model"] | None  # added to the embeddings of the subject's tokens
    level: float | None  # standard deviation of the noise, in units of the embedding's entries
    subjects: tuple[str, ...]  # swap: the counterfactual subject of each sample
    foils: tuple[int | None, ...]  # swap: the first token of its answer, where it is known

    def patches(self, prompt: Prompt, first_row: int) -> list[Patch]:
        """What to do to the embeddings of the rows from `first_row` on."""
        if self.noise is None:
            return []
        rows = slice(first_row, first_row + len(self.tokens))
        return [Patch(Site("embed"), self.noise, rows, slice(*prompt.subject_span), add=True)]


def noise(
    model: Bridge,
    prompt: Prompt,
    samples: int = 10,
    multiple: float = 3.0,
    seed: int = 1,
    level: float | None = None,
    draws: Float[Tensor, "sample subject d_model"] | None = None,
) -> Corruption:
    """Gaussian noise of standard deviation `level`, or `multiple` standard deviations of the embeddings.

    `draws` replaces the standard normal draws, to repeat another program's; they are multiplied by the level.
    """
    if samples < 1:
        raise PromptError(f"a trace needs at least one sample, not {samples}")
    level = multiple * embedding_deviation(model) if level is None else level
    first, after = prompt.subject_span
    shape = (samples, after - first, int(model.cfg.d_model))
    if draws is None:
        draws = torch.from_numpy(np.random.RandomState(seed).randn(*shape)).float()
    if tuple(draws.shape) != shape:
        raise ValueError(
            f"the draws have shape {tuple(draws.shape)}, but {shape} [sample, subject, d_model] are needed"
        )
    tokens = prompt.tensor(device(model)).repeat(samples, 1)
    return Corruption("noise", tokens, draws.to(device(model)) * level, level, (), (None,) * samples)


def swap(
    model: Bridge,
    prompt: Prompt,
    samples: int = 10,
    seed: int = 1,
    subjects: Sequence[str] = (),
    relation: Sequence[Fact] = (),
) -> Corruption:
    """Other subjects in the subject's place: `subjects`, or up to `samples` of the same relation, drawn with `seed`.

    The relation is `relation`, or that of the shipped fact which the prompt states. Subjects that do not have as many
    tokens, or whose answer begins like the prompt's own, are passed over.

    Raises PromptError if no subject fits or the relation is unknown, TokenMismatch if one of `subjects` does not fit.
    """
    if subjects:
        pairs = [swap_subject(model, prompt, subject) for subject in subjects]
        foils: list[int | None] = [None] * len(pairs)
        names = list(subjects)
    else:
        pairs, foils, names = [], [], []
        for fact in _others(prompt, seed, relation):
            try:
                pair = swap_subject(model, prompt, fact.subject, fact.answer)
            except (TokenMismatch, PromptError):
                continue
            foil = pair.corrupt.answer_ids[0]
            if prompt.answer_ids and foil == prompt.answer_ids[0]:
                continue
            pairs.append(pair)
            foils.append(foil)
            names.append(fact.subject)
            if len(pairs) == samples:
                break
        if not pairs:
            count = prompt.subject_span[1] - prompt.subject_span[0]
            raise PromptError(
                f"no other subject of the same relation takes {count} tokens like {prompt.subject!r} and has another "
                "answer; name some with --set swaps='A;B', or use --corruption noise"
            )
    tokens = torch.tensor([pair.corrupt.tokens for pair in pairs], device=device(model))
    return Corruption("swap", tokens, None, None, tuple(names), tuple(foils))


def _others(prompt: Prompt, seed: int, relation: Sequence[Fact]) -> list[Fact]:
    if not relation:
        fact = find_fact(prompt.text)
        if fact is None:
            raise PromptError(
                f"{prompt.text!r} is no shipped fact, so the subjects to swap in are not known; name some with "
                "--set swaps='A;B', or use --corruption noise"
            )
        relation = load_facts(fact.relation)
    others = [fact for fact in relation if fact.subject != prompt.subject]
    order = np.random.RandomState(seed).permutation(len(others))
    return [others[i] for i in order]


_DEVIATION: WeakKeyDictionary[Any, tuple[tuple[tuple[int, int], ...], float]] = WeakKeyDictionary()


def embedding_deviation(model: Bridge) -> float:
    """Standard deviation over every entry of the embeddings of the shipped subjects' tokens, each tokenised alone.

    A sweep asks for it with every fact: it is kept for a model as long as its embeddings are the same.
    """
    state = tuple((storage_of(weight), weight._version) for weight in model.embed.parameters())
    known = _DEVIATION.get(model)
    if known is None or known[0] != state:
        known = _DEVIATION[model] = (state, _embedding_deviation(model))
    return known[1]


def _embedding_deviation(model: Bridge) -> float:
    subjects = [entry.subject for relation in relations().values() for entry in relation.entries]
    ids = [i for row in model.tokenizer(subjects, add_special_tokens=False)["input_ids"] for i in row]
    longest = int(getattr(model.cfg, "n_ctx", 0) or 512)
    values = []
    with torch.no_grad():
        for begin in range(0, len(ids), longest):
            with record(model, [Site("embed")]) as seen:
                model(torch.tensor([ids[begin : begin + longest]], device=device(model)), stop_at_layer=0)
            values.append(seen[Site("embed")][0].float())
    return float(torch.cat(values).std())
