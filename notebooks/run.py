"""Run the notebooks from top to bottom, as a reader would: on the default model, or on another with small settings.

    python notebooks/run.py                      # all five, checked
    python notebooks/run.py 01_where --save      # one, its outputs kept in the file
    python notebooks/run.py --model gpt2

A notebook's settings are in its first code cell (tagged "parameters"); `executed` puts others in their place by a cell
after it, so that the notebook itself stays as it is.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

HERE = Path(__file__).parent
NOTEBOOKS = tuple(sorted(HERE.glob("0*.ipynb")))


def executed(
    path: Path,
    settings: Mapping[str, object] | None = None,
    folder: Path | None = None,
    kernel: AsyncKernelManager | None = None,
) -> Any:
    """The notebook with its outputs, run in `folder` with these settings in place of its own.

    Each notebook has a process of its own, or that of `kernel`, which outlives it: there the names of the notebook
    before are forgotten, the libraries that it imported are there already, and the folder is that of the first.

    Raises nbclient.exceptions.CellExecutionError, with the cell and its traceback, and ValueError for a setting that
    the notebook does not have.
    """
    notebook = nbformat.read(path, as_version=4)
    place = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    if settings:
        own: dict[str, object] = {}
        exec(notebook.cells[place].source, own)  # the notebook is ours; this only reads its names
        if unknown := set(settings) - set(own):
            raise ValueError(f"{path.name} has no setting {', '.join(sorted(unknown))}")
        lines = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(lines))
    if kernel is not None:
        notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    where = {"metadata": {"path": folder or HERE}}
    client = NotebookClient(notebook, km=kernel, timeout=None, kernel_name="python3", resources=where)
    try:
        client.execute()
    finally:
        if client.kc is not None:  # with a process of its own they are closed already
            client.kc.stop_channels()
    return notebook


def _passing(output: Any) -> bool:
    """A library's warning, with the paths of one machine, or the empty line that progress leaves."""
    return bool(output.get("name") == "stderr" or output.get("data") == {"text/plain": ""})


def main() -> None:
    """Entry point."""
    read = argparse.ArgumentParser(description="Run the notebooks from top to bottom.")
    read.add_argument("names", nargs="*", help="parts of file names; all where none is given")
    read.add_argument("--model", help="another model than each notebook's own")
    read.add_argument("--save", action="store_true", help="keep the outputs in the files")
    asked = read.parse_args()
    chosen = [path for path in NOTEBOOKS if not asked.names or any(name in path.name for name in asked.names)]
    if not chosen:
        sys.exit(f"no notebook is called so; there are {', '.join(path.stem for path in NOTEBOOKS)}")
    for path in chosen:
        began = time.perf_counter()
        done = executed(path, {"MODEL": asked.model} if asked.model else None)
        if asked.save:
            for cell in done.cells:
                cell.metadata.pop("execution", None)  # times of the day, which would differ at every run
                if "outputs" in cell:  # results, and neither a library's warnings nor what is left of progress
                    cell.outputs = [one for one in cell.outputs if not _passing(one)]
            nbformat.write(done, path)
        print(f"{path.stem}: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
