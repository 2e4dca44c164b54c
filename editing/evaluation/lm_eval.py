"""EleutherAI's lm-eval on an edited model and the unedited one, through its Hugging Face interface; an optional extra.

Any of its tasks can be asked for by name, and task files of one's own with `include`. The harness is given the model
that runs here, with and without the edits in its weights, and a tokenizer. Standard errors are the harness's own: of
each number alone, as if other questions had been drawn, though both models are asked the same. An in-context edit is
no change of weights, so the harness would not see it, and it is refused.
"""

import contextlib
import logging
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from editing.edit import Edit, applied
from editing.export.folder import plain_model
from editing.merge.stack import check_weights
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.source import download as fetch
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs.provenance import Run, stopwatch

SEED = 1234  # lm-eval's own


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task, without the edits and with them, in the task's own unit."""

    task: str
    metric: str  # lm-eval's name; behind a comma its filter, if it has one
    before: float
    after: float
    before_error: float | None  # standard errors; None where lm-eval gives none, as of a single question
    after_error: float | None
    larger_is_better: bool | None  # None where the task does not say


@shown("editing.pages.lm_eval")
@dataclass(frozen=True)
class TaskReport(Result):
    """What lm-eval says of a model with edits, and of the same model without them."""

    edits: tuple[str, ...]
    tasks: tuple[str, ...]  # as asked for; a group of tasks has scores of its own and of its tasks
    scores: tuple[TaskScore, ...]
    questions: dict[str, int]  # of each task
    shots: dict[str, int]  # examples before a question, of each task
    versions: dict[str, str]  # of each task
    limit: int | None
    harness: str  # the version of lm-eval
    run: Run | None = None

    def score(self, task: str, metric: str) -> TaskScore:
        """A line of the table; KeyError if it was not measured."""
        return {(one.task, one.metric): one for one in self.scores}[task, metric]


def evaluate_tasks(
    model: Bridge,
    edits: Sequence[Edit],
    tasks: Sequence[str],
    *,
    include: Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    seed: int = SEED,
) -> TaskReport:
    """The harness's numbers of each task, without these edits and with them. The model is left bitwise as it was.

    Args:
        include: a folder with task files of one's own.
        limit: questions of each task, from the first on; all of them by default.
        shots: examples before a question; the task's own number by default.
        seed: of the examples, and of what tasks sample.

    Raises EditError: lm-eval is not installed, a task that it does not know or whose data it cannot read, a broken
    task file, an in-context edit.
    """
    lm_eval, HFLM = _harness()  # noqa: N806
    check_weights(edits, "lm-eval runs the weights alone")
    run = Run.of(model, seed)
    found: list[Any] = []
    with stopwatch() as seconds, _hushed(), _same_draws():
        manager = _manager(tasks, include)
        for some in ((), edits):
            with applied(model, some):
                plain = plain_model(model)
            harnessed = HFLM(pretrained=plain, tokenizer=model.tokenizer)
            found.append(_said(lm_eval, harnessed, tasks, manager, limit, shots, seed))
    before, after = found
    counts = {name: count["effective"] for name, count in after.get("n-samples", {}).items()}
    return TaskReport(
        edits=tuple(edit.name for edit in edits),
        tasks=tuple(tasks),
        scores=_scores(before, after),
        questions=counts,
        shots={name: int(after["n-shot"][name]) for name in counts},
        versions={name: str(after["versions"][name]) for name in counts},
        limit=limit,
        harness=metadata.version("lm-eval"),
        run=run.ended(seconds[0]),
    )


def check_tasks(tasks: Sequence[str], include: Path | None = None) -> Any:
    """The harness's list of tasks. Raises EditError: it is not installed, or one of these tasks is not in it."""
    _harness()
    with _hushed():
        return _manager(tasks, include)


def task_numbers(model: Bridge, tasks: Sequence[str], manager: Any, limit: int | None = None) -> dict[str, float]:
    """The harness's numbers of the model as it stands, by "task, metric"; `manager` is what `check_tasks` gave.

    Raises EditError for data that cannot be read. What stands beside the weights is not seen.
    """
    lm_eval, HFLM = _harness()  # noqa: N806
    with _hushed(), _same_draws():
        harnessed = HFLM(pretrained=plain_model(model), tokenizer=model.tokenizer)
        now = _said(lm_eval, harnessed, tasks, manager, limit, None, SEED)
    return {f"{one.task}, {one.metric}": one.after for one in _scores(now, now)}


