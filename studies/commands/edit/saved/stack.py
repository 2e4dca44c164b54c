"""The stack of edits that count as made: a small file in the folder of runs.

`edits.json` names the folders of its edits, the lowest first, as they are reached from its own folder: the two move
together, and a command may be given elsewhere. `edit apply --stack` computes on top of it, `edit undo`
takes an edit off it, `edit export` writes it into the weights.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from factscope.errors import UserError
from factscope.files import read_json
from studies.commands.app import load
from studies.commands.options import SavedModelOptions

STACK, EDITS = "edits.json", "edits"


def model_of(edits: Sequence[Any], options: SavedModelOptions) -> Any:
    """The model that edits were made for, unless another is asked for."""
    from factscope.model.source.registry import REGISTRY

    first = edits[0]
    source = first.run.source if first.run is not None else "unknown"
    name = options.model or (first.model if first.model in REGISTRY else source)
    if name in ("", "unknown"):
        raise UserError(f"edit {first.name} does not say where its model {first.model} is; name it with --model")
    dtype = options.dtype or (first.run.dtype if first.run is not None else "float32")
    return load(replace(options, model=name, dtype=dtype))


def read_stack(runs: Path) -> list[str]:
    """The folders on the stack, the lowest first; UserError for a file that is no stack."""
    try:
        found = read_json(runs / STACK)
        if any("\0" in str(one) or len(Path(str(one)).name) > 255 for one in found.get(EDITS, ())):
            raise ValueError("it names what cannot be a path")
        if EDITS in found:
            return [os.path.normpath(runs / str(one)) for one in found[EDITS]]
        # As older versions wrote them: from the folder in which the command was given, most often that of `runs`.
        return [one if Path(one).exists() else os.path.normpath(runs / ".." / one) for one in map(str, found["stack"])]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as trouble:
        raise UserError(f"{runs / STACK} is not a readable stack ({trouble}); delete it to begin a new one") from None


def write_stack(runs: Path, stack: Sequence[str]) -> None:
    """The folders on the stack from now on, the lowest first."""
    from factscope.files import write_text_atomically

    kept = [Path(os.path.relpath(place, runs)).as_posix() for place in stack]
    write_text_atomically(runs / STACK, json.dumps({EDITS: kept}, indent=1) + "\n")


def put_on(runs: Path, folder: Path, below: Sequence[str]) -> None:
    """Put a saved edit on top of the stack; UserError if that is not `below` any more, which it was computed on."""
    from factscope.files import sweep
    from factscope.runs.folders import alone

    runs.mkdir(parents=True, exist_ok=True)
    with alone(runs / f"{STACK}.lock", f"another command is changing {runs / STACK}; give the command again"):
        sweep(runs, STACK)
        if read_stack(runs) != list(below):
            raise UserError(
                f"{runs / STACK} changed while the edit was made, which therefore is not on top of it: the edit is in "
                f"{folder}, and not on the stack; make it again"
            )
        write_stack(runs, [*below, str(folder)])
