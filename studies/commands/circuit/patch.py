"""`circuit patch`: direct path patching, from senders to receivers, of one prompt."""

from dataclasses import dataclass
from typing import Annotated

from factscope.runs.folders import new_folder
from studies.commands.app import listed, load, tell_result
from studies.commands.circuit.study import ExchangeOptions
from studies.commands.command import command, run_folder
from studies.commands.options import OutputOptions, option


@dataclass(frozen=True, kw_only=True)
class PatchOptions(ExchangeOptions, OutputOptions):
    """Which paths, and what is patched."""

    senders: Annotated[
        str, option("Whose output is exchanged: a5.h3, m7, embed, or patterns as 'a5.*', with commas.", "--from")
    ] = "*"
    receivers: Annotated[
        str, option("Who hears it: a9.h1.q, m9, logits, or patterns as 'a9.*.v', with commas.", "--to")
    ] = "logits"
    together: Annotated[bool, option("Exchange each sender for all receivers at once, too.", "--together")] = False


@command(
    "circuit patch",
    PatchOptions,
    'circuit patch "The Eiffel Tower is located in the city of" --swap "The Colosseum"',
    'circuit patch "The Eiffel Tower is located in the city of" --swap "The Colosseum" --from "m*" --to "a19.*.v"',
)
def patch(options: PatchOptions) -> None:
    """Patch direct paths: what one head or MLP tells another, with nothing else changed."""
    text = options.asked("circuit patch")
    with run_folder("circuit patch", options, new_folder("paths", text)) as folder:
        from circuits.analysis.paths import path_patch
        from studies.saved import save_with_page

        model = load(options)
        inputs = options.inputs(model)
        found = path_patch(
            model, inputs.task, listed(options.senders) or (), listed(options.receivers) or (),
            direction=options.direction,  # type: ignore[arg-type]  # OneOf has read it
            together=options.together, split=options.split_qkv, shown=None,
        )  # fmt: skip
        page = save_with_page(found, folder, options.light)
    tell_result(found, page, options, folder=str(folder))
