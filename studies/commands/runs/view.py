"""`factscope view`: all runs of a folder in one list, served to this machine or written as a file beside them."""

import contextlib
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.errors import UserError
from studies.commands.app import tell
from studies.commands.command import command
from studies.commands.options import Options, argument, option

PORT = 8737
INDEX = "index.html"


@dataclass(frozen=True, kw_only=True)
class ViewOptions(Options):
    """Which runs, and how they are shown."""

    runs: Annotated[Path, argument("A folder that holds run folders.")] = Path("runs")
    port: Annotated[int, option("Where the list is served, on this machine alone; 0: any free one.")] = PORT
    browser: Annotated[bool, option("Open it in the browser.", "--browser/--no-browser")] = True
    file: Annotated[bool, option(f"Write the list as {INDEX} into the folder instead, and end.", "--file")] = False


@command("factscope view", ViewOptions, "factscope view", "factscope view runs --file", bare=True)
def view(options: ViewOptions) -> None:
    """List all runs of a folder: look through them, set two side by side, go from a trace to its circuit and edit."""
    from factscope.plots.labels import counted
    from studies.explorer.runs import entries

    runs = entries(options.runs)
    if options.file:
        from factscope.files import write_text_atomically
        from studies.explorer.page import index_html, missing_pages

        page = index_html(f"Runs in {options.runs}", runs, missing_pages(options.runs, runs))
        tell(counted(len(runs), "run"), f"Page: {write_text_atomically(options.runs / INDEX, page)}")
        return
    if not 0 <= options.port < 2**16:
        raise UserError(f"--port is a number from 0 to {2**16 - 1}, not {options.port}")
    from studies.explorer.server import HOST, server

    with server(options.runs, options.port) as serving:
        address = f"http://{HOST}:{serving.server_address[1]}/"
        tell(f"{counted(len(runs), 'run')} at {address}; Ctrl-C ends it")
        if options.browser:
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):  # the way in which it ends
            serving.serve_forever()
