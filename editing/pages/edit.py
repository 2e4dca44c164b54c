"""Edits, reports and spectra as pages; numbers in, specs out, nothing is computed on a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from editing.bypass import KINDS
from editing.edit import Edit
from editing.evaluation.evaluate import EditReport
from editing.method import method, method_names
from editing.pages.beside import beside
from editing.pages.methods import about
from editing.pages.report import report_sections
from editing.pages.told import answer_table, in_json, one_fact, told
from editing.pages.weights import inside
from editing.spectrum import Spectrum
from factscope.plots.labels import four_digits, settings_in_words
from factscope.plots.specs import Card, Curves, Page, Section, Series, Table
from factscope.settings import configured


def scored(edits: Sequence[Edit], report: EditReport, spectra: Sequence[Spectrum] = ()) -> Page:
    """The page of one edit or a stack: what changed, what held, what else moved, and how it was made."""
    requests = [request for edit in edits for request in edit.requests]
    title = f"Edit: {requests[0]}" if len(requests) == 1 else f"{len(requests)} facts edited"
    sorts = tuple(dict.fromkeys(map(kind, edits)))
    said = sorts[0] if len(sorts) == 1 else f"{len(edits)} edits of {len(sorts)} kinds or places; the cards say which."
    found = (*beside(edits), *inside(edits), *curves(edits), *solver_table(edits), *choices(edits))
    made = Section("How it was made", (*found, *(card(edit, report.start_token) for edit in edits[:5])), said)
    sections = (*report_sections(report, spectra), made)
    return Page(title, sections, f"{edits[0].model}, {', '.join(report.methods)}")


def page(edit: Edit) -> Page:
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
    facts = Table("Facts", ("prompt", "from", "to"), tuple((one.prompt, one.old, one.target) for one in edit.requests))
    answers = (answer_table(edit.rows),) if one_fact(edit.rows) is not None else ()
    sections = (
        *((Section("What is said", answers),) if answers else ()),
        Section(
            "What it does", (facts, *((shapes,) if shapes.rows else ()), *inside([edit]), *beside([edit])), kind(edit)
        ),
        Section("How it was found", (*curves([edit]), *solver_table([edit]), *choices([edit]))),
        Section("What was run", (card(edit),)),
    )
    return Page(f"Edit {edit.name}", sections, f"{edit.method} on {edit.model}")


def words(edit: Edit) -> list[str]:
    """What was said of one fact and is said now, where it was asked; then the method, and where it writes."""
    first, more = edit.requests[0], f" and {len(edit.requests) - 1} more" if len(edit.requests) > 1 else ""
    layers = ", ".join(map(str, edit.layers))
    said = told(edit.rows) if one_fact(edit.rows) is not None else []
    said += [f"Edit {edit.name} by {edit.method}: {first.prompt} {first.old or '(not known)'} -> {first.target}{more}"]
    share = max((report.norm for report in edit.reports), default=float("nan"))
    size = "" if np.isnan(share) else f", at most {share:.2g} of a weight's norm"
    if edit.preface:
        about = "every question" if edit.scope is None else "questions that are near enough to its own"
        return [*said, f"Changes no weight: it is a text that the model reads before {about}"]
    if edit.bypasses:
        return [*said, f"Changes no weight: it stands beside layer {layers}, {', '.join(kinds(edit))}"]
    return [*said, f"Writes to layer{'s' if ', ' in layers else ''} {layers}{size}; second moments: {edit.moments}"]


def kind(edit: Edit) -> str:
    """Which kind of edit it is, in a sentence."""
    by = f", by the trained editor {edit.editor[:12]}" if edit.editor else ""
    if edit.preface:
        return (
            f"An edit in context{by}: a text before {scope_words(edit)}. No weight is changed, and there is no export."
        )
    if edit.bypasses:
        where = ", ".join(map(str, edit.layers))
        return (
            f"An edit beside the weights{by}, at layer {where}: {', '.join(kinds(edit))}. No weight is changed, and "
            "there is no export."
        )
    if edit.deltas and all(delta.low_rank for delta in edit.deltas):
        ranks = sorted({0 if delta.left is None else delta.left.shape[1] for delta in edit.deltas})
        rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        return f"An edit in the weights{by}, of rank {rank}: it can be exported whole, or as an adapter."
    return f"An edit in the weights{by}, of whole matrices or of single entries: it can be exported whole."


def kinds(edit: Edit) -> tuple[str, ...]:
    """What stands beside the weights, in words."""
    return tuple(dict.fromkeys(KINDS.get(part.kind).about for part in edit.bypasses))


def summary(edit: Edit) -> dict[str, Any]:
    """What an edit is, for a program."""
    facts = [{"prompt": one.prompt, "old": one.old, "target": one.target} for one in edit.requests]
    lead = in_json(edit.rows) if one_fact(edit.rows) is not None else {}
    return {"edit": edit.name, "method": edit.method, "model": edit.model, "facts": facts, "below": edit.below, **lead}


def records(edit: Edit) -> list[dict[str, Any]]:
    """A row an edited fact: what was said and is to be said, by which method, in which layers."""
    layers = " ".join(map(str, edit.layers))
    return [
        {"edit": edit.name, "method": edit.method, "layers": layers, "subject": one.subject, "prompt": one.prompt,
         "old": one.old, "target": one.target}
        for one in edit.requests
    ]  # fmt: skip


def curves(edits: Sequence[Edit]) -> tuple[Curves, ...]:
    """How the values were learned: the mean loss over facts and its spread, a line an edit."""
    drawn = []
    for edit in edits[:10]:
        loss = np.empty((0, 0)) if edit.curve is None else _kept_on(edit.curve.numpy())
        if loss.size:
            low, high = np.quantile(loss, [0.1, 0.9], axis=1)
            drawn.append(Series(f"{edit.method} {edit.name[:6]}", loss.mean(1), low, high))
    longest = max((len(series.y) for series in drawn), default=0)
    if not longest:
        return ()
    pad = lambda y: np.concatenate([y, np.full(longest - len(y), np.nan)])  # noqa: E731
    series = tuple(Series(s.name, pad(s.y), pad(s.low), pad(s.high)) for s in drawn)
    several = any(len(edit.requests) > 1 for edit in edits)
    note = "Band: the middle 80 % of the facts. A fact that stopped keeps its last loss." if several else ""
    return (Curves("Learning", np.arange(longest), series, "step", (), "loss", "nats", note=note),)


def _kept_on(loss: np.ndarray) -> np.ndarray:
    """Losses [step, fact] with each fact's last one from its stop on; without facts that never learned."""
    learned = loss[:, ~np.isnan(loss).all(0)]
    last = np.maximum.accumulate(np.where(np.isnan(learned), 0, np.arange(len(loss))[:, None]), axis=0)
    return np.take_along_axis(learned, last, axis=0)


