"""`edit weights`: where and how sparsely saved edits change the weights, and what their change says in words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.runs.folders import new_folder
from studies.commands.app import tell_result
from studies.commands.command import command, run_folder
from studies.commands.edit.saved.stack import model_of
from studies.commands.options import RunOptions, SavedModelOptions, argument


@dataclass(frozen=True, kw_only=True)
class WeightsOptions(SavedModelOptions, RunOptions):
    """Which edits."""

    edit: Annotated[tuple[Path, ...], argument("Folders of saved edits; each is looked at alone.", metavar="EDITS")]


@command(
    "edit weights",
    WeightsOptions,
    "edit weights runs/20261121-140000-edit-rome",
    "edit weights runs/20261121-140000-edit-rome runs/20261121-140500-edit-ft-m",
)
def weights(options: WeightsOptions) -> None:
    """Draw where and how sparsely edits change the weights, and what the change says in words of the vocabulary."""
    from editing.merge.stack import check_weights
    from studies.edit import load_edits

    edits = [edit for folder in options.edit for edit in load_edits(folder)]
    check_weights(edits, "a map shows how weights change")  # refused before the model is loaded
    with run_folder("edit weights", options, new_folder("weights", options.edit[0].name)) as folder:
        from editing.weights.maps import weight_maps
        from studies.saved import save_with_page

        maps = weight_maps(model_of(edits, options), edits, options.seed)
        page = save_with_page(maps, folder, options.light)
    tell_result(maps, page, options, edits=[edit.name for edit in edits], folder=str(folder))
