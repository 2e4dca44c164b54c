"""`trace locating`: whether tracing, neurons and circuits find a fact, or only its subject or its relation."""

from dataclasses import dataclass
from typing import Annotated

from factscope.errors import UserError
from factscope.runs.folders import new_folder
from studies.commands.app import listed, load, tell_result
from studies.commands.command import command, run_folder
from studies.commands.options import FACTS, SHIPPED, ModelOptions, RunOptions, option


@dataclass(frozen=True, kw_only=True)
class LocatingOptions(ModelOptions, RunOptions):
    """Which facts, and how they are located."""

    facts: Annotated[
        str,
        option("Two relations or more about the same subjects, with commas between; or files.", panel=FACTS, **SHIPPED),
    ] = "country_capital,country_language,country_currency"
    limit: Annotated[int, option("At most so many subjects.", panel=FACTS)] = 6
    by: Annotated[str, option("Ways of locating, with commas between: trace, neurons, circuit.")] = (
        "trace,neurons,circuit"
    )
    samples: Annotated[int, option("Corrupted runs of each trace.")] = 5
    unknown: Annotated[bool, option("Take facts whose answer is not in the top 10, too.", "--unknown")] = False


@command(
    "trace locating",
    LocatingOptions,
    "trace locating",
    "trace locating --facts country_capital,country_continent --by trace,circuit --limit 8",
    bare=True,
)
def locating(options: LocatingOptions) -> None:
    """Ask whether locating finds the fact, or only its subject or relation: agreement between wordings and facts."""
    sources, ways = listed(options.facts) or (), listed(options.by) or ()
    if len(sources) < 2:
        raise UserError("one source of facts has one relation at most; name two or more about the same subjects")
    with run_folder("trace locating", options, new_folder("locating", options.facts)) as folder:
        from factscope.data.load import load_facts
        from factscope.model.known import Known
        from studies.saved import save_with_page
        from studies.tables import locating as recipe

        facts = [fact for source in sources for fact in load_facts(source)]
        model = load(options)
        study = recipe.locating(
            model, facts, ways, subjects=options.limit, known=None if options.unknown else Known.top(10),
            samples=options.samples, seed=options.seed, shown=None,
        )  # fmt: skip
        page = save_with_page(study, folder, options.light)
    tell_result(study, page, options, folder=str(folder))
