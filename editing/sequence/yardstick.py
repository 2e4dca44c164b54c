"""What a model edited many times is held against: facts that nobody edited, and a fixed text.

The yardstick is read once on the model before any edit and again whenever it is asked for. It has two parts:

    unrelated facts   shipped facts that the model knows and whose subject is not edited: is the greedy next token the
                      same as before, and KL(before || now) of the next token, nats
    a fixed text      perplexity = exp(mean nats per token), teacher-forced, every token but the first of a document

By default the text is what the unedited model itself wrote, drawn at temperature 1 with a seed. Then
ln(perplexity now / perplexity before) estimates KL(before || now) for a token of running text, which no other text
gives; it is an estimate from a thousand tokens, and says nothing about text that the model would not write.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from editing.contexts import OPENINGS
from editing.evaluation.evaluate import questions
from editing.evaluation.protocol import ORDERS
from editing.evaluation.read import Asked, Reading, Row
from editing.requests import known
from editing.solve.corpus import SELF, texts
from factscope.cache import digest
from factscope.data.case import Case
from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.batched import logits_at
from factscope.model.forward.generate import sample
from factscope.model.prompts import document_bounds, start_ids, token_ids


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Unrelated facts and a fixed text, with what the unedited model says to them."""

    facts: tuple[Fact, ...]
    asked: Asked  # the facts' own prompts
    text: tuple[tuple[int, ...], ...]  # token ids, a row a document
    source: str  # of the text, in words

    @classmethod
    def of(
        cls, model: Bridge, facts: Sequence[Fact], text: Sequence[Sequence[int]], source: str, start: str
    ) -> "Yardstick":
        """Read the model, which must be unedited."""
        asked = Asked.of(model, questions(model, map(Case.unrelated, facts), start), ORDERS["sequence"], start)
        return cls(tuple(facts), asked, tuple(tuple(row) for row in text), source)

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked."""
        return digest([[[pair.row for pair in one.pairs] for one in self.asked.questions], self.text])

    def read(self, model: Bridge) -> list[Reading]:
        """The unrelated facts, on the model as it is."""
        return self.asked.read(model)

    def rows(self, now: Sequence[Reading]) -> list[Row]:
        """The same beside what the unedited model said."""
        return self.asked.rows(final=now)

    def perplexity(self, model: Bridge) -> float:
        """exp(mean nats per token) of the fixed text on the model as it is."""
        return float(token_nats(model, self.text).double().mean().exp())  # inf, not an error, where all is lost


@torch.no_grad()
def token_nats(model: Bridge, rows: Sequence[Sequence[int]]) -> Float[Tensor, " token"]:
    """-log p of every token but the first of each row, given those before it."""
    found = []
    for some in (rows[i : i + 8] for i in range(0, len(rows), 8)):  # the logits of all positions are large
        logits = logits_at(model, some, [range(len(row) - 1) for row in some])
        for row, part in zip(some, logits, strict=True):
            found.append(-part.log_softmax(-1).gather(1, torch.tensor(row[1:])[:, None])[:, 0])
    return torch.cat(found)


def fixed_text(
    model: Bridge, source: str = SELF, documents: int = 16, tokens: int = 64, seed: int = 0, start: str = "auto"
) -> tuple[list[list[int]], str]:
    """Documents as token ids, and in words where they are from: written by the model, or of a text file or data set.

    Raises EditError if there is no text, or not two tokens of it.
    """
    first = start_ids(model, start)
    if source == SELF:
        begin = first or token_ids(model, OPENINGS[0])
        generator = torch.Generator().manual_seed(seed)
        rows = sample(model, torch.tensor([begin] * documents), tokens, generator).tolist()
        ends = document_bounds(model)
        rows = [_to_end(row, len(begin), ends) for row in rows]
        after = "" if first else f" after {OPENINGS[0]!r}, as it has no start token"
        words = f"written by the unedited model{after}, temperature 1, seed {seed}"
    else:
        rows = []
        for text in texts(source):
            if len(rows) == documents:
                break
            rows.append([*first, *token_ids(model, text)][:tokens])
        words = source
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise EditError(f"there is no text to measure perplexity on in {source!r}: no document has two tokens")
    return rows, f"{words}: {sum(len(row) - 1 for row in rows)} tokens in {len(rows)} documents"


def _to_end(row: list[int], begun: int, ends: Collection[int | None]) -> list[int]:
    """A row up to and with the token that ends its document."""
    return row[: next((i + 1 for i, token in enumerate(row) if i >= begun and token in ends), len(row))]


def unrelated_facts(
    model: Bridge,
    edited: Sequence[Fact | EditRequest],
    source: str | Path | None = None,
    count: int = 50,
    seed: int = 0,
    start: str = "auto",
) -> tuple[Fact, ...]:
    """Facts that the model knows about subjects that are not edited, `count` at most, drawn with the seed.

    From the shipped facts, or another source. A subject that names an edited one, or is named by it, is left out.
    Raises EditError if nothing is left.
    """
    taken = {one.subject.casefold() for one in edited}
    free = [
        fact
        for fact in load_facts(source, seed=seed, on_bad="skip" if source else "refuse")
        if fact.foil is not None
        and not any(one in fact.subject.casefold() or fact.subject.casefold() in one for one in taken)
    ]
    found = known(model, free, count, start)
    if not found:
        raise EditError(
            f"the model knows no fact of {source or 'the shipped ones'} about a subject that is not edited: name other "
            "facts with --unrelated, or leave them out with --unrelated none"
        )
    return found


@dataclass(frozen=True)
class Config:
    """What a model edited many times is held against."""

    unrelated: str | Path | None = None  # the source of unrelated facts; None: all that are shipped; "none": no facts
    count: int = 50  # of them, at most
    text: str = SELF  # what the model itself writes, or a text file or data set
    documents: int = 16
    tokens: int = 64  # of a document, at most
    seed: int = 0
    start: str = "auto"


def yardstick(model: Bridge, edited: Sequence[Fact | EditRequest], config: Config = Config()) -> Yardstick:
    """Unrelated facts and a fixed text, as the model reads them now; EditError where there are none."""
    seed, start = config.seed, config.start
    others: tuple[Fact, ...] = ()
    if config.unrelated != "none":
        others = unrelated_facts(model, edited, config.unrelated, config.count, seed, start)
    text = fixed_text(model, config.text, config.documents, config.tokens, seed, start)
    return Yardstick.of(model, others, *text, start)
