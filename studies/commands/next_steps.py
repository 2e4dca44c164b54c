"""What a person may do next with a result, as a command line that works; a terminal shows it below the page's path."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

Step = Callable[[Any, str], str | None]


def next_step(result: Any, page: Path) -> str | None:
    """The command for what usually follows a result of this kind, saved in the page's folder; None for no such."""
    step = STEPS.get(type(result).__name__)
    return None if step is None else step(result, shlex.quote(str(page.parent)))


def _circuit(seen: Any, _: str) -> str:
    """After where: what computes it, and of the answer that was followed."""
    asked = seen.prompt
    answer = f" --answer {shlex.quote(str(asked.answer).strip())}" if asked.answer_from == "flag" else ""
    return f"circuit find {shlex.quote(asked.marked)}{answer}{_model(seen.run)}"


def _edit(scores: Any, folder: str) -> str | None:
    """After one edit: what it changed inside. Of many edits nothing is that usual, and some cannot be looked into."""
    report = scores.report
    if len(report.edits) == 1 and report.protocol.order == "single" and all(map(_seen_inside, report.methods)):
        return f"circuit diff --edit {folder}{_model(report.run)}"
    return None


def _seen_inside(name: str) -> bool:
    """Whether `circuit diff` takes an edit by this method."""
    from editing.method import method, method_names

    return name in method_names() and not (method(name).in_context or method(name).reads_prompts)


def _model(run: Any) -> str:
    """The flag for the model that a result is of; nothing for the default."""
    from factscope.model.source.registry import DEFAULT, REGISTRY

    name = run.model if run.model in REGISTRY else run.source
    return "" if name == DEFAULT else f" --model {shlex.quote(name)}"


STEPS: dict[str, Step] = {
    "TraceStudy": lambda study, folder: _circuit(study.trace, folder),
    "FlowResult": _circuit,
    "AverageResult": lambda _, folder: f"trace show {folder} --table average.csv",
    "CircuitStudy": lambda _, folder: f"circuit export {folder} --out circuit.json",
    "EditScores": _edit,
    "LayerStudy": lambda _, folder: f"edit show {folder} --table layers.csv",
    "SequenceOrders": lambda _, folder: f"edit show {folder} --table orders.csv",
    "SequenceResult": lambda _, folder: f"edit show {folder} --table sequence.csv",
}
