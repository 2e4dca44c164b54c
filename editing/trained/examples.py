"""Examples as tokens: what an editor reads of them, and what the model answers after its change.

All prompts of the training facts pass the model's lower blocks once. An example's edit is read from its prompt with the
new answer; after the change another wording is asked for that answer, and prompts that must stay are read after their
last token.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from editing.trained.facts import Example, Split, TrainingFact
from editing.trained.tail import Row, Tail, Thin, answer_losses, answers_met, asked
from factscope.model.bridge import Bridge
from factscope.model.forward.scoring import Pair
from factscope.model.prompts import tokenized
from factscope.model.weights import WeightName

Changes = dict[WeightName, Thin]  # of every matrix, an example after the other, or one of all of them

KEPT = ("neighbour kept", "hard neighbour kept", "other facts kept")  # as Example.keep has them


@dataclass(frozen=True, eq=False)
class After:
    """What the model says once an example's change is in place."""

    other: Float[Tensor, " example"]  # -log p of the new answer behind another wording, nats per token
    moved: Float[Tensor, "example prompt"]  # KL(unedited || edited) behind prompts that must stay, nats


@dataclass(frozen=True, eq=False)
class TrainingInputs:
    """What every editor is trained from."""

    model: Bridge
    facts: Split
    seed: int
    start: str
    shown: bool | None = None

    @property
    def every(self) -> tuple[TrainingFact, ...]:
        """The facts of all kinds."""
        return (*self.facts.trained, *(fact for some in self.facts.asked.values() for fact in some))


class Asker:
    """The facts of a training, as tokens of one model whose blocks change from `first` on."""

    def __init__(self, inputs: TrainingInputs, first: int) -> None:
        model, start, every = inputs.model, inputs.start, inputs.every
        self.model, self.facts, self.start = model, inputs.facts, start
        prompts = list(dict.fromkeys(text for fact in every for text in fact.wordings))
        self._rows: dict[str, Row] = {text: tokenized(model, text, start=start)[0] for text in prompts}
        self._answers: dict[tuple[str, str], Row] = {}
        longest = max(len(self._answer(text, word)) for text, word in _longest(every))
        rows = list(self._rows.values())
        self.tail = Tail(model, first, [(*max(rows, key=len), *[0] * (longest + 1))])  # a word may merge otherwise
        self.tail.keep(rows, inputs.shown)

    def _answer(self, text: str, word: str) -> Row:
        if (text, word) not in self._answers:
            self._answers[text, word] = tokenized(self.model, text, word, self.start)[1]
        return self._answers[text, word]

    def _pairs(self, texts: Sequence[tuple[str, str]]) -> list[Pair]:
        return [Pair(self._rows[text], self._answer(text, word)) for text, word in texts]

    def edits(self, batch: Sequence[Example]) -> list[Pair]:
        """What each edit is computed from."""
        return self._pairs([(one.prompt, one.target) for one in batch])

    def others(self, batch: Sequence[Example]) -> list[Pair]:
        """What must be answered anew."""
        return self._pairs([(one.other, one.target) for one in batch])

    def kept(self, batch: Sequence[Example]) -> list[Row]:
        """What must stay, example by example."""
        return [self._rows[text] for one in batch for text in one.keep]

    def changed(
        self, changes: Any, owner: Int[Tensor, " row"], _: Sequence[Example], __: Sequence[Row], /
    ) -> AbstractContextManager[None]:
        """The block runs with the changes in place, for rows that `owner` gives to these examples, of these prompts.

        Another kind of change than one of matrices is put in by a class of its own.
        """
        return self.tail.changed(changes, owner)

    def _read(self, batch: Sequence[Example], changes: Any, pairs: list[Pair]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the pairs' answers and behind the prompts that must stay, after each change."""
        kept, each = self.kept(batch), len(batch[0].keep)
        own = torch.arange(len(batch))
        owner = torch.cat([own.repeat(len(pairs) // len(batch)), own.repeat_interleave(each)])
        places = [*asked(pairs), *((len(pairs) + i, len(row) - 1) for i, row in enumerate(kept))]
        rows = [*(pair.row for pair in pairs), *kept]
        resid = self.tail.entering(rows)  # of the unedited model, so before anything is changed
        with self.changed(changes, owner, batch, [*(pair.prompt for pair in pairs), *kept]):
            logp = self.tail.logp(rows, places, resid)
        return logp[: -len(kept)], logp[-len(kept) :]

    def after(self, batch: Sequence[Example], changes: Any) -> After:
        """The losses after each example's change."""
        pairs = self.others(batch)
        said, stayed = self._read(batch, changes, pairs)
        before = self.tail.unedited(self.kept(batch))
        moved = (before.exp() * (before - stayed)).sum(-1)
        return After(answer_losses(said, pairs), moved.view(len(batch), -1))

    def answers(self, batch: Sequence[Example], changes: Any) -> dict[str, list[float]]:
        """Whether each question is answered as it should be, anew or as before; and the KL of what should stay."""
        pairs = [*self.edits(batch), *self.others(batch)]
        said, stayed = self._read(batch, changes, pairs)
        before = self.tail.unedited(self.kept(batch))
        met = [float(one) for one in answers_met(said, pairs)]
        same = (stayed.argmax(-1) == before.argmax(-1)).float().view(len(batch), -1).T.tolist()
        moved = (before.exp() * (before - stayed)).sum(-1).tolist()
        found = {"reliability": met[: len(batch)], "generality": met[len(batch) :], "KL of what stays": moved}
        return found | dict(zip(KEPT, same, strict=True))


def _longest(facts: Sequence[TrainingFact]) -> list[tuple[str, str]]:
    """Every wrong answer once, behind a wording of its relation."""
    return list({word: (fact.wordings[0], word) for fact in facts for word in fact.wrong}.values())
