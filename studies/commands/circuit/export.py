"""`circuit export`: a circuit for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.errors import StoreError
from studies.commands.app import tell
from studies.commands.circuit.study import RunFolder, study_of
from studies.commands.command import command
from studies.commands.options import OUTPUT, OneOf, Options, option

FORMATS = ("json", "graphml", "gexf", "dot", "html")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Which circuit, in which format."""

    run: RunFolder
    out: Annotated[Path | None, option("The file  [dim](default: circuit.FORMAT in the run)[/dim]")] = None
    form: Annotated[str, option("Of the file.", "--format", of=OneOf("format", FORMATS))] = "json"
    light: Annotated[bool, option("A small page, with plotly.js beside it.", "--light", panel=OUTPUT)] = False


@command("circuit export", ExportOptions, "circuit export runs/one --out circuit.graphml --format graphml")
def export(options: ExportOptions) -> None:
    """Write a circuit for other programs; no GraphViz is needed."""
    from circuits.formats import export as write
    from factscope.plots.page import write_page
    from factscope.plots.show import page_of

    path = options.out or options.run / f"circuit.{options.form}"
    if path.exists():
        raise StoreError(f"{path} is there already; remove it, or choose another file with --out")
    study = study_of(options.run)
    if options.form == "html":
        write_page(page_of(study), path, light=options.light)
    else:
        write(study.circuit, path, options.form)
    tell(f"Written: {path}")
