"""`edit apply`: one fact or many edited, scored before and after, and saved."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import new_folder, settled_folder
from studies.commands.app import load, note, tell
from studies.commands.command import command, run_folder
from studies.commands.edit.learning import learning
from studies.commands.edit.saved import stack
from studies.commands.options import (
    EditOptions,
    KnownFactsOptions,
    ModelOptions,
    PromptOptions,
    RunOptions,
    Runs,
    at_layer,
    key,
    option,
    parted,
)

if TYPE_CHECKING:
    from editing.method import MethodSpec


@dataclass(frozen=True, kw_only=True)
class ApplyOptions(PromptOptions, EditOptions, KnownFactsOptions, ModelOptions, RunOptions):
    """What is edited, how, and on top of what."""

    target: Annotated[str | None, option("What the model shall say instead.")] = None
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
    with run_folder("edit apply", options, *_folder(options)) as folder:
        from factscope.plots.show import in_words, summary_of
        from studies import edit as recipe

        spec, pairs, gentle, gentle_config = _method(options)
        model = load(options)
        chosen = _facts(model, options)
        config = spec.config_for(model, pairs)
        below = stack.stacked(options.runs) if options.stack else []
        note_identity(spec, options.moments)
        stats = recipe.moments_for(model, spec, config, options.moments, options.tokens, options.seed, options.start)
        run = recipe.MethodRun(spec, config, stats, options.seed, options.start)
        with learning(config, len(chosen)) as (on_step, on_piece):
            edits = recipe.make(
                model, chosen, run, below=below, restraint=gentle, restraint_config=gentle_config,
                batch=options.batch, on_step=on_step, on_piece=on_piece, folder=folder / "values", shown=False,
            )  # fmt: skip
        everything = [*below, *edits]
        protocol: Any = "sequence" if len(everything) > 1 else "together"
        scores = recipe.score(model, everything, protocol=protocol, start=options.start, seed=options.seed)
        _remarks(edits, scores.report)
        page = recipe.save(folder, edits, scores, options.light)
        shutil.rmtree(folder / "values", ignore_errors=True)  # they were kept to go on from, and it is done
        if options.stack:
            stack.put_on(options.runs, folder)
    names = [edit.name for edit in edits]
    if options.as_json:
        body = {"edits": names, "method": options.method, "facts": len(chosen)}
        tell(json.dumps(body | summary_of(scores) | {"folder": str(folder), "page": str(page)}, ensure_ascii=False))
        return
    tell(in_words(scores))
    tell(f"Edit {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} in {folder}", f"Page: {page}")


def check(options: ApplyOptions) -> None:
    """UserError for options that do not go together."""
    if (options.prompt is None) == (options.facts is None):
        raise UserError("give either a PROMPT with --target, or --facts; see edit apply --help")
    if options.prompt is not None and options.target is None:
        raise UserError("--target is missing: what shall the model say instead?")
    if options.facts is not None and any((options.target, options.subject, options.answer)):
        raise UserError("--target, --subject and --answer belong to a single PROMPT; facts bring their own")


def _folder(options: ApplyOptions) -> tuple[Path, bool]:
    """Where the edit goes, and whether the folder must hold no other: one on the stack is not written over."""
    if options.prompt is not None:
        own = new_folder("edit", options.prompt, options.runs)
    else:  # the same command finds the same folder, and so takes up where it was stopped
        own = settled_folder("edit", Path(str(options.facts)).stem, key(options), options.runs)
    fresh = options.stack or options.out is not None
    if fresh and ((options.out or own) / "report" / "result.json").exists():
        raise UserError(f"{options.out or own} holds a saved edit already; choose another folder with --out")
    return own, fresh


def _method(options: ApplyOptions) -> tuple["MethodSpec", list[str], Any, Any]:
    """The method, its settings, the restraint and its config; UserError for settings that they do not have."""
    from editing.method import method
    from editing.restraint import restraint

    spec = method(options.method)
    pairs, aside = parted(options.settings, options.restrain)
    pairs = at_layer(pairs, spec, options.layer)
    if options.restrain is None:
        return spec, pairs, None, None
    gentle = restraint(options.restrain)
    return spec, pairs, gentle, gentle.config_for(aside)


def _facts(model: Any, options: ApplyOptions) -> tuple[Any, ...]:
    """What is edited: the prompt, or the facts."""
    from editing.requests import check as check_facts
    from editing.requests import known, request_at
    from factscope.data.load import load_facts
    from factscope.data.request import requests_of
    from factscope.model.prompts import make_prompt

    if options.prompt is not None:
        found = make_prompt(model, options.prompt, subject=options.subject, start=options.start)
        asked = request_at(model, found, str(options.target), options.answer)
        if found.subject_from.startswith("guess"):
            how = f"{found.subject!r} ({found.subject_from})"
            note(f"Note: the subject is taken to be {how}; [brackets] say otherwise.")
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


def _remarks(edits: list[Any], report: Any) -> None:
    for edit in edits:
        for text in sorted({r.note for r in edit.reports if "division" in r.note or "singular" in r.note}):
            note(f"Note: {text}.")
    worked = [one.value for one in report.scores if one.metric == "ES" and one.when != "before"]
    if worked and worked[-1] == 0:
        note("Note: the edit did not take: what it should say is nowhere more probable than what was said before.")
