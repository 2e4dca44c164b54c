"""`trace flow`: how information reaches the answer, by attention knockout; one prompt, or many facts."""

from dataclasses import dataclass
from typing import Annotated, Any

from factscope.runs.folders import new_folder
from factscope.settings import configured
from studies.commands.app import listed, load, tell_result
from studies.commands.asked import check_prompt, check_prompt_or_facts, note_own_answer, prompt_from
from studies.commands.command import command, run_folder
from studies.commands.options import (
    KnownFactsOptions,
    ModelOptions,
    OtherSettings,
    PromptOptions,
    RunOptions,
    ShardOptions,
    option,
)
from studies.commands.tracing.average import average_facts


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
    settings: OtherSettings = ()


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
        return
    from tracing.flow.average import average_flow, follow_each

    average_facts("trace flow", options, config, seed=config.seed, average=average_flow, each=follow_each)


def _one(options: FlowOptions, config: Any) -> None:
    from factscope.progress import progress
    from studies.saved import save_with_page
    from tracing.flow.knockout import cells_of
    from tracing.flow.knockout import flow as follow

    text = str(options.prompt)
    check_prompt(text, options.subject)
    with run_folder("trace flow", options, new_folder("flow", text), fresh=True) as folder:
        model = load(options)
        prompt = prompt_from(model, options, whole=True)
        with progress("knocking out", cells_of(model, prompt, config)) as advance:
            result = follow(model, prompt, config, advance=advance)
        page = save_with_page(result, folder, options.light)
    note_own_answer(result.prompt)
    tell_result(result, page, options, folder=str(folder))
