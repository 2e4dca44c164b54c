"""`edit survey`: Tables 4 to 7 of the survey of editing, over sets and methods."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import settled_folder
from factscope.settings import by_owner
from studies.commands.app import going_on, listed, load, note, tell_result
from studies.commands.command import command, run_folder
from studies.commands.options import (
    OWN_TASKS,
    EditorsOptions,
    ModelOptions,
    MomentsOptions,
    RunOptions,
    Runs,
    SettingsByMethod,
    WorkersOptions,
    argument,
    key,
    option,
    several_methods,
)


@dataclass(frozen=True, kw_only=True)
class SurveyOptions(ModelOptions, MomentsOptions, EditorsOptions, WorkersOptions, RunOptions):
    """Which sets, by which methods, and which general tasks."""

    suites: Annotated[tuple[str, ...], argument("Sets: files, folders or data sets.", metavar="SETS")]
    methods: Annotated[str, several_methods("rome,memit,ft-m")] = "rome,memit,ft-m,ice"
    limit: Annotated[int, option("Cases of each set, from the first on.")] = 20
    edits: Annotated[int, option("Edits in sequence, after which general tasks are asked.")] = 5
    tasks: Annotated[str, option(f"Of {', '.join(OWN_TASKS)}, or tasks of lm-eval; with commas between.")] = (
        "repeat,past_tense,antonyms,capitals"
    )
    settings: SettingsByMethod = ()
    runs: Runs = Path("runs")


@command(
    "edit survey",
    SurveyOptions,
    "edit survey recent.json zsre.json --methods rome,memit,ft-m,ice --limit 20",
    "edit survey recent.json --methods mend,ft-m --editor runs/mend --tasks mmlu,piqa",
)
def survey(options: SurveyOptions) -> None:
    """Tabulate methods by sets, with general tasks and one case, as the survey's Tables 4 to 7; resumable."""
    names = listed(options.methods) or ()
    if options.edits < 1:
        raise UserError(f"--edits must be at least 1, not {options.edits}")
    own = settled_folder("survey", Path(options.suites[0]).stem, key(options), options.runs)
    crew = options.crew()
    with run_folder("edit survey", options, own) as folder:
        from editing.evaluation.tasks import Tasks
        from editing.method import method
        from studies.saved import save_with_page
        from studies.tables import survey as recipe

        for name in names:
            method(name)
        sets, editors = _sets(options), options.loaded()
        model = load(options)
        tasks = Tasks.of(model, listed(options.tasks) or (), seed=options.seed, start=options.start)
        with going_on(folder):
            result = recipe.survey(
                model, sets, names, folder, tasks=tasks, editors=editors, edits=options.edits,
                settings=by_owner(options.settings), moments=options.moments, tokens=options.tokens, seed=options.seed,
                start=options.start, allow_trained=options.allow_trained, say=lambda words: note(f"Note: {words}."),
                workers=crew,
            )  # fmt: skip
        page = save_with_page(result, folder, options.light)
    tell_result(result, page, options, folder=str(folder))


def _sets(options: SurveyOptions) -> dict[str, Any]:
    """The cases of each set by its file's name; UserError for two of one name."""
    from factscope.data.load import load_cases

    found: dict[str, Any] = {}
    for source in options.suites:
        name = Path(source).stem
        if name in found:
            raise UserError(f"two sets are called {name}: give one of the files another name")
        found[name] = load_cases(source, limit=options.limit)
    return found
