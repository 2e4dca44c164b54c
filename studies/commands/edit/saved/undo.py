"""`edit undo`: an edit taken off the stack, from any place in it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import UserError
from studies.commands.app import tell
from studies.commands.command import command
from studies.commands.edit.saved.stack import model_of, read_stack, write_stack
from studies.commands.options import AsJson, Runs, SavedModelOptions, argument


@dataclass(frozen=True, kw_only=True)
class UndoOptions(SavedModelOptions):
    """Which edit of which stack."""

    edit: Annotated[
        Path | None, argument("Folder of an edit on the stack  [dim](default: the last)[/dim]", metavar="EDIT")
    ] = None
    runs: Runs = Path("runs")
    as_json: AsJson = False


@command("edit undo", UndoOptions, "edit undo", "edit undo runs/20261121-140000-edit-rome", bare=True)
def undo(options: UndoOptions) -> None:
    """Take an edit off the stack, from any place in it; checked on the weights, bit for bit. Its folder stays."""
    from factscope.plots.labels import counted
    from studies.edit import load_edits

    kept = read_stack(options.runs)
    if not kept:
        raise UserError(f"the stack in {options.runs} is empty: there is nothing to undo")
    gone = str(options.edit) if options.edit is not None else kept[-1]
    match = [place for place in kept if Path(place).resolve() == Path(gone).resolve()]
    if not match:
        raise UserError(f"{gone} is not on the stack; there are {', '.join(kept)}")
    stack = {place: load_edits(Path(place)) for place in kept}
    rest = [place for place in kept if place != match[0]]
    model = model_of([part for place in kept for part in stack[place]], options)
    if not _comes_back(model, stack, match[0]):
        raise RuntimeError("the weights did not come back bit for bit")
    write_stack(options.runs, rest)
    if options.as_json:
        tell(json.dumps({"undone": match[0], "stack": rest}))
        return
    left = f"the model with the {counted(len(rest), 'edit')} left" if rest else "the unedited model"
    tell(f"Taken off the stack: {match[0]}; its folder stays. Tried on the weights: without it, bit for bit {left}")


def _comes_back(model: Any, stack: dict[str, list[Any]], gone: str) -> bool:
    """Whether taking `gone` out leaves what the others alone make, and taking those out leaves the unedited model."""
    from editing.edit import base_of, commit, revert
    from factscope.model.weights import fingerprint

    rest = [part for place, parts in stack.items() if place != gone for part in parts]
    base, same = base_of(model), True
    commit(model, [part for parts in stack.values() for part in parts])
    revert(model, stack[gone])
    if rest:
        left = fingerprint(model)
        revert(model, rest)
        commit(model, rest)
        same = fingerprint(model) == left
        revert(model, rest)
    return same and fingerprint(model) == base