def choices(edits: Sequence[Edit]) -> tuple[Table, ...]:
    """What the papers of these methods leave open, and what these edits chose; a table a configuration."""
    drawn: dict[str, Table] = {}
    for edit in edits:
        known = edit.method in method_names() and method(edit.method).choices
        if known:
            spec = method(edit.method)
            rows = known(configured(spec.Config(), edit.config))
            note = "The setting that says otherwise; where there is none, there is no other choice to be had."
            columns = ("not said", "chosen", "setting")
            drawn.setdefault(str(rows), Table(f"What the paper of {edit.method} leaves open", columns, rows, note))
    return tuple(drawn.values())


def solver_table(edits: Sequence[Edit]) -> tuple[Table, ...]:
    """What the solver met, layer by layer; nothing where no equation was solved."""
    columns = ("edit", "weight", "residual", "division", "condition", "k C^-1 k", "disturbance", "|dW| / |W|", "remark")
    rows = tuple(
        (edit.name[:6], r.weight, *(four_digits(x) for x in (r.residual, r.division, r.condition, r.leverage)),
         four_digits(r.disturbance), four_digits(r.norm), r.note)
        for edit in edits[:100] for r in edit.reports
    )  # fmt: skip
    note = "Disturbance: tr(dW' C dW) / tr(W' C W), the share of usual output that changes."
    return (Table("Solver", columns, rows, note),) if rows else ()


def card(edit: Edit, start_token: str = "") -> Card:
    """What is needed to do it again; the token that stood for an edit's "auto" is known where it was asked about."""
    config = settings_in_words(edit.config)
    items = (
        ("edit", edit.digest),
        ("method", edit.method),
        *about(edit.method),
        ("kind", kind(edit)),
        ("settings", config),
        ("model", edit.model),
        ("fingerprint", edit.base),
        ("second moments", edit.moments),
        ("contexts", " | ".join(edit.contexts)),
        ("seed", str(edit.seed)),
        ("start token", start_token or edit.start_token),
        ("on top of", ", ".join(name[:12] for name in edit.below) or "nothing"),
        ("restraints", ", ".join(edit.restraints) or "none"),
        *((("read before", scope_words(edit)),) if edit.preface else ()),
        ("remarks", "; ".join(edit.notes) or "none"),
        ("seconds", f"{edit.run.seconds:.1f}" if edit.run else "unknown"),
    )
    return Card(f"Edit {edit.name}", items, command=edit.run.command if edit.run else "")


def scope_words(edit: Edit) -> str:
    """Which questions the text of an in-context edit stands before."""
    if edit.scope is None:
        return "every question"
    scope, count = edit.scope, len(edit.scope.texts)
    entries = "its entry is" if count == 1 else f"one of its {count} entries is"
    return f"questions that {entries} nearer to than {scope.floor:g}, by what enters layer {scope.layer}"
