"""What an evaluation read and scored, as a page and in words."""

from collections.abc import Sequence

import numpy as np

from editing.evaluation.evaluate import EditReport
from editing.spectrum import Spectrum
from factscope.plots.specs import Cell, Headline, Number, Page, Section, Table
from factscope.statistics import INTERVALS, interval_in_words


def report_page(report: EditReport, spectra: Sequence[Spectrum] = ()) -> Page:
    """The scores and every prompt, without the edits."""
    sections = [
        Section("What changed", (headline(report), score_table(report)), PROTOCOL[report.protocol]),
        Section("Every prompt", (row_table(report), *spoken_table(report))),
        *([Section("The edited weights", (spectrum_table(spectra),))] if spectra else []),
    ]
    count = len(report.edits)
    return Page(f"{count} edit{'s' * (count != 1)} scored", tuple(sections), ", ".join(report.methods))


def report_in_words(report: EditReport) -> list[str]:
    """The table of scores as lines of equal columns."""
    final = any(score.final is not None for score in report.scores)
    lines = [f"{'score':<28}{'facts':>6}{'before':>9}{'after':>9}   95 % interval" + ("      final" if final else "")]
    for score in report.scores:
        interval = interval_in_words(score.low, score.high)
        end = f"{score.final:>11.3f}" if score.final is not None else ""
        lines.append(f"{score.name:<28}{score.n:>6}{score.before:>9.3f}{score.after:>9.3f}   {interval:<16}{end}")
    return [*lines, f"protocol {report.protocol}; start token {report.start_token}. {INTERVALS}"]


PROTOCOL = {
    "single": "Each edit was applied alone, read, and taken out again.",
    "together": "All edits were in place at once.",
    "sequence": "Edits were applied in turn: each was read when it was made (after), and all again at the end (final).",
}


def score_table(report: EditReport) -> Table:
    """Every score with its interval; shares and probabilities from 0 to 1."""
    final = any(score.final is not None for score in report.scores)
    columns = ("score", "unit", "facts", "before", "after", "95 % from", "95 % to", *(("final",) if final else ()))
    rows: list[tuple[Cell, ...]] = []
    for score in report.scores:
        numbers = [round(x, 4) for x in (score.before, score.after, score.low, score.high)]
        shown: list[Cell] = [None if number != number else number for number in numbers]
        tail: tuple[Cell, ...] = ((None if score.final is None else round(score.final, 4)),) if final else ()
        rows.append((score.name, score.unit, score.n, *shown, *tail))
    note = f"Protocol: {report.protocol}. Averages are taken within a fact, then over facts; {INTERVALS}. "
    note += f"Start token (BOS): {report.start_token}."
    return Table("Scores", columns, tuple(rows), note)


def row_table(report: EditReport, limit: int = 500) -> Table:
    """What each prompt says, before and after, with the probabilities of both answers."""
    rows = tuple(
        (
            row.kind,
            row.prompt,
            row.before.top,
            row.after.top,
            round(float(np.exp(-row.before.nll_new)), 4),
            round(float(np.exp(-row.after.nll_new)), 4),
            round(float(np.exp(-row.before.nll_true)), 4),
            round(float(np.exp(-row.after.nll_true)), 4),
            round(row.after.kl, 4),
        )
        for row in report.rows[:limit]
    )
    columns = ("kind", "prompt", "said", "says", "P(new) before", "after", "P(true) before", "after ", "KL, nats")
    note = "Probabilities are geometric means over an answer's tokens."
    if len(report.rows) > limit:
        note += f" The first {limit} of {len(report.rows)} prompts."
    return Table("Prompts", columns, rows, note)


def spoken_table(report: EditReport) -> tuple[Table, ...]:
    """Greedy continuations, where they were made."""
    if not report.spoken:
        return ()
    return (Table("Greedy continuations", ("prompt", "before", "after"), report.spoken[:100]),)


def spectrum_table(spectra: Sequence[Spectrum]) -> Table:
    """Singular values before and after."""
    columns = ("weight", "edits", "largest", "smallest", "condition", "largest of the update", "its rank", "|dW| / |W|")
    rows = tuple(
        (s.weight, s.edits, *(finite(x) for x in (s.largest, s.smallest, s.condition)),
         *(finite(x) for x in (s.update_largest, s.update_rank, s.share)))
        for s in spectra
    )  # fmt: skip
    return Table(
        "Singular values",
        columns,
        rows,
        "Rank: the exponential of the entropy of the update's singular values, as shares.",
    )


def headline(report: EditReport) -> Headline:
    """How many facts flipped, and what it cost the neighbours."""
    scores = {score.name: score for score in report.scores}
    worked = scores["efficacy success"]
    numbers = [Number(f"{worked.after:.0%}", "of prompts now prefer the new answer")]
    if "paraphrase success" in scores:
        numbers.append(Number(f"{scores['paraphrase success'].after:.0%}", "of paraphrases do"))
    if "neighbourhood top-1 same" in scores:
        numbers.append(
            Number(f"{scores['neighbourhood top-1 same'].after:.0%}", "of neighbours' next tokens unchanged")
        )
    sentence = f"{worked.n} fact{'s' * (worked.n > 1)}: before the edit {worked.before:.0%} preferred the new answer"
    return Headline(sentence + f", now {worked.after:.0%} do.", tuple(numbers))


def finite(number: float) -> Cell:
    """A number with four digits, or nothing where it is infinite or not a number."""
    return float(f"{number:.4g}") if np.isfinite(number) else None
