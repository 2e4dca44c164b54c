"""`circuit layers`: in which layers several circuits lie, averaged and drawn without the model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.errors import UserError
from factscope.runs.folders import new_folder
from studies.commands.app import tell_result
from studies.commands.circuit.study import study_of
from studies.commands.command import command, run_folder
from studies.commands.options import OutputOptions, argument


@dataclass(frozen=True, kw_only=True)
class LayersOptions(OutputOptions):
    """Which circuits."""

    runs: Annotated[tuple[Path, ...], argument("Run folders of `circuit find`, of one model.", metavar="RUNS...")]


@command(
    "circuit layers",
    LayersOptions,
    "circuit layers runs/circuit-country-capital-1a2b3c4d runs/circuit-country-language-5e6f7a8b",
)
def layers(options: LayersOptions) -> None:
    """Average several circuits by layer: active heads and MLPs, rank and probability of the answer on its way up."""
    from circuits.analysis.layers import profile
    from studies.saved import save_with_page

    runs = options.runs
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("one run is named twice, and would count twice in the average")
    found = [study_of(run).roles for run in runs]
    bare = [str(run) for run, roles in zip(runs, found, strict=True) if roles is None]
    if bare:
        raise UserError(f"{bare[0]} holds no roles: find it again without --no-evaluate, or run circuit evaluate on it")
    averaged = profile([run.name for run in runs], found)
    with run_folder("circuit layers", options, new_folder("circuit-layers", runs[0].name)) as folder:
        page = save_with_page(averaged, folder, options.light)
    tell_result(averaged, page, options)
