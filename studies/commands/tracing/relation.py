"""`trace relation`: a relation as a linear map from the subject's state to the answer's."""

from dataclasses import dataclass
from typing import Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import settled_folder
from factscope.settings import configured
from studies.commands.app import going_on, load, tell_result
from studies.commands.asked import source_name
from studies.commands.command import command, run_folder
from studies.commands.options import FactsOptions, ModelOptions, OtherSettings, RunOptions, key, numbers, option


@dataclass(frozen=True, kw_only=True)
class RelationOptions(FactsOptions, ModelOptions, RunOptions):
    """Which relation, and how its map is found; None: as the map's own config has it."""

    layer: Annotated[
        str | None,
        option("Layer, or layers 4,5,6, after which the subject is read  [dim](default: all)[/dim]"),
    ] = None
    examples: Annotated[int | None, option("Facts whose Jacobians are averaged  [dim](default: 5)[/dim]")] = None
    settings: OtherSettings = ()


@command(
    "trace relation",
    RelationOptions,
    "trace relation --facts country_capital",
    "trace relation --facts country_language --layer 5,10,15 --examples 3",
)
def relation(options: RelationOptions) -> None:
    """Is a relation a linear map from the subject's state to the answer's? Its faithfulness and causality, held out."""
    if options.facts is None:
        raise UserError("give --facts; see trace relation --help")
    from factscope.data.load import load_facts
    from tracing.states.linear_relation import RelationConfig

    given: dict[str, Any] = {"examples": options.examples, "seed": options.seed, "limit": options.limit}
    given |= {"layers": None if options.layer is None else tuple(numbers(options.layer))}
    config = configured(RelationConfig, options.settings, flags=given)
    from factscope.runs.parts import forget
    from studies.saved import save_with_page
    from tracing.states.linear_relation import linear_relation

    source = str(options.facts)
    facts = load_facts(source, relation=options.relation, extra=options.extra)
    own = settled_folder("relation", source_name(source), key(options))
    with run_folder("trace relation", options, own) as folder:
        model = load(options)
        with going_on(folder):
            result = linear_relation(model, facts, config, start=options.start, folder=folder)
        page = save_with_page(result, folder, options.light)
        forget(folder)
    tell_result(result, page, options, folder=str(folder))
