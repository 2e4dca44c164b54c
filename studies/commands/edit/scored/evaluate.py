"""`edit evaluate`: saved edits scored again, in another order or on other facts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.runs.folders import new_folder
from studies.commands.app import tell_result
from studies.commands.command import command, run_folder
from studies.commands.edit.saved.stack import model_of
from studies.commands.options import FACTS, MODEL, Extra, OneOf, RunOptions, SavedModelOptions, Was, argument, option


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(SavedModelOptions, RunOptions):
    """Which edits, how they share the model, on which facts."""

    edit: Annotated[tuple[Path, ...], argument("Folders of saved edits, in the order to apply them.", metavar="EDITS")]
    order: Annotated[
        str | None,
        option(
            "How edits share the model  [dim](default: single, or sequence where one is on top of another)[/dim]",
            of=OneOf("order", ("single", "together", "sequence")),
        ),
        Was("--protocol"),
    ] = None
    facts: Annotated[str | None, option("Ask these facts instead of the edits' own.", panel=FACTS)] = None
    limit: Annotated[int | None, option("At most so many (with --facts).", panel=FACTS)] = None
    probes: Annotated[bool, option("Ask in other frames, negated, and as yes or no, too.", "--probes")] = False
    vary: Annotated[
        bool, option("Ask after a long text, under doubt, with typos, in other languages, too.", "--vary")
    ] = False
    said: Annotated[bool, option("Continue the prompts freely, beside teacher forcing.", "--said/--no-said")] = True
    unrelated: Annotated[str | None, option("Facts whose prompts must not change at all.", panel=FACTS)] = None
    extra: Extra = "refuse"
    start: Annotated[str | None, option("What begins the text  [dim](default: as the edit)[/dim]", panel=MODEL)] = None


@command(
    "edit evaluate",
    EvaluateOptions,
    "edit evaluate runs/20261121-140000-edit-rome --facts landmark_city --limit 20",
    "edit evaluate runs/one runs/other --order sequence",
    "edit evaluate runs/one --probes --vary",
)
def evaluate(options: EvaluateOptions) -> None:
    """Score saved edits again: in another order, on other facts."""
    from studies import edit as recipe

    edits = [edit for folder in options.edit for edit in recipe.load_edits(folder)]
    with run_folder("edit evaluate", options, new_folder("evaluate", options.edit[0].name)) as folder:
        from editing.pages.edit import scored
        from factscope.data.load import load_facts
        from factscope.plots.page import write_page
        from factscope.runs import store

        model = model_of(edits, options)
        asked = load_facts(options.facts, limit=options.limit, extra=options.extra) if options.facts else None
        others = load_facts(options.unrelated, limit=100, extra=options.extra) if options.unrelated else ()
        how = recipe.usual_protocol(
            edits, options.order, probes=options.probes, said=options.said, variations=options.vary, facts=asked
        )
        scores = recipe.score(
            model, edits, protocol=how, start=options.start,
            facts=asked, unrelated=others, seed=options.seed,
        )  # fmt: skip
        store.save(scores, folder / "report")
        page = write_page(scored(edits, scores.report, scores.spectra), folder / "page.html", light=options.light)
    tell_result(scores, page, options, edits=[edit.name for edit in edits], folder=str(folder))
