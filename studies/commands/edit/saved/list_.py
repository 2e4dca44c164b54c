"""`edit list`: the saved edits, and which of them are on the stack."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.commands.app import note, tell
from studies.commands.command import command
from studies.commands.edit.saved.stack import read_stack
from studies.commands.options import AsJson, Options, Runs


@dataclass(frozen=True, kw_only=True)
class ListOptions(Options):
    """Of which folder."""

    runs: Runs = Path("runs")
    as_json: AsJson = False


@command("edit list", ListOptions, "edit list", "edit list --runs elsewhere --json", bare=True)
def list_(options: ListOptions) -> None:
    """List the saved edits in --runs and on its stack; a star marks those on the stack."""
    from editing.edit import Edit
    from factscope.errors import StoreError
    from factscope.runs import store

    found, stacked = [], [Path(one) for one in read_stack(options.runs)]
    below = {path.resolve(): path for place in (*stacked, options.runs) for path in place.glob("**/" + store.JSON)}
    for path in sorted(below.values()):
        try:
            document = store.header(path.parent)
        except StoreError:
            continue
        if document["kind"] != "Edit":
            continue
        on = any(one.resolve() in path.resolve().parents for one in stacked)
        try:
            found.append({"folder": str(path.parent), **_said(Edit.upgraded(document["result"])), "stacked": on})
        except (KeyError, TypeError, IndexError, AttributeError, ValueError):
            note(f"Note: {path} does not hold a whole edit, and is left out.")
    _tell(found, options)


def _said(body: dict[str, Any]) -> dict[str, Any]:
    """What the list says of one edit; an error of Python's where a file does not hold it."""
    first = body["requests"][0]
    return {
        "edit": str(body["digest"])[:12],
        "method": str(body["method"]),
        "model": str(body["model"]),
        "facts": len(body["requests"]),
        "first": f"{first['prompt']} {first['target']}",
    }


def _tell(found: list[dict[str, Any]], options: ListOptions) -> None:
    if options.as_json:
        tell(json.dumps(found, ensure_ascii=False))
    elif not found:
        tell(f"no saved edit in {options.runs}")
    for one in [] if options.as_json else found:
        mark = "*" if one["stacked"] else " "
        facts = f"{one['facts']} fact{'' if one['facts'] == 1 else 's'}"
        tell(f"{mark} {one['edit']}  {one['method']:<9} {facts:>9}  {one['first'][:60]}  {one['folder']}")
