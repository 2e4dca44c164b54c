"""`circuit patch`: direct path patching, from senders to receivers, of one prompt."""

from dataclasses import dataclass
from typing import Annotated

from factscope.errors import UserError
from factscope.runs.folders import new_folder
from studies.commands.app import listed, load, tell_result
from studies.commands.asked import check_prompt
from studies.commands.circuit.study import tell_notes
from studies.commands.command import command, run_folder
from studies.commands.options import (
    ABLATIONS,
    CIRCUIT_METRICS,
    DIRECTIONS,
    ModelOptions,
    OneOf,
    OutputOptions,
    PromptOptions,
    option,
)


@dataclass(frozen=True, kw_only=True)
class PatchOptions(PromptOptions, ModelOptions, OutputOptions):
    """Which paths, and what is patched."""

    senders: Annotated[
        str, option("Whose output is exchanged: a5.h3, m7, embed, or patterns as 'a5.*', with commas.", "--from")
    ] = "*"
    receivers: Annotated[
        str, option("Who hears it: a9.h1.q, m9, logits, or patterns as 'a9.*.v', with commas.", "--to")
    ] = "logits"
    swap: Annotated[
        str | None, option("The subject of the corrupt prompt  [dim](default: of the shipped facts)[/dim]")
    ] = None
    foil: Annotated[str | None, option("A wrong answer, for the logit difference.")] = None
    metric: Annotated[str, option("What an effect is measured in.", of=OneOf("metric", CIRCUIT_METRICS))] = "nll"
    ablation: Annotated[
        str, option("What is sent in the place of the clean output.", of=OneOf("ablation", ABLATIONS))
    ] = "counterfactual"
    direction: Annotated[
        str,
        option(
            "Ablated values into the clean run, or clean values into the corrupt run.",
            of=OneOf("direction", DIRECTIONS),
        ),
    ] = "noising"
    together: Annotated[bool, option("Exchange each sender for all receivers at once, too.", "--together")] = False
    unknown: Annotated[bool, option("Go on with a fact whose answer is not in the top 10.", "--unknown")] = False
    split_qkv: Annotated[
        bool, option("Queries, keys and values apart, or whole heads.", "--split-qkv/--no-split-qkv")
    ] = True


@command(
    "circuit patch",
    PatchOptions,
    'circuit patch "The Eiffel Tower is located in the city of" --swap "The Colosseum"',
    'circuit patch "The Eiffel Tower is located in the city of" --swap "The Colosseum" --from "m*" --to "a19.*.v"',
)
def patch(options: PatchOptions) -> None:
    """Patch direct paths: what one head or MLP tells another, with nothing else changed."""
    if options.prompt is None:
        raise UserError("give a PROMPT; see circuit patch --help")
    if options.direction == "denoising" and options.ablation != "counterfactual":
        raise UserError("denoising puts clean values into the run of the corrupt prompt: leave --ablation out")
    check_prompt(options.prompt, options.subject)
    with run_folder("circuit patch", options, new_folder("paths", options.prompt)) as folder:
        from circuits.analysis.paths import path_patch
        from circuits.scorers.eap import EAP
        from studies import circuit as recipe
        from studies.saved import save_with_page

        how = recipe.TaskOptions(
            options.metric, options.ablation, options.start, None if options.unknown else recipe.KNOWN, False, facts=1
        )
        model = load(options)
        inputs = recipe.about_prompt(
            model, options.prompt, subject=options.subject, answer=options.answer, foil=options.foil,
            swap=options.swap, method=EAP(), options=how,
        )  # fmt: skip
        tell_notes(inputs.notes)
        found = path_patch(
            model, inputs.task, listed(options.senders) or (), listed(options.receivers) or (),
            direction=options.direction,  # type: ignore[arg-type]  # OneOf has read it
            together=options.together, split=options.split_qkv, told=None,
        )  # fmt: skip
        page = save_with_page(found, folder, options.light)
    tell_result(found, page, options.as_json, folder=str(folder))
