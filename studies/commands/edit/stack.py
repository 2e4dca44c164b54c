"""`edit list`, `edit undo`, `edit export`: saved edits, and the stack of those that count as made.

The stack is a small file in the folder of runs, `edits.json`: the folders of its edits, the lowest first. `edit apply
--stack` computes on top of it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from factscope.errors import UserError
from studies.commands import app as common
from studies.commands.app import examples, tell
from studies.commands.options import Device, EditModel, EditType, Json, Runs

STACK = "edits.json"
LIST = examples("edit list", "edit list --runs elsewhere --json")
UNDO = examples("edit undo", "edit undo runs/20261121-140000-edit-rome")
EXPORT = examples("edit export edited-model", "edit export edited-model --edit runs/20261121-140000-edit-rome")


def list_(
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """List the saved edits in --runs and on its stack; a star marks those on the stack."""
    from factscope.errors import StoreError
    from factscope.runs import store

    found, stacked = [], [Path(one) for one in read_stack(runs)]
    below = {path.resolve(): path for place in (*stacked, runs) for path in place.glob("**/" + store.JSON)}
    for path in sorted(below.values()):
        try:
            document = store.header(path.parent)
        except StoreError:
            continue
        if document["kind"] != "Edit":
            continue
        body = document["result"]
        first = body["facts"][0]
        found.append(
            {
                "folder": str(path.parent),
                "edit": body["digest"][:12],
                "method": body["method"],
                "model": body["model"],
                "facts": len(body["facts"]),
                "first": first["template"].replace("{}", first["subject"], 1) + " " + str(first["foil"]),
                "stacked": any(one.resolve() in path.resolve().parents for one in stacked),
            }
        )
    if as_json:
        tell(json.dumps(found, ensure_ascii=False))
    elif not found:
        tell(f"no saved edit in {runs}")
    for one in [] if as_json else found:
        mark = "*" if one["stacked"] else " "
        tell(f"{mark} {one['edit']}  {one['method']:<9} {one['facts']:>5} facts  {one['first'][:60]}  {one['folder']}")


def undo(
    edit: Annotated[
        Path | None, typer.Argument(help="Folder of an edit on the stack  [dim](default: the last)[/dim]")
    ] = None,
    model: EditModel = None,
    device: Device = None,
    dtype: EditType = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Take an edit off the stack, from any place in it; checked on the weights, bit for bit. Its folder stays."""
    kept = read_stack(runs)
    if not kept:
        raise UserError(f"the stack in {runs} is empty: there is nothing to undo")
    gone = str(edit) if edit is not None else kept[-1]
    match = [one for one in kept if Path(one).resolve() == Path(gone).resolve()]
    if not match:
        raise UserError(f"{gone} is not on the stack; there are {', '.join(kept)}")
    from editing.edit import base_of, commit, revert
    from factscope.model.weights import fingerprint
    from studies.edit import load_edits

    stack = {one: load_edits(Path(one)) for one in kept}
    loaded = model_of([part for one in kept for part in stack[one]], model, device, dtype)
    base = base_of(loaded)
    commit(loaded, [part for one in kept for part in stack[one]])
    revert(loaded, stack[match[0]])
    rest = [one for one in kept if one != match[0]]
    if rest:
        left = fingerprint(loaded)
        revert(loaded, [part for one in rest for part in stack[one]])
        commit(loaded, [part for one in rest for part in stack[one]])
        same = fingerprint(loaded) == left
        revert(loaded, [part for one in rest for part in stack[one]])
    else:
        same = True
    if not (same and fingerprint(loaded) == base):
        raise RuntimeError("the weights did not come back bit for bit")
    _write(runs, rest)
    if as_json:
        tell(json.dumps({"undone": match[0], "stack": rest}))
        return
    tell(f"Undone: {match[0]}; {len(rest)} left on the stack; the weights came back bit for bit")


def export(
    folder: Annotated[Path, typer.Argument(help="A new folder for the edited model.")],
    edit: Annotated[
        list[Path] | None, typer.Option(help="A saved edit; repeat for several  [dim](default: the stack)[/dim]")
    ] = None,
    model: EditModel = None,
    device: Device = None,
    dtype: EditType = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Write the edited model as a Hugging Face folder, with a card that says what was changed."""
    from editing.export import export as write
    from studies.edit import load_edits

    chosen = [str(one) for one in edit] if edit else read_stack(runs)
    if not chosen:
        raise UserError("there is nothing to export: name an edit with --edit, or stack some with edit apply --stack")
    edits = [one for place in chosen for one in load_edits(Path(place))]
    written = write(model_of(edits, model, device, dtype), edits, folder)
    if as_json:
        tell(json.dumps({"folder": str(written), "edits": [one.name for one in edits]}))
        return
    tell(f"Edited model in {written}; plain transformers loads it")


def model_of(edits: Sequence[Any], model: str | None, device: str | None, dtype: str | None) -> Any:
    """The model that edits were made for, unless another is asked for."""
    from factscope.model.registry import REGISTRY

    first = edits[0]
    source = first.run.source if first.run is not None else "unknown"
    name = model or (first.model if first.model in REGISTRY else source)
    if name in ("", "unknown"):
        raise UserError(f"edit {first.name} does not say where its model {first.model} is; name it with --model")
    return common.loader(name, device, dtype or (first.run.dtype if first.run is not None else "float32"))()


def read_stack(runs: Path) -> list[str]:
    """The folders on the stack, the lowest first; UserError for a file that is no stack."""
    try:
        found = json.loads((runs / STACK).read_text(encoding="utf-8"))
        return [str(one) for one in found["stack"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as trouble:
        raise UserError(f"{runs / STACK} is not a readable stack ({trouble}); delete it to begin a new one") from None


def _write(runs: Path, stack: Sequence[str]) -> None:
    from factscope.files import write_text_atomically

    write_text_atomically(runs / STACK, json.dumps({"stack": list(stack)}, indent=1) + "\n")


def stacked(runs: Path) -> list[Any]:
    """The edits on the stack, the lowest first."""
    from studies.edit import load_edits

    return [part for place in read_stack(runs) for part in load_edits(Path(place))]


def put_on(runs: Path, folder: Path) -> None:
    """Put a saved edit on top of the stack."""
    _write(runs, [*read_stack(runs), str(folder)])
