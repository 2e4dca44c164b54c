"""Answers behind prompts, teacher-forced: many at once, sharing what they have in common.

The row of a pair is its prompt and its answer without the last token. A row that another row begins with is not run: in
a causal model its logits are the other's at the same positions. Two answers of one token behind one prompt are one row;
so is the same prompt asked of several facts. The rows that are left run in batches of similar length. Where something
stands beside the model, or a text before it, that is chosen by the prompt, rows are shared by prompts of one length
alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factscope.model.bridge import Bridge
from factscope.model.forward.batched import logits_at
from factscope.model.forward.prefix import chosen_by_prompt
from factscope.model.hooks import standing

PAIRS = 256  # whose logits are held at once


@dataclass(frozen=True)
class Pair:
    """A prompt and an answer, as token ids; the answer has at least one."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def row(self) -> tuple[int, ...]:
        """What must be run to read the answer."""
        return (*self.prompt, *self.answer[:-1])


@dataclass(frozen=True, eq=False)
class AnswerScore:
    """What a model says to one pair."""

    nll: float  # -log p(answer | prompt), mean over its tokens, nats
    right: tuple[bool, ...]  # which of its tokens are the argmax, each after the true ones before it
    argmax: tuple[int, ...]  # the tokens that are
    logp: Float[Tensor, " vocab"]  # of the first token after the prompt

    @property
    def exact(self) -> bool:
        """Whether greedy generation begins with the answer, token for token."""
        return all(self.right)


@torch.no_grad()
def score(model: Bridge, pairs: Sequence[Pair]) -> list[AnswerScore]:
    """Every pair, in order."""
    out: list[AnswerScore] = []
    for begin in range(0, len(pairs), PAIRS):
        out += _score(model, pairs[begin : begin + PAIRS])
    return out


def _score(model: Bridge, pairs: Sequence[Pair]) -> list[AnswerScore]:
    by_prompt = bool(standing(model)) or chosen_by_prompt(model)
    hosts, host = shared([pair.row for pair in pairs], [len(pair.prompt) if by_prompt else 0 for pair in pairs])
    wanted: list[dict[int, int]] = [{} for _ in hosts]  # position -> where its logits stand
    for pair, number in zip(pairs, host, strict=True):
        for place in range(len(pair.prompt) - 1, len(pair.row)):
            wanted[number].setdefault(place, len(wanted[number]))
    logits = logits_at(model, hosts, [tuple(places) for places in wanted])
    logp = [one.log_softmax(-1) for one in logits]
    tops = [one.argmax(-1) for one in logits]
    out = []
    for pair, number in zip(pairs, host, strict=True):
        at = [wanted[number][place] for place in range(len(pair.prompt) - 1, len(pair.row))]
        ids, argmax = torch.tensor(pair.answer), tops[number][at]
        nll = float(-logp[number][at].gather(1, ids[:, None]).mean())
        out.append(
            AnswerScore(nll, tuple((argmax == ids).tolist()), tuple(argmax.tolist()), logp[number][at[0]].clone())
        )
    return out


def shared(
    rows: Sequence[tuple[int, ...]], groups: Sequence[int] | None = None
) -> tuple[list[tuple[int, ...]], list[int]]:
    """The rows that no other row begins with, each once, and for every row the number of one that begins with it.

    `groups` numbers the rows that may be shared with each other; without it all may.
    """
    keyed = list(zip(groups or [0] * len(rows), rows, strict=True))
    hosts: list[tuple[int, tuple[int, ...]]] = []
    number: dict[tuple[int, tuple[int, ...]], int] = {}
    for group, row in sorted(
        set(keyed), reverse=True
    ):  # in this order a row stands right after those that begin with it
        if not hosts or hosts[-1][0] != group or hosts[-1][1][: len(row)] != row:
            hosts.append((group, row))
        number[group, row] = len(hosts) - 1
    return [row for _, row in hosts], [number[one] for one in keyed]
