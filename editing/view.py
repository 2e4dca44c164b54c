"""Edits, reports and spectra as pages; numbers in, specs out, nothing is computed on a model."""

from collections.abc import Sequence

import numpy as np

from editing.choose import LayerChoice
from editing.edit import Edit
from editing.evaluate import EditReport
from editing.spectrum import Spectrum
from workbench.plots.specs import Card, Cell, Curves, Headline, Number, Page, Section, Series, Table


def page(edits: Sequence[Edit], report: EditReport, spectra: Sequence[Spectrum] = ()) -> Page:
    """The page of one edit or a stack: what changed, what held, what else moved, and how it was made."""
    facts = [fact for edit in edits for fact in edit.facts]
    title = f"{facts[0].prompt} {facts[0].foil}" if len(facts) == 1 else f"{len(facts)} facts edited"
    sections = [
        Section("What changed", (headline(report), score_table(report)), PROTOCOL[report.protocol]),
        Section("Every prompt", (row_table(report), *spoken_table(report))),
        Section("How it was made", (*curves(edits), solver_table(edits), *(card(edit) for edit in edits[:5]))),
    ]
    if spectra:
        sections.insert(2, Section("The edited weights", (spectrum_table(spectra),)))
    return Page(title, tuple(sections), f"{edits[0].model}, {', '.join(report.methods)}")


def edit_page(edit: Edit) -> Page:
    """An edit before anything was asked of it: what it writes where, and how it was found."""
    shapes = Table(
        "What it changes",
        ("weight", "shape", "rank", "kept as"),
        tuple(
            (delta.weight, f"{delta.dense().shape[0]} × {delta.dense().shape[1]}",
             None if delta.left is None else delta.left.shape[1], "factors" if delta.low_rank else "entries")
            for delta in edit.deltas
        ),
    )  # fmt: skip
    facts = Table(
        "Facts", ("prompt", "from", "to"), tuple((fact.prompt, fact.answer, str(fact.foil)) for fact in edit.facts)
    )
    sections = (
        Section("What it does", (facts, shapes)),
        Section("How it was found", (*curves([edit]), solver_table([edit]))),
        Section("What was run", (card(edit),)),
    )
    return Page(f"Edit {edit.name}", sections, f"{edit.method} on {edit.model}")


def edit_in_words(edit: Edit) -> list[str]:
    """The first fact, the method, and where it writes."""
    first, more = edit.facts[0], f" and {len(edit.facts) - 1} more" if len(edit.facts) > 1 else ""
    layers = ", ".join(dict.fromkeys(delta.weight.split(".")[1] for delta in edit.deltas))
    said = [f"Edit {edit.name} by {edit.method}: {first.prompt} {first.answer} -> {first.foil}{more}"]
    share = max((report.norm for report in edit.reports), default=float("nan"))
    size = "" if np.isnan(share) else f", at most {share:.2g} of a weight's norm"
    return [*said, f"Writes to layer{'s' if ', ' in layers else ''} {layers}{size}; second moments: {edit.moments}"]


def report_page(report: EditReport, spectra: Sequence[Spectrum] = ()) -> Page:
    """The scores and every prompt, without the edits."""
    sections = [
        Section("What changed", (headline(report), score_table(report)), PROTOCOL[report.protocol]),
        Section("Every prompt", (row_table(report), *spoken_table(report))),
        *([Section("The edited weights", (spectrum_table(spectra),))] if spectra else []),
    ]
    return Page(f"{len(report.edits)} edits scored", tuple(sections), ", ".join(report.methods))


def report_in_words(report: EditReport) -> list[str]:
    """The table of scores as lines of equal columns."""
    final = any(score.final is not None for score in report.scores)
    lines = [f"{'score':<28}{'facts':>6}{'before':>9}{'after':>9}   95 % interval" + ("      final" if final else "")]
    for score in report.scores:
        interval = f"{score.low:.3f} to {score.high:.3f}" if score.low == score.low else "one fact"
        end = f"{score.final:>11.3f}" if score.final is not None else ""
        lines.append(f"{score.name:<28}{score.n:>6}{score.before:>9.3f}{score.after:>9.3f}   {interval:<16}{end}")
    return [*lines, f"protocol {report.protocol}; start token {report.start_token}"]


PROTOCOL = {
    "single": "Each edit was put in alone, read, and taken out again.",
    "together": "All edits were in place at once.",
    "sequence": "Edits were put in one after another: read right after each (after), and all again at the end (final).",
}


def headline(report: EditReport) -> Headline:
    """How many facts flipped, and what it cost the neighbours."""
    scores = {score.name: score for score in report.scores}
    worked = scores["efficacy success"]
    numbers = [Number(f"{worked.after:.0%}", "prompts now prefer the new answer")]
    if "paraphrase success" in scores:
        numbers.append(Number(f"{scores['paraphrase success'].after:.0%}", "paraphrases do"))
    if "neighbourhood top-1 same" in scores:
        numbers.append(Number(f"{scores['neighbourhood top-1 same'].after:.0%}", "neighbours' next token unchanged"))
    sentence = f"{worked.n} fact{'s' * (worked.n > 1)}: before the edit {worked.before:.0%} preferred the new answer"
    return Headline(sentence + f", now {worked.after:.0%} do.", tuple(numbers))


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
    note = f"Protocol: {report.protocol}. Averages within a fact, then over facts; start token: {report.start_token}."
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
    return (Table("Continued greedily", ("prompt", "before", "after"), report.spoken[:100]),)


