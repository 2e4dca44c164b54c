"""Did the edit work, does it hold in other words, and what else did it change?

Every question of the edits' facts is read once before and once after (editing/evaluation/read.py), and the scores are
made from these readings alone (`metrics`, table.py), as they are for a bench.

How edits share the model is a part of the protocol, its `order`: "single" (each edit alone on the untouched model),
"together" (all at once), "sequence" (one after another, each read right after it was put in, all again at the end).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from editing.edit import Edit, applied, commit, in_place, revert
from editing.evaluation.protocol import ORDERS, Protocol, protocol_of
from editing.evaluation.read import Asked, Reading, Row, TokenizedQuestion, asked_of
from editing.evaluation.table import Score, found, table
from factscope.data.case import Case
from factscope.data.fact import Fact
from factscope.data.request import EditRequest, requests_of
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.prompts import start_token
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.results.result import Result
from factscope.runs.provenance import Run


@shown("editing.pages.report")
@dataclass(frozen=True, eq=False)
class EditReport(Result):
    """Everything that was read, and the table made from it."""

    protocol: Protocol
    edits: tuple[str, ...]
    methods: tuple[str, ...]
    rows: tuple[Row, ...]
    scores: tuple[Score, ...]
    start_token: str
    run: Run | None = None

    @classmethod
    def of(
        cls, protocol: Protocol, edits: Sequence[Edit], rows: Sequence[Row], start: str, run: Run | None
    ) -> "EditReport":
        """The report of these edits, with the table of what was read."""
        methods = tuple(dict.fromkeys(edit.method for edit in edits))
        scores = table(", ".join(methods), rows, protocol)
        return cls(protocol, tuple(edit.name for edit in edits), methods, tuple(rows), scores, start, run)

    def score(self, metric: str, when: str = "after") -> Score:
        """A line of the table; KeyError if it was not measured."""
        return found(self.scores, metric, when)

    @classmethod
    def upgraded(cls, body: dict[str, Any]) -> dict[str, Any]:
        """A report of schema 2: its rows say all but how many tokens were right, and its scores had other names."""
        if not isinstance(body["protocol"], str):
            return body
        written = {prompt: texts for prompt, *texts in body.get("spoken", ())}
        rows = [Row.upgraded(row) for row in body["rows"]]
        for row in rows:
            for when, text in zip(("before", "after"), written.get(row["prompt"], ()), strict=False):
                row[when]["said"] = text if row["kind"] == "rewrite" else None
        protocol = ORDERS[body["protocol"]]
        read = [
            Row(**row | {when: Reading(**row[when]) if row[when] else None for when in ("before", "after", "final")})
            for row in rows
        ]
        scores = [vars(one) for one in table(", ".join(body["methods"]), read, protocol)]
        kept = {name: value for name, value in body.items() if name != "spoken"}
        return kept | {"protocol": vars(protocol), "rows": rows, "scores": scores}


def evaluate(
    model: Bridge,
    edits: Sequence[Edit],
    *,
    facts: Sequence[EditRequest | Fact] | None = None,
    unrelated: Sequence[Fact] = (),
    protocol: Protocol | str | None = None,
    start: str | None = None,
    seed: int = 0,
    shown: bool | None = None,
) -> EditReport:
    """Read everything before and after, by one of the protocols; the model is left bitwise as it was.

    Args:
        facts: what to ask of all edits together, instead of their own; a fact asks for its foil.
        unrelated: facts whose next token must not change at all.
        start: what begins the text; by default what began it for the first edit.
        protocol: one, or an order's name: likelihoods are compared, and 20 tokens written after each edit's prompt. By
            default each edit is read alone ("single"), or where one was computed on top of another, in "sequence"; with
            `facts`, "together".

    Raises EditError if there is nothing to evaluate, edits are in place already, or `facts` are asked of edits apart.
    """
    if not edits:
        raise EditError("there is no edit to evaluate")
    if in_place(model):
        raise EditError("take the edits that are in place out before evaluating; they are put in here")
    run, start = Run.of(model, seed), start or edits[0].start_token
    how = protocol_of(protocol or usual_order(edits, facts))
    if facts is not None and how.order != "together":
        raise EditError(
            f"other facts are asked of all edits together, not of each in {how.name!r}: leave the order out"
        )
    groups = [requests_of(facts)] if facts is not None else [edit.requests for edit in edits]
    own = [questions(model, (how.case(Case.of(one)) for one in group), start, how.frame) for group in groups]
    asked = Asked.of(model, [one for some in own for one in some], how, start)
    others = Asked.of(model, questions(model, map(Case.unrelated, unrelated), start, how.frame), how, start)
    spans = list(pairwise(accumulate(map(len, own), initial=0)))
    rows: list[Row] = []
    with progress("edits evaluated", len(edits), shown=shown) as advance:
        if how.order == "together":
            with applied(model, edits):
                rows = [*asked.rows(asked.read(model)), *others.rows(others.read(model))]
            advance(len(edits))
        elif how.order == "single":
            after: list[Reading] = []
            beside: list[Row] = []
            for edit, span in zip(edits, spans, strict=True):
                with edit.applied(model):
                    after += asked.read(model, *span)
                    beside += others.rows(others.read(model))
                advance(1)
            rows = [*asked.rows(after), *beside]
        else:
            rows = _in_sequence(model, edits, asked, spans, others, advance)
    return EditReport.of(how, edits, rows, start_token(model, start)[0] or "none", run)


def usual_order(edits: Sequence[Edit], facts: Sequence[EditRequest | Fact] | None) -> str:
    """How edits share the model where nobody says it: alone, or as they were computed; with `facts`, all at once."""
    if facts is not None:
        return "together"
    return "sequence" if any(edit.below for edit in edits) else "single"


def _in_sequence(
    model: Bridge, edits: Sequence[Edit], asked: Asked, spans: Sequence[tuple[int, int]], others: Asked, advance: Any
) -> list[Row]:
    """Each edit on top of those before it, read right after it, and everything again at the end."""
    after: list[Reading] = []
    try:
        for edit, span in zip(edits, spans, strict=True):
            commit(model, (edit,))
            after += asked.read(model, *span)
            advance(1)
        return [*asked.rows(after, asked.read(model)), *others.rows(final=others.read(model))]
    finally:
        revert(model, in_place(model))


def questions(
    model: Bridge, cases: Iterator[Case] | Sequence[Case], start: str, frame: str = "bare"
) -> list[TokenizedQuestion]:
    """Every question of every case, tokenised. Raises PromptError for an answer that has no tokens."""
    return [one for case in cases for one in asked_of(model, case, start, frame)]
