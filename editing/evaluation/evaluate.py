"""Did the edit work, does it hold in other words, and what else did it change?

Every prompt is read once before and once after, with the new and the true answer teacher-forced behind it; all scores
come from these two forward passes. With nll = mean over the answer's tokens of -log p(token | prompt, tokens before),
as in CounterFact (Meng et al. 2022):

    success      efficacy, paraphrase: nll_true > nll_new        neighbourhood: nll_true < nll_new       (a tie fails)
    magnitude    exp(-nll_new) - exp(-nll_true), the other way round for neighbourhood; geometric-mean probabilities
    exact        every token of the answer is the argmax: new for efficacy and paraphrase, true for neighbourhood; the
                 same as greedy generation beginning with the answer, token for token
    top-1 same   the greedy next token is what it was before the edit; nothing asks whether it was right
    KL           KL(before || after) of the next token, nats

Averages are taken within a fact, then over facts; intervals are 95 % over facts, as `factscope.statistics` says.
How edits share the model is a part of the protocol, its `order`: "single" (each edit alone on the untouched model),
"together" (all at once), "sequence" (one after another, each read right after it was put in and again at the end).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from editing.edit import Edit, applied, commit, in_place, revert
from editing.evaluation.protocol import Protocol, order_of
from factscope.data.fact import Fact
from factscope.data.request import EditRequest, requests_of
from factscope.errors import EditError
from factscope.model.forward.generate import generate
from factscope.model.forward.scoring import Pair, score
from factscope.model.prompts import tokenized
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.runs.provenance import Run
from factscope.statistics import interval, ngram_entropy

KINDS = ("prompt", "paraphrase", "neighbour", "unrelated")


@dataclass(frozen=True)
class Reading:
    """What the model says to one prompt."""

    nll_new: float  # nats per token
    nll_true: float
    new_exact: bool
    true_exact: bool
    top: str  # the greedy next token
    kl: float = 0.0  # nats, from the reading before any edit


@dataclass(frozen=True)
class Row:
    """One prompt, before and after, and, in a sequence, at the end."""

    fact: str
    kind: str  # one of KINDS
    prompt: str
    new: str
    true: str
    before: Reading
    after: Reading
    final: Reading | None = None


@dataclass(frozen=True)
class Score:
    """One line of the table: means over facts with their 95 % intervals."""

    name: str
    unit: str
    n: int  # facts
    before: float
    after: float
    low: float
    high: float
    final: float | None = None


@shown(page="editing.pages.report:report_page", words="editing.pages.report:report_in_words")
@dataclass(frozen=True, eq=False)
class EditReport:
    """Everything that was read, and the table made from it."""

    protocol: str
    edits: tuple[str, ...]
    methods: tuple[str, ...]
    rows: tuple[Row, ...]
    scores: tuple[Score, ...]
    start_token: str
    spoken: tuple[tuple[str, str, str], ...] = ()  # prompt, greedy continuation before, after
    run: Run | None = None

    def score(self, name: str) -> Score:
        """A line of the table by name; KeyError if it was not measured."""
        found = {score.name: score for score in self.scores}
        return found[name]


@dataclass(frozen=True, eq=False)
class Probe:
    """One prompt to read."""

    fact: str
    kind: str
    text: str
    new: str
    true: str
    rows: tuple[tuple[int, ...], tuple[int, ...]]  # prompt + new, prompt + true, each without its last token
    ids: tuple[tuple[int, ...], tuple[int, ...]]


def evaluate(
    model: Any,
    edits: Sequence[Edit],
    *,
    facts: Sequence[EditRequest | Fact] | None = None,
    unrelated: Sequence[Fact] = (),
    protocol: Protocol | str = "single",
    start: str = "auto",
    words: int = 0,
    seed: int = 0,
    shown: bool | None = None,
) -> EditReport:
    """Read everything before and after, by one of the protocols; the model is left bitwise as it was.

    Args:
        protocol: one, or the name of an order; only its order counts here.
        facts: instead of the edits' own (with "together" only): what to ask; a fact asks for its foil.
        unrelated: facts whose prompts must not change at all.
        words: tokens to continue each fact's prompt by, greedily, before and after; 0: not at all.

    Raises EditError if there is nothing to evaluate or edits are in place already.
    """
    if not edits:
        raise EditError("there is no edit to evaluate")
    if in_place(model):
        raise EditError("take the edits that are in place out before evaluating; they are put in here")
    run = Run.of(model, seed)
    order = "together" if facts is not None else order_of(protocol)
    asked = [requests_of(facts)] if facts is not None else [edit.requests for edit in edits]
    groups = [[probe for request in some for probe in probes(model, request, start)] for some in asked]
    others = [probe for request in requests_of(unrelated) for probe in probes(model, request, start)[:1]]
    others = [replace(probe, kind="unrelated") for probe in others]
    flat = [probe for group in groups for probe in group]
    clean_other, clean = read(model, others), read(model, flat)
    clean_by_group = _split(clean, [len(group) for group in groups])
    after: list[list[Reading]] = []
    final: list[Reading] | None = None
    after_other: list[Reading] = []
    with progress("edits evaluated", len(edits), shown=shown) as advance:
        if order == "together":
            with applied(model, edits):
                after = _split(readings(read(model, flat), clean), [len(group) for group in groups])
                after_other = readings(read(model, others), clean_other)
            advance(len(edits))
        elif order == "single":
            for edit, group, known in zip(edits, groups, clean_by_group, strict=True):
                with edit.applied(model):
                    after.append(readings(read(model, group), known))
                    after_other += readings(read(model, others), clean_other)
                advance(1)
        else:
            try:
                for edit, group, known in zip(edits, groups, clean_by_group, strict=True):
                    commit(model, (edit,))
                    after.append(readings(read(model, group), known))
                    advance(1)
                final = readings(read(model, flat), clean)
                after_other = readings(read(model, others), clean_other)
            finally:
                revert(model, in_place(model))
    before = readings(clean, clean)
    flat_after = [reading for group in after for reading in group]
    rows = [
        Row(p.fact, p.kind, p.text, p.new, p.true, b, a, final[i] if final is not None else None)
        for i, (p, b, a) in enumerate(zip(flat, before, flat_after, strict=True))
    ]
    before_other = readings(clean_other, clean_other)
    for i, reading in enumerate(after_other):
        p = others[i % len(others)]
        owner = p.fact if order != "single" else f"{edits[i // len(others)].name} {p.fact}"
        rows.append(Row(owner, p.kind, p.text, p.new, p.true, before_other[i % len(others)], reading))
    spoken: tuple[tuple[str, str, str], ...] = ()
    scores = list(table(rows))
    if words:
        spoken = _spoken(model, edits, [request for some in asked for request in some], start, words, order)
        entropy = [[ngram_entropy([text]) for text in one[1:]] for one in spoken]
        known = [(str(i), *pair) for i, pair in enumerate(entropy) if not any(map(math.isnan, pair))]
        if known:
            ids, first, then = zip(*known, strict=True)
            scores.append(_line("generation entropy", "bits", ids, first, then, False))
    methods = tuple(dict.fromkeys(edit.method for edit in edits))
    return EditReport(order, tuple(e.name for e in edits), methods, tuple(rows), tuple(scores), start, spoken, run)


def probes(model: Any, request: EditRequest, start: str) -> list[Probe]:
    """All prompts of a request, tokenised with both answers; EditError if it does not say the old one."""
    if request.old is None:
        raise EditError(f"request {request.id!r} does not say what was true before: there is nothing to compare with")
    asked = [("prompt", request.prompt, request.old)]
    asked += [("paraphrase", text, request.old) for text in request.paraphrases]
    asked += [("neighbour", neighbour.prompt, neighbour.answer) for neighbour in request.neighbours]
    out = []
    for kind, text, true in asked:
        both = [tokenized(model, text, word, start) for word in (request.target, true)]
        rows = [(*tokens, *answer[:-1]) for tokens, answer in both]
        ids = [answer for _, answer in both]
        out.append(Probe(request.id, kind, text, request.target, true, (rows[0], rows[1]), (ids[0], ids[1])))
    return out


@dataclass(frozen=True, eq=False)
class Read:
    """The numbers of one prompt, with the next token's whole distribution."""

    nll: tuple[float, float]
    exact: tuple[bool, bool]
    top: str
    logp: Float[Tensor, " vocab"]


