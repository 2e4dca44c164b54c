"""`edit harness`: lm-eval's tasks on the model with saved edits in its weights, beside the unedited one."""

import json
from pathlib import Path
from typing import Annotated

import typer

from studies.commands import common
from studies.commands.common import listed, tell
from studies.commands.edit_options import Device, Dtype, Json, Model
from workbench.errors import UserError

EXAMPLES = common.examples(
    "edit harness runs/edit-a --tasks hellaswag --limit 100",
    "edit harness runs/edit-a --tasks mine --include tasks",
)


def harness(
    edit: Annotated[list[Path], typer.Argument(help="Folders of saved edits, in the order to apply them.")],
    tasks: Annotated[str, typer.Option(help="Tasks of lm-eval, as hellaswag,arc_easy.")],
    include: Annotated[Path | None, typer.Option(help="A folder with task files of your own.")] = None,
    limit: Annotated[int | None, typer.Option(help="Questions of each task.")] = None,
    shots: Annotated[
        int | None, typer.Option(help="Examples before a question  [dim](default: the task's)[/dim]")
    ] = None,
    model: Model = "smollm2",
    device: Device = None,
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Run EleutherAI's lm-eval on the edited and the unedited model; needs the extra \\[lm-eval]."""
    from editing.harness import evaluate_tasks
    from studies.edit_apply import load_edits

    names = listed(tasks)
    if not names:
        raise UserError("--tasks is empty; name some, as --tasks hellaswag")
    edits = [one for folder in edit for one in load_edits(folder)]
    loaded = common.loader(model, device, dtype)()
    before, after = (
        evaluate_tasks(loaded, some, names, include=include, limit=limit, shots=shots) for some in ((), edits)
    )
    if as_json:
        tell(json.dumps({"before": before, "after": after, "edits": [one.name for one in edits]}))
        return
    tell(f"{'task':<28}{'metric':<28}{'unedited':>10}{'edited':>10}")
    for task, values in after.items():
        for name, value in values.items():
            tell(f"{task:<28}{name:<28}{before[task].get(name, float('nan')):>10.4f}{value:>10.4f}")
