"""EleutherAI's lm-eval on an edited model, through its Hugging Face interface; an optional extra.

Any of its tasks can be asked for by name, and task files of one's own with `include`. The harness is given the model
that runs here, with the edits in its weights, and a tokenizer; nothing is written to disk. An in-context edit is no
change of weights, so the harness would not see it, and it is refused.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editing.edit import Edit, EditError, applied
from editing.export import plain_model


def evaluate_tasks(
    model: Any,
    edits: Sequence[Edit],
    tasks: Sequence[str],
    *,
    include: Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
) -> dict[str, dict[str, float]]:
    """The harness's numbers of each task with these edits in; none for the unedited model.

    Raises EditError: lm-eval is not installed, a task that it does not know, an in-context edit.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as trouble:
        raise EditError(f"lm-eval cannot be imported ({trouble}); pip install 'factscope[lm-eval]'") from None
    if any(edit.preface for edit in edits):
        raise EditError("lm-eval reads the weights alone, and an in-context edit changes none: leave it out")
    with applied(model, edits):
        plain = plain_model(model)
    own = None if include is None else str(include)
    manager = TaskManager(include_path=own, include_defaults=own is None)
    if any(name not in manager.all_tasks for name in tasks) and own is not None:
        manager = TaskManager(include_path=own)  # reading the harness's own thousands takes some seconds
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown:
        raise EditError(f"lm-eval knows no task {unknown[0]!r}; task files of your own are found with --include FOLDER")
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=plain, tokenizer=model.tokenizer),
        tasks=list(tasks),
        task_manager=manager,
        limit=limit,
        num_fewshot=shots,
        bootstrap_iters=0,
    )
    return {
        name: {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
        for name, values in found["results"].items()
    }