@torch.no_grad()
def read(model: Any, asked: Sequence[Probe]) -> list[Read]:
    """Read every prompt; log-probabilities of the next token are kept for the KL."""
    pairs = [
        Pair(row[: len(row) - len(ids) + 1], ids)
        for probe in asked
        for row, ids in zip(probe.rows, probe.ids, strict=True)
    ]
    said = score(model, pairs)
    return [
        Read((new.nll, true.nll), (new.exact, true.exact), model.tokenizer.decode([int(new.logp.argmax())]), new.logp)
        for new, true in zip(said[::2], said[1::2], strict=True)
    ]


def readings(now: Sequence[Read], clean: Sequence[Read]) -> list[Reading]:
    """The numbers alone, with the KL from the clean model's next token to this one's, nats."""
    return [
        Reading(*one.nll, *one.exact, one.top, float((was.logp.exp() * (was.logp - one.logp)).sum().clamp_min(0)))
        for one, was in zip(now, clean, strict=True)
    ]


def _split(items: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    out, begin = [], 0
    for size in sizes:
        out.append(list(items[begin : begin + size]))
        begin += size
    return out


def _spoken(
    model: Any, edits: Sequence[Edit], requests: Sequence[EditRequest], start: str, words: int, order: str
) -> tuple[tuple[str, str, str], ...]:
    prompts = [tokenized(model, one.prompt, start=start)[0] for one in requests]
    before = generate(model, prompts, words)
    if order == "single":
        after, begin = [], 0
        for edit in edits:
            with edit.applied(model):
                after += generate(model, prompts[begin : begin + len(edit.requests)], words)
            begin += len(edit.requests)
    else:
        with applied(model, edits):
            after = generate(model, prompts, words)
    decode = model.tokenizer.decode
    return tuple((r.prompt, decode(b), decode(a)) for r, b, a in zip(requests, before, after, strict=True))


# ---- the table ----

Measure = Callable[[Row, Reading], float]
_NEW: dict[str, tuple[str, Measure, bool]] = {
    "success": ("share", lambda row, r: float(r.nll_true > r.nll_new), True),
    "magnitude": ("probability", lambda row, r: math.exp(-r.nll_new) - math.exp(-r.nll_true), False),
    "exact": ("share", lambda row, r: float(r.new_exact), True),
}
_OLD: dict[str, tuple[str, Measure, bool]] = {
    "success": ("share", lambda row, r: float(r.nll_true < r.nll_new), True),
    "magnitude": ("probability", lambda row, r: math.exp(-r.nll_true) - math.exp(-r.nll_new), False),
    "exact": ("share", lambda row, r: float(r.true_exact), True),
    "top-1 same": ("share", lambda row, r: float(r.top == row.before.top), True),
    "KL": ("nats", lambda row, r: r.kl, False),
}
_NAMES = {"prompt": "efficacy", "paraphrase": "paraphrase", "neighbour": "neighbourhood", "unrelated": "unrelated"}


def table(rows: Sequence[Row]) -> tuple[Score, ...]:
    """All scores of these rows, in the order of reading; a kind of prompt that is not there has no line."""
    out = []
    for kind in KINDS:
        some = [row for row in rows if row.kind == kind]
        measures = _NEW if kind in ("prompt", "paraphrase") else _OLD
        if kind == "unrelated":
            measures = {name: measures[name] for name in ("top-1 same", "KL")}
        for name, (unit, measure, share) in measures.items() if some else ():
            before, after = ([measure(row, r) for row, r in zip(some, rs, strict=True)] for rs in
                             ([row.before for row in some], [row.after for row in some]))  # fmt: skip
            final = [measure(row, row.final) for row in some if row.final is not None]
            out.append(
                _line(f"{_NAMES[kind]} {name}", unit, [row.fact for row in some], before, after, share, final or None)
            )
    return tuple(out)


def _line(name: str, unit: str, facts: Sequence[str], before: Any, after: Any, share: bool, final: Any = None) -> Score:
    means = [_by_fact(facts, values) for values in (before, after)]
    low, high = interval(means[1], unit)
    at_end = None if final is None else _mean(_by_fact(facts, final))
    return Score(name, unit, len(means[0]), _mean(means[0]), _mean(means[1]), low, high, at_end)


def _by_fact(facts: Sequence[str], values: Sequence[float]) -> list[float]:
    grouped: dict[str, list[float]] = {}
    for fact, value in zip(facts, values, strict=True):
        grouped.setdefault(fact, []).append(value)
    return [_mean(some) for some in grouped.values()]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
