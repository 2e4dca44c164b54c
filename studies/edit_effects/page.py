"""The page of an edit seen from inside: a story from top to bottom, drawn from the saved study alone.

Did it take; where it changed the model (traces on one scale); which wiring changed (one layout, a button for each
state); which heads turned; from which layer the new answer leads; who else was touched; and beside every number what
scrambled edits of the same norm did. Orange and plus are towards the new answer, blue and minus towards the old.
"""

from collections.abc import Sequence
from pathlib import Path

from editing.pages.report import row_table, score_table, spectrum_table
from factscope.plots.labels import as_sentence
from factscope.plots.page import write_page
from factscope.plots.specs import Headline, Number, Page, Section, Spec, Text, state_name
from factscope.runs import store
from factscope.runs.parts import forget
from studies.edit_effects.measures import CIRCUIT, measure_of
from studies.edit_effects.pictures import bars, direct_curves, lens_curves, network, trace_maps
from studies.edit_effects.result import EditStudy
from studies.edit_effects.side_by_side import side_by_side
from studies.edit_effects.tables import (
    card,
    edge_table,
    entry_tables,
    head_tables,
    measure_table,
    neighbour_tables,
    null_spectra,
    seconds,
)
from studies.edit_effects.words import records, summary, words

__all__ = ["page", "records", "save", "summary", "words"]


def page(study: EditStudy) -> Page:
    """The whole story."""
    old, new = study.answers
    sections = [
        Section("In short", (headline(study), *_remarks(study)), _how_to_read(study)),
        Section("Did the edit take?", (score_table(study.report), row_table(study.report)), _TAKE),
        Section("Where in the model", trace_maps(study), _TRACE),
        Section("Which wiring changed", (network(study), edge_table(study)), _wiring(study)),
        Section("How the edited layer is heard, and whether one circuit serves the other", entry_tables(study), _ENTRY),
        Section("Which heads turned", (*head_tables(study), *direct_curves(study)), _heads(study)),
        Section("From which layer the new answer leads", lens_curves(study), _LENS),
    ]
    if study.neighbours:
        sections.append(Section("Prompts that should not change", neighbour_tables(study), _NEAR))
    sections += [
        Section("Beside changes that mean nothing", (measure_table(study.measures), *bars(study)), _NULLS),
        *_weights(study),
        Section("How it was made", (card(study), seconds(study))),
    ]
    return Page(f"{study.request.prompt}:{old} or{new}?", tuple(sections), f"What {study.method} did inside")


def _weights(study: EditStudy) -> list[Section]:
    """What became of the weights; nothing where the edit stands beside them."""
    if not study.spectra:
        return []
    return [Section("The edited weights", (spectrum_table(study.spectra), *null_spectra(study)))]


# ---- words ----


def headline(study: EditStudy) -> Headline:
    """The sentence and four numbers."""
    measure = measure_of(study, CIRCUIT)
    nulls = [*measure.scrambled, *measure.values]
    p = f", p {measure.p:.2g}" if measure.p is not None else ""
    lead = study.after.lens.leads_from()
    numbers = [
        Number(f"{study.before.gap:+.1f} → {study.after.gap:+.1f}", "new answer against the old, logits"),
        Number(f"{measure.edit:.0%}", "of the edge effects changed"),
        Number(f"{max(nulls):.0%}" if nulls else "none", f"at most, by a null{p}"),
        Number(state_name(lead), "from here on the new answer leads"),
    ]
    return Headline(words(study)[0], tuple(numbers))


def _remarks(study: EditStudy) -> tuple[Spec, ...]:
    lines = [f"Edited: {each}." for each in study.edited[:5]]
    if not any(each.startswith(f"{study.request.prompt} ") for each in study.edited):
        lines.append(f"The study asks a prompt other than the edited one: {study.request.prompt!r}.")
    lines += map(as_sentence, study.notes)
    return (Text("\n\n".join(lines)),)


