"""`trace flow`: how information reaches the answer, by attention knockout; one prompt, or many facts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from factscope.runs.folders import new_folder, settled_folder
from factscope.settings import configured
from studies.commands.app import JOURNAL, listed, load, note, tell_result, tell_shard
from studies.commands.asked import check_prompt, check_prompt_or_facts
from studies.commands.command import command, run_folder
from studies.commands.options import (
    DETAILS,
    KnownFactsOptions,
    ModelOptions,
    PromptOptions,
    RunOptions,
    ShardOptions,
    key,
    option,
)


@dataclass(frozen=True, kw_only=True)
class FlowOptions(PromptOptions, KnownFactsOptions, ModelOptions, ShardOptions, RunOptions):
    """What is knocked out; None: as the flow's own config has it."""

    window: Annotated[
        int | None, option("Layers knocked out at a time  [dim](default: 9 of 48, of the model's)[/dim]")
    ] = None
    sources: Annotated[
        str | None,
        option("Among subject, last subject, relation, itself, start token  [dim](default: all)[/dim]"),
    ] = None
    attributes: Annotated[
        str | None,
        option("Words that are attributes of the subject, a,b,c  [dim](default: of the known facts)[/dim]"),
    ] = None
    settings: Annotated[
        tuple[str, ...],
        option("Any other setting; repeat for several.", "--set", metavar="KEY=VALUE", panel=DETAILS),
    ] = ()


@command(
    "trace flow",
    FlowOptions,
    'trace flow "The Eiffel Tower is located in the city of"',
    "trace flow --facts country_capital --known --limit 20",
)
def flow(options: FlowOptions) -> None:
    """Follow information to the answer: knock out attention to the subject, the relation, and other words, by layer.

    Also: which attributes the subject's last token holds, and which layers extract the answer.
    """
    check_prompt_or_facts(options, "trace flow")
    from tracing.flow.knockout import FlowConfig

    given: dict[str, Any] = {"window": options.window, "seed": options.seed}
    given |= {"sources": listed(options.sources), "attributes": listed(options.attributes)}
    config = configured(FlowConfig, options.settings, flags=given)
    if options.prompt is not None:
        _one(options, config)
    else:
        _many(options, config)


def _one(options: FlowOptions, config: Any) -> None:
    from factscope.model.prompts import OWN_ANSWER, as_a_whole, make_prompt
    from factscope.progress import progress
    from studies.saved import save_with_page
    from tracing.flow.knockout import cells_of
    from tracing.flow.knockout import flow as follow

    text = str(options.prompt)
    check_prompt(text, options.subject)
    with run_folder("trace flow", options, new_folder("flow", text), fresh=True) as folder:
        model = load(options)
        prompt = as_a_whole(
            make_prompt(model, text, subject=options.subject, answer=options.answer, start=options.start)
        )
        for remark in prompt.notes:
            note(f"Note: {remark}.")
        if prompt.subject_from.startswith("guess"):
            note(f"Note: the subject is taken to be {prompt.subject!r} ({prompt.subject_from}); [brackets] set it.")
        with progress("knocking out", cells_of(model, prompt, config)) as advance:
            result = follow(model, prompt, config, advance=advance)
        page = save_with_page(result, folder, options.light)
    if result.prompt.answer_from == OWN_ANSWER:
        note(f"Note: the answer is taken to be the model's own, {result.prompt.answer!r}; --answer says otherwise.")
    tell_result(result, page, options.as_json, folder=str(folder))


def _many(options: FlowOptions, config: Any) -> None:
    from factscope.data.load import load_facts
    from studies.saved import save_with_page
    from tracing.flow.average import average_flow, follow_each
    from tracing.sweep import Sweep

    source, limit, known, crew = str(options.facts), options.limit, options.known, options.crew()
    chosen = load_facts(
        source,
        relation=options.relation,
        limit=None if known else limit,  # with --known, the limit counts facts that are known
        seed=config.seed if limit else None,
        extra=options.extra,
    )
    name = Path(source).stem if Path(source).exists() else source.replace("/", "-")
    shard, own = options.part(settled_folder("flow", name, key(options)))
    with run_folder("trace flow", options, own) as folder:
        model = load(options)
        sweep = Sweep(known, limit if known else None, options.start, name, crew, shard)
        try:
            if shard is not None:
                follow_each(model, chosen, config, sweep, journal=folder / JOURNAL)
                tell_shard(shard, folder)
                return
            result = average_flow(model, chosen, config, sweep, journal=folder / JOURNAL)
        except KeyboardInterrupt:
            note(f"Stopped; the facts done so far are in {folder}, and the same command goes on from there.")
            raise
        page = save_with_page(result, folder, options.light)
    tell_result(result, page, options.as_json, folder=str(folder))
