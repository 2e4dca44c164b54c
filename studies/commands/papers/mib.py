"""`circuit mib`: the circuit track of MIB, methods by tasks."""

from dataclasses import dataclass, replace
from typing import Annotated

from factscope.runs.folders import settled_folder
from studies.commands.app import listed, load, tell_result, tell_shard
from studies.commands.command import command, run_folder
from studies.commands.options import ModelOptions, RunOptions, ShardOptions, SplitQkv, key, option


@dataclass(frozen=True, kw_only=True)
class MibOptions(ModelOptions, ShardOptions, RunOptions):
    """Which methods on which tasks."""

    tasks: Annotated[
        str,
        option("With commas between: ioi, arithmetic, colours, choice; planted: chain, chain-noise, saturated."),
    ] = "ioi,chain,chain-noise,saturated"
    methods: Annotated[
        str,
        option(
            "With commas between: eap, eap-ig, eap-ig-activations, relp, atp-star, random; and exact, acdc, which take "
            "minutes."
        ),
    ] = "eap,eap-ig,eap-ig-activations,relp,atp-star,random"
    train: Annotated[int, option("Prompts that edges are scored on.")] = 8
    validation: Annotated[int, option("Other prompts, that circuits are run on.")] = 8
    split_qkv: SplitQkv = True


@command(
    "circuit mib",
    MibOptions,
    "circuit mib",
    "circuit mib --tasks chain,chain-noise,saturated --methods eap,eap-ig,relp,atp-star,exact,acdc,random",
    "circuit mib --tasks ioi,arithmetic,colours,choice --train 32 --validation 32",
    bare=True,
)
def mib(options: MibOptions) -> None:
    """Rank edges by every scorer on IOI, sums, choices and planted circuits: CPR, CMD and AUROC, as MIB has them."""
    from circuits.mib import track as recipe
    from studies.saved import save_with_page

    how = recipe.TrackOptions(
        tasks=listed(options.tasks) or (),
        methods=tuple(name.replace("-", "_") for name in listed(options.methods) or ()),
        train=options.train,
        validation=options.validation,
        split=options.split_qkv,
        start=options.start,
        seed=options.seed,
    )
    # Whatever is named, it is the same folder: some rows now, and the others another day.
    shard, own = options.part(settled_folder("mib", options.model, key(replace(options, tasks="ioi", methods="eap"))))
    crew = options.crew()
    with run_folder("circuit mib", options, own) as folder:
        if shard is not None:
            recipe.ranked(load(options), how, folder=folder, workers=crew, shard=shard)
            tell_shard(shard, folder)
            return
        found = recipe.track(load(options), how, folder=folder, workers=crew)
        page = save_with_page(found, folder, options.light)
    tell_result(found, page, options, folder=str(folder))
