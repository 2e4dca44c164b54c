"""`edit harness`: lm-eval's tasks on the model with saved edits in its weights, beside the unedited one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.errors import UserError
from factscope.runs.folders import new_folder
from studies.commands.app import listed, tell_result
from studies.commands.command import command, run_folder
from studies.commands.edit.saved.stack import model_of
from studies.commands.options import DETAILS, OutputOptions, Runs, SavedModelOptions, argument, option


@dataclass(frozen=True, kw_only=True)
class HarnessOptions(SavedModelOptions, OutputOptions):
    """Which edits, on which tasks."""

    edit: Annotated[tuple[Path, ...], argument("Folders of saved edits, in the order to apply them.", metavar="EDITS")]
    tasks: Annotated[str, option("Tasks of lm-eval, as hellaswag,arc_easy.")]
    include: Annotated[Path | None, option("A folder with task files of your own.")] = None
    limit: Annotated[int | None, option("Questions of each task.")] = None
    shots: Annotated[int | None, option("Examples before a question  [dim](default: the task's)[/dim]")] = None
    seed: Annotated[int, option("The seed of those examples; 1234 is lm-eval's own.", panel=DETAILS)] = 1234
    runs: Runs = Path("runs")


@command(
    "edit harness",
    HarnessOptions,
    "edit harness runs/edit-a --tasks hellaswag --limit 100",
    "edit harness runs/edit-a --tasks mine --include tasks",
)
def harness(options: HarnessOptions) -> None:
    """Run EleutherAI's lm-eval on the edited and the unedited model; needs the extra \\[lm-eval]."""
    names = listed(options.tasks)
    if not names:
        raise UserError("--tasks is empty; name some, as --tasks hellaswag")
    if options.shots is not None and options.shots < 0:
        raise UserError(f"--shots must be 0 or more, not {options.shots}")
    if options.include is not None and not options.include.is_dir():
        raise UserError(f"--include {options.include}: there is no such folder")
    from studies.edit import load_edits

    edits = [edit for folder in options.edit for edit in load_edits(folder)]
    own = new_folder("harness", options.edit[0].name, options.runs)
    with run_folder("edit harness", options, own, fresh=True) as folder:
        from editing.evaluation.lm_eval import evaluate_tasks
        from studies.saved import save_with_page

        report = evaluate_tasks(
            model_of(edits, options), edits, names, include=options.include, limit=options.limit, shots=options.shots,
            seed=options.seed,
        )  # fmt: skip
        page = save_with_page(report, folder, options.light)
    tell_result(report, page, options, folder=str(folder))
