"""`edit back`: a fact edited and edited back, and contradicted: what is left, beside the exact undo."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import new_folder
from factscope.settings import by_owner
from studies.commands.app import listed, load, tell_notes, tell_result
from studies.commands.asked import check_prompt, request_from
from studies.commands.command import command, run_folder
from studies.commands.options import (
    EditorsOptions,
    KnownFactsOptions,
    ModelOptions,
    MomentsOptions,
    PromptOptions,
    RunOptions,
    Runs,
    SettingsByMethod,
    Target,
    option,
    several_methods,
)


@dataclass(frozen=True, kw_only=True)
class BackOptions(PromptOptions, MomentsOptions, EditorsOptions, KnownFactsOptions, ModelOptions, RunOptions):
    """Which facts, by which methods, and what contradicts them."""

    target: Target = None
    methods: Annotated[str, several_methods("rome,ft-m")] = "rome"
    third: Annotated[
        str | None, option("A third answer of the same prompt, which contradicts  [dim](facts: another's)[/dim]")
    ] = None
    then: Annotated[str | None, option("Another prompt whose edit contradicts: the reverse, or what follows.")] = None
    then_target: Annotated[str | None, option("Its target.")] = None
    also: Annotated[str | None, option("Further true answers, with commas between, for the distortion of several.")] = (
        None
    )
    circuits: Annotated[bool, option("How unlike the fact's circuit is in each state (slow).", "--circuits")] = False
    unrelated: Annotated[int, option("Unrelated shipped facts that are read, too.")] = 20
    settings: SettingsByMethod = ()
    runs: Runs = Path("runs")


@command(
    "edit back",
    BackOptions,
    'edit back "[The Eiffel Tower] is located in the city of" --target Rome --methods rome,ft-m --third Berlin',
    "edit back --facts country_capital --known --limit 5 --methods rome,memit,ft-m",
    'edit back "[The Eiffel Tower] is located in the city of" --target Rome --then "[The Eiffel Tower] is located in '
    'the country of" --then-target Japan',
)
def back(options: BackOptions) -> None:
    """Edit a fact and edit it back, or contradict it: what is left, beside the exact undo."""
    _check(options)
    own = new_folder("back", options.prompt or str(options.facts), options.runs)
    with run_folder("edit back", options, own) as folder:
        from editing.sequence.yardstick import unrelated_facts
        from studies.saved import save_with_page
        from studies.tables import round_trip as recipe

        editors = options.loaded()
        model = load(options)
        asked = _asked(model, options)
        recipe.check_back(asked)
        result = recipe.round_trip(
            model, asked, _runs(model, options, editors, asked),
            second=_second(model, options, asked),
            others=(listed(options.also) or (),) * len(asked),
            unrelated=unrelated_facts(model, asked, None, options.unrelated, options.seed, options.start),
            watch=_watch(model, options) if options.circuits else None,
        )  # fmt: skip
        page = save_with_page(result, folder, options.light)
    tell_result(result, page, options, folder=str(folder))


def _check(options: BackOptions) -> None:
    """UserError for options that do not go together, or a method that there is not."""
    from editing.method import method

    if (options.prompt is None) == (options.facts is None):
        raise UserError("give either a PROMPT with --target, or --facts; see edit back --help")
    if options.prompt is not None and options.target is None:
        raise UserError("--target is missing: what shall the model say before it is edited back?")
    single = {
        name: getattr(options, name.replace("-", "_")) for name in ("target", "subject", "answer", "then", "also")
    }
    if options.facts is not None and (given := [f"--{name}" for name, value in single.items() if value]):
        raise UserError(f"{', '.join(given)} belongs to a single PROMPT; facts bring their own")
    if (options.then is None) != (options.then_target is None):
        raise UserError("--then and --then-target are one edit: give both, or leave both out")
    if options.then is not None and options.third is not None:
        raise UserError("--then and --third are two ways to contradict; give one of them")
    if options.unrelated < 1:
        raise UserError(f"--unrelated must be at least 1, not {options.unrelated}")
    check_prompt(options.prompt, options.subject)
    check_prompt(options.then)
    if not listed(options.methods):
        raise UserError("--methods is empty; give some, as --methods rome,ft-m")
    for name in listed(options.methods) or ():
        method(name)


def _asked(model: Any, options: BackOptions) -> tuple[Any, ...]:
    from editing.requests import known
    from factscope.data.load import load_facts
    from factscope.data.request import distinct, requests_of

    if options.prompt is not None:
        one = request_from(
            model, options.prompt, str(options.target), subject=options.subject, answer=options.answer,
            start=options.start,
        )  # fmt: skip
        return (one,)
    limit = options.limit or 5
    facts = distinct(load_facts(str(options.facts), relation=options.relation, extra=options.extra))
    found = known(model, facts, limit, options.start) if options.known else facts[:limit]
    if not found:
        raise UserError(f"{options.model} knows none of the facts in {options.facts}; leave --known out")
    return requests_of(found)


def _second(model: Any, options: BackOptions, asked: tuple[Any, ...]) -> tuple[Any, ...]:
    """What contradicts each edit."""
    from studies.tables.round_trip import contradicting

    if options.then is not None:
        other = request_from(
            model, options.then, str(options.then_target), subject=None, answer=None, start=options.start,
            whose="the second edit's",
        )  # fmt: skip
        return (other,)
    if options.prompt is not None and options.third is None:
        return (None,)
    found = contradicting(asked, options.third)
    if options.third is not None and None in found:
        raise UserError(f"--third {options.third} is the old answer or the target already; give a third one")
    return found


def _runs(model: Any, options: BackOptions, editors: Any, asked: tuple[Any, ...]) -> list[Any]:
    """Each method with its settings, second moments and editor; refused before anything is edited."""
    from editing.compute import Options as EditingOptions
    from studies.edit import method_runs, moments_for

    like = EditingOptions(seed=options.seed, start=options.start, allow_trained=options.allow_trained)
    found = method_runs(model, listed(options.methods) or (), asked, by_owner(options.settings), editors, like)
    out = []
    for run, notes in found:
        tell_notes([f"{run.spec.name}: {said}" for said in notes])
        stats = moments_for(model, run.spec, run.config, options.moments, options.tokens, run.seed, run.start)
        out.append(replace(run, moments=stats))
    return out


def _watch(model: Any, options: BackOptions) -> Any:
    """How unlike the unedited model's circuit that of a fact is."""
    from studies.sequence_watch import SequenceWatch

    def of(request: Any) -> Any:
        watch = SequenceWatch.of(model, [request], [], options.start, options.seed)
        return lambda: watch()["edited first: circuits unlike (1 - Jaccard)"]

    return of