def _said(
    lm_eval: Any, harnessed: Any, tasks: Sequence[str], manager: Any, limit: int | None, shots: int | None, seed: int
) -> Any:
    """What the harness says of one model; EditError for data that cannot be read."""
    try:
        return lm_eval.simple_evaluate(
            model=harnessed, tasks=list(tasks), task_manager=manager, limit=limit, num_fewshot=shots,
            log_samples=False, numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed,
        )  # fmt: skip
    except OSError as trouble:
        raise EditError(f"lm-eval cannot read the data of {', '.join(tasks)} ({_first(trouble)})") from trouble


def _first(trouble: Exception) -> str:
    return str(trouble).partition("\n")[0]


def _harness() -> tuple[Any, Any]:
    """The library and its class of a Hugging Face model; heavy, and an optional extra."""
    try:
        with _hushed():
            import lm_eval.evaluator
            from lm_eval.models.huggingface import HFLM
    except ImportError as trouble:
        raise EditError(f"lm-eval cannot be imported ({trouble}); pip install lm-eval") from None
    return lm_eval, HFLM


def _scores(before: Any, after: Any) -> tuple[TaskScore, ...]:
    """Metrics alone: the harness keeps "metric,filter" and "metric_stderr,filter" among a task's name and length."""
    out = []
    for task, values in after["results"].items():
        for key, value in values.items():
            metric, comma, sieve = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            sides = (before["results"][task], values)
            errors = [side.get(f"{metric}_stderr,{sieve}") for side in sides]
            low, high = (float(one) if isinstance(one, int | float) else None for one in errors)
            better = (after.get("higher_is_better", {}).get(task) or {}).get(metric)
            name = metric if sieve == "none" else f"{metric}, {sieve}"
            out.append(TaskScore(task, name, float(sides[0][key]), float(value), low, high, better))
    return tuple(out)


def _manager(tasks: Sequence[str], include: Path | None) -> Any:
    """lm-eval's list of tasks. Raises EditError for one that is not in it."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if include is None else str(include), include_defaults=include is None)
    missing = [name for name in tasks if name not in manager.all_tasks]
    where = "task files of your own are found with --include FOLDER"
    if missing and include is not None:
        if said := _broken(include, missing):
            raise EditError(said)
        manager = TaskManager(include_path=str(include))  # reading the harness's own thousands takes some seconds
        missing = [name for name in tasks if name not in manager.all_tasks]
        where = _broken(include) or f"no file in {include} has a line `task: {''.join(missing[:1])}`"
    if missing:
        raise EditError(f"lm-eval knows no task {missing[0]!r}; {where}")
    return manager


def _broken(folder: Path, names: Sequence[str] = ()) -> str:
    """What is wrong with a task file that the harness passed over in silence: one of these names, or any."""
    import yaml

    for file in sorted(folder.rglob("*.yaml")):
        try:
            if not names or file.stem in names:
                yaml.compose(file.read_text(encoding="utf-8"))  # without making anything of it
        except (yaml.YAMLError, UnicodeDecodeError) as trouble:
            return f"{file} is not readable YAML: {' '.join(str(trouble).split())}"
    return ""


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """The harness's bars at a terminal only, its remarks nowhere, and nothing of it on standard output."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    with contextlib.ExitStack() as stack:
        stack.callback(log.setLevel, level)
        if not sys.stderr.isatty():
            stack.enter_context(fetch.quiet())
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        stack.enter_context(_no_git())
        yield


@contextlib.contextmanager
def _no_git() -> Iterator[None]:
    """The harness asks git, aloud, about the folder that the command happens to stand in; here it gets no answer."""
    evaluator: Any = sys.modules.get("lm_eval.evaluator")
    asking = getattr(evaluator, "get_git_commit_hash", None)
    if asking is None:
        yield
        return
    evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = asking


@contextlib.contextmanager
def _same_draws() -> Iterator[None]:
    """The harness seeds the generators that all share; they go on from where they were."""
    plain, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 - the one that it seeds
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(numbers)  # noqa: NPY002
