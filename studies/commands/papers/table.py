"""`circuit table`: Table 1 of Knowledge Circuits over many relations, journalled."""

from dataclasses import dataclass, replace
from typing import Annotated

from factscope.data.fact import SHIPPED as OURS
from factscope.runs.folders import settled_folder
from studies.commands.app import listed, load, tell_result, tell_shard
from studies.commands.command import command, run_folder
from studies.commands.options import (
    FACTS,
    SHIPPED,
    CircuitMethod,
    CircuitOptions,
    CircuitSettings,
    EdgeMetric,
    Extra,
    ModelOptions,
    RunOptions,
    ShardOptions,
    key,
    option,
)


@dataclass(frozen=True, kw_only=True)
class TableOptions(CircuitOptions, ModelOptions, ShardOptions, RunOptions):
    """Which relations, and how each circuit is found."""

    facts: Annotated[
        str, option("Facts of many relations: ours, a file, or a folder as LRE's.", panel=FACTS, **SHIPPED)
    ] = OURS
    relations: Annotated[
        str | None, option("Only these relations, with commas between  [dim](default: all)[/dim]", panel=FACTS)
    ] = None
    limit: Annotated[
        int, option("So many known facts of one length for each circuit; the others are held out.", panel=FACTS)
    ] = 8
    held_out: Annotated[int, option("At most so many of the others are asked.", panel=FACTS)] = 40
    extra: Extra = "refuse"
    method: CircuitMethod = "eap_ig"
    metric: EdgeMetric = "nll"
    random: Annotated[int, option("Random circuits of each kind that stand beside.")] = 3
    settings: CircuitSettings = ()


@command(
    "circuit table",
    TableOptions,
    "circuit table",
    "circuit table --relations country_capital,country_language --limit 4 --held-out 12",
    "circuit table --method acdc --ablation zero --no-split-qkv --threshold 0.1 --limit 20",
    bare=True,
)
def table(options: TableOptions) -> None:
    """Find a circuit for every relation and ask it on other facts: Hit@10, layers, and the heads that they share."""
    from circuits.method import method
    from studies.circuit_inputs import TaskOptions
    from studies.saved import save_with_page
    from studies.tables import relations as recipe

    given = {name: getattr(options, name) for name in ("edges", "threshold")}
    how = recipe.TableOptions(
        method=method(options.method, given, options.settings),
        task=TaskOptions(options.metric, options.ablation or "auto", options.start, extra=options.extra),
        examples=options.limit,
        held_out=options.held_out,
        random=options.random,
        split=options.split_qkv,
        seed=options.seed,
    )
    named = listed(options.relations) or ()
    recipe.by_relation(
        options.facts, named, options.extra
    )  # a name that is not there is refused before a model is loaded
    # Whatever relations are named, it is the same folder: a part now, and all of them another day.
    shard, own = options.part(settled_folder("circuit-table", options.facts, key(replace(options, relations=None))))
    crew = options.crew()
    with run_folder("circuit table", options, own) as folder:
        if shard is not None:
            recipe.found_circuits(load(options), options.facts, named, how, folder=folder, workers=crew, shard=shard)
            tell_shard(shard, folder)
            return
        found = recipe.relation_table(load(options), options.facts, named, how, folder=folder, workers=crew)
        page = save_with_page(found, folder, options.light)
    tell_result(found, page, options, folder=str(folder))
