"""`edit hops`: after an edit of the first hop of a chain, who answers the second?"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from factscope.runs.folders import settled_folder
from studies.commands.app import listed, load, tell_result
from studies.commands.command import command, run_folder
from studies.commands.edit.apply import note_identity
from studies.commands.options import (
    FACTS,
    EditOptions,
    EditorOptions,
    ModelOptions,
    RunOptions,
    WorkersOptions,
    argument,
    key,
    option,
)


@dataclass(frozen=True, kw_only=True)
class HopsOptions(EditOptions, EditorOptions, ModelOptions, WorkersOptions, RunOptions):
    """Which chains, and how their first hop is edited."""

    chains: Annotated[
        Path | None, argument("A file of MQuAKE; without it, chains of shipped relations.", metavar="CHAINS")
    ] = None
    relations: Annotated[
        str | None,
        option("The relations of the first hop of shipped chains, with commas between.", panel=FACTS),
    ] = None
    limit: Annotated[int, option("So many chains are edited.", panel=FACTS)] = 20
    unknown: Annotated[
        bool,
        option("Edit chains, too, whose second hop the unedited model does not answer.", "--unknown", panel=FACTS),
    ] = False


@command(
    "edit hops",
    HopsOptions,
    "edit hops --limit 20 --method rome",
    "edit hops --relations landmark_country,city_country --method memit --limit 50",
    "edit hops MQuAKE-CF-3k-v2.json --limit 100",
    bare=True,
)
def hops(options: HopsOptions) -> None:
    """Edit the first hop of chains and count who answers the second: the new, the old, the edited object, another."""
    from editing.trained.fitting import belongs
    from studies import edit as editing_recipe
    from studies.saved import save_with_page
    from studies.tables import multi_hop as recipe

    spec, pairs = options.method_with_settings()
    gentle, gentle_config = options.restraint_with_config()
    editor = options.loaded()
    belongs(spec, editor)
    chains, source = _chains(options)
    # However many chains are asked for, it is the same folder: some now, and more another day.
    own = settled_folder("hops", source, key(replace(options, limit=1)))
    crew = options.crew()
    with run_folder("edit hops", options, own) as folder:
        model = load(options)
        config = spec.config_for(model, pairs, editor)
        note_identity(spec, options.moments)
        stats = editing_recipe.moments_for(
            model, spec, config, options.moments, options.tokens, options.seed, options.start
        )
        run = editing_recipe.MethodRun(spec, config, stats, options.seed, options.start, editor, options.allow_trained)

        def edit(model: Any, requests: Any) -> Any:
            (made,) = editing_recipe.make(
                model, requests, run, restraint=gentle, restraint_config=gentle_config, shown=False
            )
            return made

        name = spec.name if gentle is None else f"{spec.name} with {options.restrain}"
        how = recipe.HopOptions(
            edit, name, f"{config} {gentle_config} {options.moments} {options.tokens}", options.limit,
            not options.unknown, options.start, options.seed,
        )  # fmt: skip
        study = recipe.multi_hop(model, chains, how, folder=folder, source=source, workers=crew)
        page = save_with_page(study, folder, options.light)
    tell_result(study, page, options, folder=str(folder))


def _chains(options: HopsOptions) -> tuple[Any, str]:
    """The chains, and their source in words; refused before a model is loaded."""
    from factscope.data.questions.chains import mquake_chains, shipped_chains
    from factscope.errors import UserError

    if options.chains is None:
        names = listed(options.relations) or ()
        return shipped_chains(names, options.seed), "chains of shipped relations"
    if options.relations is not None:
        raise UserError("--relations chooses among shipped chains; a file of MQuAKE brings its own")
    return mquake_chains(options.chains), options.chains.name