def curves(edits: Sequence[Edit]) -> tuple[Curves, ...]:
    """How the values were learned: the mean loss over facts and its spread, a line an edit."""
    drawn = []
    for edit in edits[:10]:
        if edit.curve is None:
            continue
        loss = edit.curve.numpy()
        filled = np.where(np.isnan(loss), np.nanmin(np.where(np.isnan(loss), np.inf, loss), axis=0), loss)
        low, high = np.quantile(filled, [0.1, 0.9], axis=1)
        drawn.append(Series(f"{edit.method} {edit.name[:6]}", filled.mean(1), low, high))
    longest = max((len(series.y) for series in drawn), default=0)
    if not longest:
        return ()
    pad = lambda y: np.concatenate([y, np.full(longest - len(y), np.nan)])  # noqa: E731
    series = tuple(Series(s.name, pad(s.y), pad(s.low), pad(s.high)) for s in drawn)
    note = "Band: the middle 80 % of the facts. A fact that stopped keeps its last loss."
    return (Curves("Learning", np.arange(longest), series, "step", (), "loss", "nats", note=note),)


def solver_table(edits: Sequence[Edit]) -> Table:
    """What the solver met, layer by layer."""
    columns = ("edit", "weight", "residual", "division", "condition", "k C^-1 k", "disturbance", "|dW| / |W|", "remark")
    rows = tuple(
        (edit.name[:6], r.weight, *(_finite(x) for x in (r.residual, r.division, r.condition, r.leverage)),
         _finite(r.disturbance), _finite(r.norm), r.note)
        for edit in edits[:100] for r in edit.reports
    )  # fmt: skip
    return Table(
        "Solver", columns, rows, "Disturbance: tr(dW' C dW) / tr(W' C W), the share of usual output that changes."
    )


def _finite(number: float) -> Cell:
    return float(f"{number:.4g}") if np.isfinite(number) else None


def spectrum_table(spectra: Sequence[Spectrum]) -> Table:
    """Singular values before and after."""
    columns = ("weight", "edits", "largest", "smallest", "condition", "largest of the update", "its rank", "|dW| / |W|")
    rows = tuple(
        (s.weight, s.edits, *(_finite(x) for x in (s.largest, s.smallest, s.condition)),
         *(_finite(x) for x in (s.update_largest, s.update_rank, s.share)))
        for s in spectra
    )  # fmt: skip
    return Table(
        "Singular values", columns, rows, "Rank: exp of the entropy of the update's singular values as shares."
    )


def card(edit: Edit) -> Card:
    """What is needed to do it again."""
    config = ", ".join(f"{key} {value}" for key, value in edit.config.items())
    items = (
        ("edit", edit.digest),
        ("method", edit.method),
        ("settings", config),
        ("model", edit.model),
        ("fingerprint", edit.base),
        ("second moments", edit.moments),
        ("contexts", " | ".join(edit.contexts)),
        ("seed", str(edit.seed)),
        ("start token", edit.start_token),
        ("on top of", ", ".join(name[:12] for name in edit.below) or "nothing"),
        ("restraints", ", ".join(edit.restraints) or "none"),
        ("remarks", "; ".join(edit.notes) or "none"),
        ("seconds", f"{edit.run.seconds:.1f}" if edit.run else "unknown"),
    )
    return Card(f"Edit {edit.name}", items, command=edit.run.command if edit.run else "")


def layer_page(choice: LayerChoice) -> Page:
    """The trials of `edit layers`."""
    x = np.array([trial.layer for trial in choice.trials])
    lines = {
        "efficacy": [t.efficacy for t in choice.trials],
        "paraphrase": [t.paraphrase for t in choice.trials],
        "neighbourhood": [t.neighbourhood for t in choice.trials],
        "neighbours unchanged": [t.unchanged for t in choice.trials],
        "mark": [t.mark for t in choice.trials],
    }
    series = tuple(Series(name, np.array(values)) for name, values in lines.items())
    said = Headline(
        f"Layer {choice.best} does best on {len(choice.facts)} facts.", (Number(str(choice.best), "layer"),)
    )
    drawn = Curves(
        "Scores", x, series, "layer", (), "share", "", note=f"Method {choice.method}; moments: {choice.moments}."
    )
    return Page("Which layer to edit", (Section("Layers", (said, drawn, layer_table(choice))),))


def layers_in_words(choice: LayerChoice) -> str:
    """The layer that does best."""
    return f"Layer {choice.best} does best on {len(choice.facts)} known facts, by {choice.method}"


def layer_table(choice: LayerChoice) -> Table:
    """One row a layer."""
    columns = ("layer", "efficacy", "paraphrase", "neighbourhood", "unchanged", "KL, nats", "mark")
    rows = tuple(
        (t.layer, *(round(v, 3) for v in (t.efficacy, t.paraphrase, t.neighbourhood, t.unchanged, t.kl, t.mark)))
        for t in choice.trials
    )
    return Table("Layers", columns, rows, "Mark: harmonic mean of the four shares.")
