"""`edit export`: the edited model as a Hugging Face folder, or the edit as an adapter."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.errors import UserError
from studies.commands.app import note, tell
from studies.commands.command import command
from studies.commands.edit.saved.stack import model_of, read_stack
from studies.commands.options import AsJson, Runs, SavedModelOptions, argument, option


@dataclass(frozen=True, kw_only=True)
class ExportOptions(SavedModelOptions):
    """Which edits, and where to."""

    edit: Annotated[
        tuple[Path, ...], argument("Saved edits, in their order  [dim](default: the stack)[/dim]", metavar="EDITS")
    ] = ()
    out: Annotated[Path | None, option("A new folder for the edited model.")] = None
    peft: Annotated[bool, option("Write an adapter that PEFT loads on the unedited model.")] = False
    edit_was: Annotated[tuple[Path, ...], option("A saved edit; an argument today.", "--edit", hidden=True)] = ()
    runs: Runs = Path("runs")
    as_json: AsJson = False


@command(
    "edit export",
    ExportOptions,
    "edit export --out edited-model",
    "edit export runs/20261121-140000-edit-rome --out edited-model",
    "edit export --peft --out adapter",
)
def export(options: ExportOptions) -> None:
    """Write the edited model as a Hugging Face folder, with a card that says what was changed."""
    from editing.export.adapter import export_adapter, thin
    from editing.export.folder import export as write
    from studies.edit import load_edits

    named, folder = _old_order(options)
    if folder is None:
        raise UserError("--out is missing: which folder shall the edited model go to?")
    chosen = [str(place) for place in named] or read_stack(options.runs)
    if not chosen:
        raise UserError("there is nothing to export: name an edit, or stack some with edit apply --stack")
    edits = [edit for place in chosen for edit in load_edits(Path(place))]
    if options.peft:
        thin(edits)  # refused before the model is loaded
    written = (export_adapter if options.peft else write)(model_of(edits, options), edits, folder)
    if options.as_json:
        tell(json.dumps({"folder": str(written), "edits": [edit.name for edit in edits]}))
        return
    if options.peft:
        tell(f"Adapter in {written}; PEFT loads it on the unedited {edits[0].model}, as its README.md shows")
        return
    tell(f"Edited model in {written}; plain transformers loads it")


def _old_order(options: ExportOptions) -> tuple[tuple[Path, ...], Path | None]:
    """Edits and folder, also as `edit export FOLDER --edit EDIT` named them."""
    saved = len(options.edit) == 1 and (options.edit[0].is_file() or any(options.edit[0].glob("**/result.json")))
    if options.out is not None or len(options.edit) != 1 or saved:
        return (*options.edit, *options.edit_was), options.out
    note("Note: the folder is now --out, and the edits stand without a flag: edit export EDIT --out FOLDER.")
    return options.edit_was, options.edit[0]
