"""What an in-context edit is about: each of its texts stands before the questions that are near enough, and no others.

A question is the mean, over its prompt's tokens, of the residual stream that enters one layer. How near it is to what
was stored is one product,

    nearness(x, k) = (x - mean)' C^-1 (k - mean) / (k - mean)' C^-1 (k - mean)

which is 1 for the prompt that was stored, and which is the share that another key receives of a ROME edit of this key:
directions in which all prompts differ count little, those in which few do count much. The nearest `most` entries whose
nearness is above `floor` are put before the question, the nearest last. Where no entry is, nothing is: the question is
the model's own, bit for bit.

With a `metric` W that was trained, nearness(x, k) = exp(-|W'(x - mean) - key|^2) instead, SERAC's, which is 1 for the
stored prompt, too. With `subjects`, an entry is near to questions alone in which its subject stands, as whole words.

The decision is taken once for each question, from its prompt alone, by the model as it runs, without any text before
it. The entries of several edits in place are one memory, in which the order of edits has no part.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.batched import ROWS, padded, states_at
from factscope.model.prompts import start_ids
from factscope.model.sites import Site


@dataclass(frozen=True, eq=False)
class Scope:
    """The texts of one edit, and which questions each of them is about."""

    layer: int  # whose input is read
    mean: Float[Tensor, " d_model"]  # of the states of ordinary prompts
    keys: Float[Tensor, "entry width"]  # C^-1 (k - mean), over (k - mean)' C^-1 (k - mean)
    texts: tuple[str, ...]  # one an entry, each with its line break
    floor: float  # nearness above which an entry is put before a question
    most: int = 1  # entries that are put before one question
    metric: Float[Tensor, "d_model width"] | None = None  # of a trained scope, whose keys are [entry width]
    subjects: tuple[str, ...] = ()  # one an entry; (): a question need not name it

    def nearness(self, states: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt entry"]:
        """Of every prompt to every entry; 1 for an entry's own prompt."""
        apart = states - self.mean
        if self.metric is None:
            return apart @ self.keys.T
        distance = ((apart @ self.metric)[:, None] - self.keys).square().sum(-1)
        return (-distance).exp()

    def chosen(self, states: Float[Tensor, "prompt d_model"], questions: Sequence[str] = ()) -> list[list[int]]:
        """The entries that are put before each prompt, the nearest last; of two that are as near, the later one.

        `questions` are the prompts' texts, where subjects are asked for.
        """
        near = self.nearness(states)
        if self.subjects:
            named = torch.tensor([[names(text, subject) for subject in self.subjects] for text in questions])
            near = near.masked_fill(~named.to(near.device), -torch.inf)
        order = near.argsort(dim=-1, stable=True)[:, -self.most :].tolist()
        return [
            [entry for entry in some if float(row[entry]) > self.floor] for row, some in zip(near, order, strict=True)
        ]

    def parts(self) -> list[Tensor]:
        """What a hash is of, beside the texts and the numbers."""
        return [self.mean, self.keys, *(() if self.metric is None else (self.metric,))]

    def one_with(self, other: "Scope") -> bool:
        """Whether the entries of both can be one memory."""
        same = (self.layer, self.floor, self.most) == (other.layer, other.floor, other.most)
        if not same or bool(self.subjects) != bool(other.subjects) or not torch.equal(self.mean, other.mean):
            return False
        if self.metric is None or other.metric is None:
            return self.metric is other.metric
        return torch.equal(self.metric, other.metric)


def names(question: str, subject: str) -> bool:
    """Whether the subject stands in the question as whole words, in upper or lower case."""
    return bool(_found(question, subject))


def name_ends(model: Bridge, prompt: Sequence[int], subject: str) -> int | None:
    """The position of the token in which the subject ends where it last stands in the prompt; None without it."""
    decode = model.tokenizer.decode
    found = _found(decode(list(prompt)), subject)
    if not found:
        return None
    end = found[-1].end()
    return next(i for i in range(len(prompt)) if len(decode(list(prompt[: i + 1])).casefold()) >= end)


def _found(question: str, subject: str) -> list[re.Match[str]]:
    return list(re.finditer(rf"(?<!\w){re.escape(subject.casefold())}(?!\w)", question.casefold()))


def pooled(scopes: Sequence[Scope]) -> list[Scope]:
    """One memory of all that read prompts alike, in order."""
    found: list[Scope] = []
    for scope in scopes:
        for number, other in enumerate(found):
            if other.one_with(scope):
                texts, subjects = other.texts + scope.texts, other.subjects + scope.subjects
                keys = torch.cat([other.keys, scope.keys])
                found[number] = replace(other, keys=keys, texts=texts, subjects=subjects)
                break
        else:
            found.append(scope)
    return found


def joined(scopes: Sequence[Scope | None]) -> Scope | None:
    """The scope of a stack of in-context edits; EditError where they are not one memory."""
    known = [scope for scope in scopes if scope is not None]
    if not known:
        return None
    if len(known) < len(scopes) or len(pooled(known)) > 1:
        raise EditError(
            "these in-context edits choose by different rules which questions they are about, so they do not become "
            "one edit: leave them a stack"
        )
    return pooled(known)[0]


def chooser(always: str, scopes: Sequence[Scope], start: str) -> Callable[[Bridge, Sequence[Sequence[int]]], list[str]]:
    """What stands before each of some prompts: `always`, then the texts of what it is about."""
    memories = pooled(scopes)

    def choose(model: Bridge, prompts: Sequence[Sequence[int]]) -> list[str]:
        texts = [always] * len(prompts)
        said = [model.tokenizer.decode(list(prompt)) for prompt in prompts]
        for memory in memories:
            found = memory.chosen(states(model, prompts, Site("resid_pre", memory.layer), start), said)
            texts = [text + "".join(memory.texts[i] for i in some) for text, some in zip(texts, found, strict=True)]
        return texts

    return choose


def states(model: Bridge, prompts: Sequence[Sequence[int]], site: Site, start: str) -> Float[Tensor, "prompt d_model"]:
    """The mean over each prompt's tokens of what passes at a site, without the tokens that begin a text; on the CPU."""
    first = start_ids(model, start)
    found: dict[tuple[int, ...], Tensor] = {}
    rows = sorted({tuple(prompt) for prompt in prompts}, key=lambda row: (len(row), row))
    for begin in range(0, len(rows), ROWS):
        some = rows[begin : begin + ROWS]
        seen = states_at(model, padded(model, some), torch.tensor([len(row) - 1 for row in some]), [site])[site]
        for number, row in enumerate(some):
            skipped = len(first) if row[: len(first)] == tuple(first) and len(row) > len(first) else 0
            found[row] = seen[number, skipped : len(row)].float().mean(0).cpu()
    return torch.stack([found[tuple(prompt)] for prompt in prompts])
