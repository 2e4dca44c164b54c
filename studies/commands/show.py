"""`trace show`, `circuit show`, `edit show`: one command under three names, which draws any saved run again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.runs.folders import writable
from studies.commands.app import tell_result
from studies.commands.command import Command, command
from studies.commands.options import OutputOptions, argument


@dataclass(frozen=True, kw_only=True)
class ShowOptions(OutputOptions):
    """Which saved run is drawn."""

    run: Annotated[Path, argument("A run folder of any command.")]


def show_command(group: str) -> Command[ShowOptions]:
    """The command as a group has it."""

    @command(f"{group} show", ShowOptions, f"{group} show runs/one", f"{group} show runs/one --light --json")
    def show(options: ShowOptions) -> None:
        """Draw a saved run again, without the model."""
        from factscope.plots.page import write_page
        from studies.saved import saved_run

        result, drawn = saved_run(options.run)
        with writable(options.out or options.run, fresh=options.out not in (None, options.run)) as folder:
            page = write_page(drawn, folder / "page.html", light=options.light)
        tell_result(result, page, options.as_json)

    return show
