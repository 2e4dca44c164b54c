"""`circuit compare`: the edges of two saved circuits, next to what random circuits would share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.runs.folders import new_folder
from studies.commands.app import note, tell_result
from studies.commands.circuit.study import RunFolder, study_of
from studies.commands.command import command, run_folder
from studies.commands.options import OutputOptions, argument


@dataclass(frozen=True, kw_only=True)
class CompareOptions(OutputOptions):
    """Which two."""

    before: RunFolder
    after: Annotated[Path, argument("Another run folder.", metavar="OTHER")]


@command("circuit compare", CompareOptions, "circuit compare runs/one runs/other")
def compare(options: CompareOptions) -> None:
    """Edges gained, lost and shared between two runs, next to what random circuits would share."""
    from studies.circuit import compared
    from studies.saved import save_with_page

    before, after = study_of(options.before), study_of(options.after)
    found = compared(before, after, (options.before.name, options.after.name))
    if found.apart:
        note(f"Note: the two were found differently, and what they differ in may be that: {'; '.join(found.apart)}.")
    with run_folder("circuit compare", options, new_folder("circuit-compare", options.before.name)) as folder:
        page = save_with_page(found, folder, options.light)
    tell_result(found, page, options)
