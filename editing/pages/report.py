"""What an evaluation read and scored, as a page and in words."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from math import exp
from typing import Any

from editing.evaluation.evaluate import EditReport
from editing.evaluation.read import Reading, Row
from editing.evaluation.table import TIMES, Score, plain
from editing.pages.scores import Column, in_lines, interval, rounded
from editing.pages.scores import score_table as table_of
from editing.pages.told import answer_table, in_json, one_fact, told
from editing.pages.wordings import wording_words, wordings
from editing.spectrum import Spectrum
from factscope.plots.labels import as_sentence, four_digits
from factscope.plots.specs import Cell, Headline, Number, Page, Section, Table
from factscope.statistics import INTERVALS


def page(report: EditReport, spectra: Sequence[Spectrum] = ()) -> Page:
    """The scores and every question, without the edits."""
    count = len(report.edits)
    return Page(f"{count} edit{'s' * (count != 1)} scored", report_sections(report, spectra), ", ".join(report.methods))


def report_sections(report: EditReport, spectra: Sequence[Spectrum] = ()) -> tuple[Section, ...]:
    """What changed, every question, and the singular values of the weights where they are known."""
    return (
        Section("What changed", (headline(report), *_answers(report), score_table(report))),
        *wordings(report.rows),
        Section("Every question", (row_table(report), *written_table(report))),
        *((Section("The edited weights", (spectrum_table(spectra),)),) if spectra else ()),
    )


def _answers(report: EditReport) -> tuple[Table, ...]:
    """Of one fact, what was said and what is said now, in the words of a terminal."""
    if one_fact(report.rows) is None:
        return ()
    note = "The greedy next token with its probability. Of the neighbours, those that moved most (KL)."
    return (replace(answer_table(report.rows), note=note),)


def words(report: EditReport) -> list[str]:
    """One fact told answer by answer; of more, the table of scores as lines of equal columns."""
    if one_fact(report.rows) is not None:
        return [*told(report.rows), *wording_words(report.rows)]
    table = score_table(report)
    return [*in_lines(table), *table.note.splitlines(), *wording_words(report.rows)]


def summary(report: EditReport) -> dict[str, Any]:
    """Every line of the table for a program; of one fact also its prompt, target, before and after."""
    lead = in_json(report.rows) if one_fact(report.rows) is not None else {}
    return {"protocol": report.protocol.name, **lead, "scores": plain(report.scores)}


def records(report: EditReport) -> list[dict[str, Any]]:
    """A row a question and time, with all that was read; `nll` in nats per token of the target."""
    return [
        {"case": row.case, "kind": row.kind, "label": row.label, "prompt": row.prompt, "target": row.target,
         "other": row.other, "when": when, **asdict(reading)}
        for row in report.rows
        for when in TIMES
        if (reading := getattr(row, when)) is not None
    ]  # fmt: skip


MOST = 500  # questions of a table
ORDER = {
    "single": "Each edit was applied alone, read, and taken out again.",
    "together": "All edits were in place at once.",
    "sequence": "Edits were applied in turn: each was read when it was made (after), and all again at the end (final).",
}


def score_table(report: EditReport) -> Table:
    """Every score before and after the edits, and at the end of a sequence; with intervals, but not of one fact."""
    columns = [Column.of("before", report.scores, "before")]
    several = max((one.n for one in report.scores), default=0) > 1
    for when in ("after", "final"):
        if any(one.when == when for one in report.scores):
            columns.append(Column.of(when, report.scores, when))
            if several:
                columns.append(Column.of(f"{when}, 95 %", report.scores, when, interval))
    note = f"{ORDER[report.protocol.order]} Scorer: {report.protocol.scorer}; start token: {report.start_token}. "
    note += as_sentence(INTERVALS) if several else "One fact is no sample, so it has no intervals."
    note += _absent(report)
    return table_of(columns, note)


def _absent(report: EditReport) -> str:
    """What of the usual scores has no line, as no question asks for it."""
    asked = {row.kind for row in report.rows}
    named = {"paraphrase": "paraphrases (PS)", "locality": "neighbours (NS, locality)"}
    absent = [words for kind, words in named.items() if kind not in asked]
    return f" No fact here brings {' or '.join(absent)} to ask: they come with facts in a file." if absent else ""


def row_table(report: EditReport) -> Table:
    """What each question is answered with, before and after, with the probabilities of both answers."""
    rows = tuple(_cells(row) for row in report.rows[:MOST])
    columns = ("kind", "prompt", "said", "says", "answer", "P before", "P after", "other's P", "after", "KL, nats")
    note = "P: geometric mean over an answer's tokens. The other answer is the old one, or the new one where something "
    note += "must stay."
    if len(report.rows) > MOST:
        note += f" The first {MOST} of {len(report.rows)} questions."
    return Table("Questions", columns, rows, note)


def _cells(row: Row) -> tuple[Cell, ...]:
    now = row.after or row.final
    assert now is not None  # a report's row was read again at some time
    other = [None if one.nll_other is None else rounded(exp(-one.nll_other)) for one in (row.before, now)]
    both = [rounded(exp(-one.nll)) for one in (row.before, now)]
    return (row.label or row.kind, row.prompt, row.before.top, now.top, row.target, *both, *other, rounded(now.kl))


def written_table(report: EditReport) -> tuple[Table, ...]:
    """Greedy continuations, where they were made."""
    rows = [(row.prompt, *(_written(row, when) for when in ("before", "after", "final"))) for row in report.rows]
    rows = [row for row in rows if row[1] is not None]
    if not rows:
        return ()
    final = any(row[3] is not None for row in rows)
    columns = ("prompt", "before", "after", *(("final",) * final))
    return (Table("Greedy continuations", columns, tuple(row[: len(columns)] for row in rows[:100])),)


def _written(row: Row, when: str) -> str | None:
    one: Reading | None = getattr(row, when)
    return None if one is None else one.said


def spectrum_table(spectra: Sequence[Spectrum]) -> Table:
    """Singular values before and after."""
    columns = ("weight", "edits", "largest", "smallest", "condition", "largest of the update", "its rank", "|dW| / |W|")
    rows = tuple(
        (s.weight, s.edits, *(four_digits(x) for x in (s.largest, s.smallest, s.condition)),
         *(four_digits(x) for x in (s.update_largest, s.update_rank, s.share)))
        for s in spectra
    )  # fmt: skip
    return Table(
        "Singular values",
        columns,
        rows,
        "Rank: the exponential of the entropy of the update's singular values, as shares.",
    )


TOLD = {
    "ES": "of prompts prefer the new answer",
    "PS": "of paraphrases prefer the new answer",
    "reliability": "of prompts are answered with it",
    "locality, unchanged": "of the tokens of neighbours' answers unchanged",
}


def headline(report: EditReport) -> Headline:
    """How many facts flipped, and what it cost the neighbours; of a single fact, what is said instead of what."""
    when = "final" if any(one.when == "final" for one in report.scores) else "after"
    now: dict[str, Score] = {one.metric: one for one in report.scores if one.when == when}
    before = {one.metric: one for one in report.scores if one.when == "before"}
    rewrites = [row for row in report.rows if row.kind == "rewrite"]
    if len(rewrites) == 1:
        return _flip(rewrites[0], now)
    numbers = tuple(Number(f"{now[name].value:.0%}", words) for name, words in TOLD.items() if name in now)
    lead = next((name for name in ("ES", "reliability") if name in now), None)
    if lead is None:
        return Headline("Only what must stay was asked.", numbers)
    what = "preferred the new answer" if lead == "ES" else "gave the new answer"
    return Headline(f"{now[lead].n} facts: {before[lead].value:.0%} {what} before, {now[lead].value:.0%} now.", numbers)


def _flip(row: Row, scores: dict[str, Score]) -> Headline:
    """One fact: its answers' probabilities, and the first word of what is said."""
    now = row.now or row.before
    numbers = [Number(f"{exp(-now.nll):.3g}", f"probability of {row.target!r}, before {exp(-row.before.nll):.3g}")]
    if now.nll_other is not None and row.before.nll_other is not None:
        was, is_ = exp(-row.before.nll_other), exp(-now.nll_other)
        numbers.append(Number(f"{is_:.3g}", f"probability of {row.other!r}, before {was:.3g}"))
    numbers += [
        Number(f"{scores[name].value:.0%}", words)
        for name, words in TOLD.items()
        if name in scores and name not in ("ES", "reliability")
    ]
    next_token = f"is {now.top!r} as before" if now.next_same else f"was {row.before.top!r} and is {now.top!r}"
    return Headline(f"After {row.prompt!r} the model's next token {next_token}.", tuple(numbers))
