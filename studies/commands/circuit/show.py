"""`circuit show`: a saved run drawn again, without the model."""

from dataclasses import dataclass

from factscope.runs.folders import writable
from studies.commands.app import tell_result
from studies.commands.circuit.study import RunFolder, study_of
from studies.commands.command import command
from studies.commands.options import OutputOptions


@dataclass(frozen=True, kw_only=True)
class ShowOptions(OutputOptions):
    """Which run."""

    run: RunFolder


@command("circuit show", ShowOptions, "circuit show runs/one", "circuit show runs/one --light --json")
def show(options: ShowOptions) -> None:
    """Draw a saved run again, without the model."""
    from factscope.plots.page import write_page
    from factscope.plots.show import page_of

    study = study_of(options.run)
    with writable(options.out or options.run) as folder:
        page = write_page(page_of(study), folder / "page.html", light=options.light)
    tell_result(study, page, options.as_json)
