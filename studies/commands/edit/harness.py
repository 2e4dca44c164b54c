"""`edit harness`: lm-eval's tasks on the model with saved edits in its weights, beside the unedited one."""

import json
from pathlib import Path
from typing import Annotated

import typer

from factscope.errors import UserError
from factscope.runs.folders import new_folder, writable
from studies.commands import app as common
from studies.commands.app import listed, tell
from studies.commands.edit import stack as edit_stack
from studies.commands.options import Device, EditModel, EditType, Json, Out, Runs

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
    model: EditModel = None,
    seed: Annotated[int, typer.Option(help="Of those examples; 1234 is lm-eval's own.")] = 1234,
    device: Device = None,
    dtype: EditType = None,
    out: Out = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Run EleutherAI's lm-eval on the edited and the unedited model; needs the extra \\[lm-eval]."""
    names = listed(tasks)
    if not names:
        raise UserError("--tasks is empty; name some, as --tasks hellaswag")
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be at least 1, not {limit}")
    if shots is not None and shots < 0:
        raise UserError(f"--shots must be 0 or more, not {shots}")
    if include is not None and not include.is_dir():
        raise UserError(f"--include {include}: there is no such folder")
    from studies.edit import load_edits

    edits = [one for folder in edit for one in load_edits(folder)]
    with writable(out or runs / new_folder("harness", edit[0].name).name, fresh=True) as folder:
        from editing.evaluation.lm_eval import evaluate_tasks
        from editing.pages.lm_eval import in_words, page
        from factscope.plots.page import write_page
        from factscope.runs import store

        loaded = edit_stack.model_of(edits, model, device, dtype)
        report = evaluate_tasks(loaded, edits, names, include=include, limit=limit, shots=shots, seed=seed)
        store.save(report, folder)
        drawn = write_page(page(report), folder / "page.html")
    if as_json:
        scores = [{key: None if value != value else value for key, value in vars(one).items()} for one in report.scores]
        body = {"edits": report.edits, "tasks": names, "scores": scores, "questions": report.questions}
        body |= {"shots": report.shots, "versions": report.versions, "lm_eval": report.harness}
        tell(json.dumps(body | {"folder": str(folder), "page": str(drawn)}, ensure_ascii=False))
        return
    tell(*in_words(report), f"Page: {drawn}")
