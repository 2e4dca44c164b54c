"""`circuit import`: a circuit that another program found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.errors import StoreError
from factscope.runs.folders import new_folder
from studies.commands.app import tell, tell_notes
from studies.commands.command import command, run_folder
from studies.commands.options import OUTPUT, Light, Options, argument, option


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """Which file."""

    file: Annotated[
        Path,
        argument("A .gv of Knowledge Circuits, a .json of EAP-IG, or our own .json or .graphml.", metavar="FILE"),
    ]
    prompt: Annotated[str | None, option("The prompt that it is a circuit of.")] = None
    out: Annotated[Path | None, option("Where to write.", panel=OUTPUT)] = None
    light: Light = False


@command("circuit import", ImportOptions, "circuit import graph.gv")
def import_(options: ImportOptions) -> None:
    """Read a circuit that another program found, and draw it."""
    from circuits.formats import graph_of, imported, unknown_task
    from circuits.pages.circuit import words
    from studies.circuit import CircuitStudy
    from studies.saved import save_with_page

    file = options.file
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as trouble:
        raise StoreError(f"{file} cannot be read ({trouble})") from trouble
    with run_folder("circuit import", options, new_folder("circuit-import", file.stem)) as folder:
        found = imported(file, graph_of(text, str(file)), unknown_task(options.prompt or file.stem))
        page = save_with_page(CircuitStudy(found), folder, options.light)
    tell_notes(found.notes)
    tell(words(found), f"Read as: {found.settings['format']}", f"Page: {page}")
