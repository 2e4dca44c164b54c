"""What the commands of `circuit` share: a saved study, how it is drawn, and how it is told."""

import json
from pathlib import Path
from typing import Annotated, Any

from studies.commands.app import note, tell
from studies.commands.options import OutputOptions, argument

RunFolder = Annotated[Path, argument("A run folder of `circuit find`.", metavar="RUN")]


def study_of(run: Path) -> Any:
    """The study in a run folder."""
    from factscope.runs import store
    from studies.circuit import CircuitStudy

    return store.load(run, CircuitStudy)


def tell_study(study: Any, options: OutputOptions, page: Path, **more: str) -> None:
    """The result of a study: three lines, or its summary for programs."""
    from circuits.pages.circuit import summary, words

    if options.as_json:
        said = summary(study.circuit, study.evaluation, study.roles) | more | {"page": str(page)}
        tell(json.dumps(said, ensure_ascii=False))
    else:
        tell(words(study.circuit), second_line(study), f"Page: {page}")


def second_line(study: Any) -> str:
    """Faithfulness, Hit@10 and roles; the nodes where nothing was evaluated."""
    evaluation, roles = study.evaluation, study.roles
    if evaluation is None:
        nodes = study.circuit.nodes()
        return f"Nodes: {', '.join(nodes[:20])}{', ...' if len(nodes) > 20 else ''}"
    held, every = evaluation.held_out, evaluation.held_out_all
    parts = [
        f"Faithfulness {evaluation.faithfulness:.2f} (random circuits of the same degrees "
        f"{evaluation.random_degree.mean:.2f}, of the same size {evaluation.random_size.mean:.2f})",
        f"Hit@10 {evaluation.found.circuit:.2f} of {evaluation.found.full:.2f}",
    ]
    if held is not None:
        parts.append(f"held out {held.circuit:.2f} of {held.full:.2f} (n {held.n}, random {held.random:.2f})")
    if every is not None and (held is None or every.n > held.n):
        parts.append(f"with facts that the model does not know {every.circuit:.2f} of {every.full:.2f} (n {every.n})")
    if roles is not None:
        parts.append(", ".join(f"{count} {role}" for role, count in roles.counts.items() if role != "none"))
    return "; ".join(parts)


def tell_notes(notes: tuple[str, ...]) -> None:
    """Remarks on standard error."""
    for remark in notes:
        note(f"Note: {remark}.")
