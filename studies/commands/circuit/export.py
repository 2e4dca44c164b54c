"""`circuit export`: a circuit for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import StoreError
from studies.commands.app import tell
from studies.commands.circuit.study import RunFolder, study_of
from studies.commands.command import command
from studies.commands.options import Light, OneOf, Options, option

FORMATS = ("json", "graphml", "gexf", "dot", "html")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Which circuit, in which format."""

    run: RunFolder
    out: Annotated[Path | None, option("The file  [dim](default: circuit.FORMAT in the run)[/dim]")] = None
    form: Annotated[str, option("The format of the file.", "--format", of=OneOf("format", FORMATS))] = "json"
    light: Light = False


@command("circuit export", ExportOptions, "circuit export runs/one --out circuit.graphml --format graphml")
def export(options: ExportOptions) -> None:
    """Write a circuit for other programs; no GraphViz is needed."""
    from circuits import formats
    from circuits.by_role import formats as by_role
    from circuits.by_role.circuit import RoleCircuit
    from factscope.plots.page import write_page
    from factscope.plots.show import page_of
    from factscope.runs import store

    path = options.out or options.run / f"circuit.{options.form}"
    if path.exists():
        raise StoreError(f"{path} is there already; remove it, or choose another file with --out")
    at_roles = store.header(options.run)["kind"] == RoleCircuit.__name__
    found: Any = store.load(options.run, RoleCircuit) if at_roles else study_of(options.run)
    if options.form == "html":
        write_page(page_of(found), path, light=options.light)
    elif at_roles:
        by_role.export(found, path, options.form)
    else:
        formats.export(found.circuit, path, options.form)
    tell(f"Written: {path}")
