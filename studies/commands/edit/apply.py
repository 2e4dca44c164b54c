"""`edit apply`: one fact or many edited, scored before and after, and saved."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import new_folder, settled_folder
from studies.commands.app import load, note, tell_result
from studies.commands.asked import check_prompt, request_from
from studies.commands.command import command, run_folder
from studies.commands.edit.learning import learning
from studies.commands.edit.saved import stack
from studies.commands.options import (
    EditOptions,
    EditorOptions,
    KnownFactsOptions,
    ModelOptions,
    PromptOptions,
    RunOptions,
    Runs,
    Target,
    key,
    option,
)

if TYPE_CHECKING:
    from editing.method import MethodSpec


@dataclass(frozen=True, kw_only=True)
class ApplyOptions(PromptOptions, EditOptions, EditorOptions, KnownFactsOptions, ModelOptions, RunOptions):
    """What is edited, how, and on top of what."""

    target: Target = None
    stack: Annotated[bool, option("Edit on top of the stack, and put the edit on it.", "--stack")] = False
    batch: Annotated[int | None, option("Facts of one edit; more become a stack of edits.")] = None
    runs: Runs = Path("runs")


@command(
    "edit apply",
    ApplyOptions,
    'edit apply "[The Eiffel Tower] is located in the city of" --target Rome --method rome',
    "edit apply --facts counterfact.json --limit 100 --method memit --batch 100",
    'edit apply "[The Louvre] is located in the city of" --target Berlin --stack',
)
def apply(options: ApplyOptions) -> None:
    """Edit one fact or many, score them before and after, and save the edit."""
    check(options)
    check_prompt(options.prompt, options.subject)
    with run_folder("edit apply", options, _folder(options)) as folder:
        from editing.trained.fitting import belongs
        from studies import edit as recipe

        spec, pairs = options.method_with_settings()
        gentle, gentle_config = options.restraint_with_config()
        editor = options.loaded()
        belongs(spec, editor)
        model = load(options)
        chosen = _facts(model, options)
        config = spec.config_for(model, pairs, editor)
        places = stack.read_stack(options.runs) if options.stack else []
        below = [part for place in places for part in recipe.load_edits(Path(place))]
        note_identity(spec, options.moments)
        stats = recipe.moments_for(model, spec, config, options.moments, options.tokens, options.seed, options.start)
        run = recipe.MethodRun(spec, config, stats, options.seed, options.start, editor, options.allow_trained)
        with learning(config, len(chosen)) as (on_step, on_piece):
            edits = recipe.make(
                model, chosen, run, below=below, restraint=gentle, restraint_config=gentle_config,
                batch=options.batch, on_step=on_step, on_piece=on_piece, folder=folder / "values", shown=False,
            )  # fmt: skip
        everything = [*below, *edits]
        how = recipe.usual_protocol(everything, probes=options.prompt is not None)
        scores = recipe.score(model, everything, protocol=how, start=options.start, seed=options.seed)
        alone = [edit.requests for edit in everything]
        note_neighbours(*(alone if how.order == "single" else ([one for some in alone for one in some],)))
        _remarks(edits, scores.report)
        page = recipe.save(folder, edits, scores, options.light)
        shutil.rmtree(folder / "values", ignore_errors=True)  # they were kept to go on from, and it is done
        if options.stack:
            stack.put_on(options.runs, folder, places)
    names = [edit.name for edit in edits]
    where = f"Edit {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} in {folder}"
    said = {"edits": names, "method": options.method, "facts": len(chosen), "folder": str(folder)}
    tell_result(scores, page, options, where, **said)


def check(options: ApplyOptions) -> None:
    """UserError for options that do not go together."""
    if (options.prompt is None) == (options.facts is None):
        raise UserError("give either a PROMPT with --target, or --facts; see edit apply --help")
    if options.prompt is not None and options.target is None:
        raise UserError("--target is missing: what shall the model say instead?")
    if options.facts is not None and any((options.target, options.subject, options.answer)):
        raise UserError("--target, --subject and --answer belong to a single PROMPT; facts bring their own")


def _folder(options: ApplyOptions) -> Path:
    """Where the edit goes; UserError where a saved one would be written over that is on the stack, or at --out.

    An edit without its report was stopped before it, and one that was to be on the stack and is not, between the two:
    the same command goes on from there.
    """
    if options.prompt is not None:
        own = new_folder("edit", options.prompt, options.runs)
    else:  # the same command finds the same folder, and so takes up where it was stopped
        own = settled_folder("edit", Path(str(options.facts)).stem, key(options), options.runs)
    place, meant = options.out or own, options.stack or options.out is not None
    if meant and (place / "report" / "result.json").exists():
        stacked = {Path(one).absolute() for one in stack.read_stack(options.runs)}
        if not options.stack or place.absolute() in stacked:
            raise UserError(f"{place} holds a saved edit already; choose another folder with --out")
    return own


def _facts(model: Any, options: ApplyOptions) -> tuple[Any, ...]:
    """What is edited: the prompt, or the facts."""
    from editing.requests import check as check_facts
    from editing.requests import known
    from factscope.data.load import load_facts
    from factscope.data.request import requests_of

    if options.prompt is not None:
        asked = request_from(
            model, options.prompt, str(options.target), subject=options.subject, answer=options.answer,
            start=options.start,
        )  # fmt: skip
        chosen: tuple[Any, ...] = (asked,)
    else:
        limit = None if options.known else options.limit
        chosen = load_facts(str(options.facts), relation=options.relation, limit=limit, extra=options.extra)
        if options.known:
            chosen = known(model, chosen, options.limit, options.start)
        chosen = requests_of(chosen)
    check_facts(chosen)
    return chosen


def note_identity(method: "MethodSpec", moments: str) -> None:
    """Say that the identity is another method, where a method wants moments."""
    if moments == "identity" and method.needs_moments:
        note("Note: the identity stands in for second moments; that is another method, and hurts neighbours more.")


def note_neighbours(*together: Sequence[Any]) -> None:
    """Say how many neighbours another request of the same group, which is in the model with them, is to change."""
    from factscope.data.conflicts import told_of_neighbours

    if words := told_of_neighbours(together):
        note(f"Note: {words}.")


def _remarks(edits: list[Any], report: Any) -> None:
    for edit in edits:
        for text in sorted({r.note for r in edit.reports if "division" in r.note or "singular" in r.note}):
            note(f"Note: {text}.")
    hidden = [one for one in report.scores if one.when == "after" and one.metric in ("reliability", "said")]
    values = {one.metric: one.value for one in hidden}
    if values.get("reliability", 0) - values.get("said", 1) >= 0.5:
        note("Note: the new answer is probable behind the prompt, but it is not what the model writes by itself.")
    worked = [one.value for one in report.scores if one.metric == "ES" and one.when != "before"]
    if worked and worked[-1] == 0:
        note("Note: the edit did not take: what it should say is nowhere more probable than what was said before.")
