"""`circuit compare`: the edges of two saved circuits, next to what random circuits would share."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.runs.folders import new_folder
from studies.commands.app import note, tell
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
    from circuits.analysis.diff import diff, differences
    from circuits.pages import diff as pages
    from factscope.plots.page import write_page
    from factscope.runs import store

    before, after = study_of(options.before), study_of(options.after)
    found = diff(before.circuit, after.circuit)
    apart = differences(before.circuit, after.circuit)
    if apart:
        note(f"Note: the two were found differently, and what they differ in may be that: {'; '.join(apart)}.")
    counts = (before.roles.counts, after.roles.counts) if before.roles and after.roles else None
    with run_folder("circuit compare", options, new_folder("circuit-compare", options.before.name)) as folder:
        store.save(found, folder)
        drawn = pages.page(found, (options.before.name, options.after.name), counts, apart)
        page = write_page(drawn, folder / "page.html", light=options.light)
    if options.as_json:
        said = pages.summary(found) | {"differences": apart, "page": str(page)}
        tell(json.dumps(said, ensure_ascii=False))
        return
    tell(*pages.words(found), f"Page: {page}")