def _how_to_read(study: EditStudy) -> str:
    (old, new), count = study.answers, len(study.nulls)
    where = "in the same weights" if study.spectra else "beside the same layer"
    nulls = f"each of {count} nulls (control edits): random edits of the same size {where}"
    if count == 1:
        nulls = f"a null (a control edit): a random edit of the same size {where}"
    return (
        f"The model was asked “{study.request.prompt}” before the edit, after it, and after {nulls}. The study follows "
        f"the first tokens of two answers, the old {old!r} and the new {new!r}. Plus and orange always mean towards "
        "the new answer."
    )


_TAKE = (
    "The edited prompt, other wordings of it, and neighbours: prompts about other subjects, whose answers should stay "
    "as they were."
)
_TRACE = (
    "The subject is blurred with noise, then one state is put back as it was. The colour says how far that alone moves "
    "the model towards the new answer (orange) or the old answer (blue), in logits. All pictures of one kind share one "
    "scale; the last row is what a null changed. Where the picture “after” turned orange, the model now reads the new "
    "answer out of that state."
)
_ENTRY = (
    "Cross-faithfulness: both models restricted to both circuits. 1 means that the circuit alone gives the same "
    "preference as the whole model, 0 that it gives no more than a model with every edge cut."
)
_LENS = (
    "The logit lens: the embedding and each layer's state are read as if the model ended there. An edit at the subject "
    "appears first at the subject's last token, and at the last token only once a head has moved it there."
)
_NEAR = (
    "The edit's new answer against each neighbour's own, before and after. Heads that turned towards the edited object "
    "here are the ones through which the edit leaks."
)
_NULLS = (
    "Directions: the same weights and singular values with all directions drawn at random. Values: the edit's own "
    "inputs, and only what is written drawn at random. Again: the unedited model searched once more, with another "
    "wording and a cut that is up to a quarter elsewhere: how far a circuit is known at all. Neighbours: what the edit "
    "did to them."
)


def _wiring(study: EditStudy) -> str:
    circuit = study.before.circuit
    return (
        "Layers go upward, heads across, MLPs at the right; the buttons change the wiring and leave every node where "
        f"it is. An edge's effect is the {circuit.convention}. The loss is "
        + ("old - new in logits, so plus helps the new answer." if circuit.task.metric == "logit_difference" else
           f"{circuit.task.metric} ({circuit.unit}).")
        + f" An edge has moved if its effect changed by more than {study.diff.level:.3g} {circuit.unit}, the most that "
        "any edge changed under any null; one that was gained or lost by less has only crossed the threshold. Choose a "
        "node to see its paths alone."
    )  # fmt: skip


def _counted(heads: int) -> str:
    return f"{heads} head{'s' * (heads != 1)}"


def _heads(study: EditStudy) -> str:
    new, old = (sum(word in head.what for head in study.heads) for word in ("new rises", "old falls"))
    told = (
        f"By direct attribution, {_counted(new)} rose towards the new answer and {_counted(old)} fell away from the "
        f"old one, by more than the floor ({_floors(study)} logits). Turn: how far a head's direct write turned "
        "towards the new answer, in logits. Roles are named by the rule of a circuit's page; a head can turn and keep "
        "its role."
    )
    values = sum(side.kind == "values" for side in study.nulls)
    if not study.nulls:
        return told
    told += " “Beyond nulls”: it turned further than any head did under any null."
    if not values:
        return told
    return told + (
        f" p: the share of the edit and its {values} values nulls in which the head that turned most turned as far; it "
        "is corrected for the number of heads, for each null brings its largest turn of any head."
    )


def _floors(study: EditStudy) -> str:
    return " and ".join(f"{floor:.2g}" for floor in study.before.heads.least)


def save(found: Sequence[EditStudy], folder: Path, light: bool = False) -> list[Path]:
    """Write one study into `folder`, several into `folder`/<method> with a page that shows them side by side.

    Gives the pages, the one to open first at the end. The kept parts of the work go: the result holds it all.
    """
    places = [folder if len(found) == 1 else folder / study.method for study in found]
    for study, place in zip(found, places, strict=True):  # all, before any is drawn
        store.save(study, place)
    pages = [
        write_page(page(study), place / "page.html", light=light) for study, place in zip(found, places, strict=True)
    ]
    if len(found) > 1:
        pages.append(write_page(side_by_side(found), folder / "page.html", light=light))
    forget(folder)
    return pages
