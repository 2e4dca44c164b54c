"""`circuit layers`: in which layers several circuits lie, averaged and drawn without the model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from factscope.runs.folders import new_folder, writable
from studies.commands.app import tell

EXAMPLES = """[bold]Example[/bold]

circuit layers runs/circuit-country-capital-1a2b3c4d runs/circuit-country-language-5e6f7a8b
"""


def layers_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `circuit find`, of one model.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write.")] = None,
    light: Annotated[bool, typer.Option("--light", help="A small page, with plotly.js beside it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary for programs.")] = False,
) -> None:
    """Average several circuits by layer: active heads and MLPs, rank and probability of the answer on its way up."""
    from circuits.analysis.layers import profile
    from circuits.pages.layers import in_words, profile_page
    from factscope.errors import UserError
    from factscope.plots.page import write_page
    from factscope.runs import store
    from studies.circuit import CircuitStudy

    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("one run is named twice, and would count twice in the average")
    found = [store.load(run, CircuitStudy).roles for run in runs]
    bare = [str(run) for run, roles in zip(runs, found, strict=True) if roles is None]
    if bare:
        raise UserError(f"{bare[0]} holds no roles: find it again without --no-evaluate, or run circuit evaluate on it")
    averaged = profile([run.name for run in runs], [roles for roles in found if roles is not None])
    with writable(out or new_folder("circuit-layers", runs[0].name)) as folder:
        store.save(averaged, folder)
        path = write_page(profile_page(averaged), folder / "page.html", light=light)
    if as_json:
        shares = {"heads": averaged.active_heads.value.tolist(), "mlps": averaged.active_mlps.value.tolist()}
        tell(json.dumps({"circuits": averaged.names, **shares, "page": str(path)}, ensure_ascii=False))
        return
    tell(in_words(averaged) + ".", f"Page: {path}")
