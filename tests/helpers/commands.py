"""The commands, by name, and a call of one in this process as a terminal would have it."""

import contextlib
import importlib
import io
import sys
import warnings
from typing import Any, NamedTuple

COMMANDS = {
    "factscope": "studies.commands.main",
    "trace": "studies.commands.trace",
    "circuit": "studies.commands.circuit.command",
    "edit": "studies.commands.edit.command",
}


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    exit_code: int
    stdout: str
    stderr: str


def invoke(name: str, *arguments: Any) -> Ended:
    """Run a command through its `main`, so that mistakes end as they do at a terminal."""
    command: Any = importlib.import_module(COMMANDS[name])
    out, err, code = io.StringIO(), io.StringIO(), 0
    before = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)  # the command prints our own as notes
            command.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else (0 if end.code is None else 1)
    finally:
        sys.argv = before
    return Ended(code, out.getvalue(), err.getvalue())
