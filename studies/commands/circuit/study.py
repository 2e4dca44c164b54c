"""What the commands of `circuit` share: a saved study, and remarks."""

from pathlib import Path
from typing import Annotated, Any

from studies.commands.app import note
from studies.commands.options import argument

RunFolder = Annotated[Path, argument("A run folder of `circuit find`.", metavar="RUN")]


def study_of(run: Path) -> Any:
    """The study in a run folder."""
    from factscope.runs import store
    from studies.circuit import CircuitStudy

    return store.load(run, CircuitStudy)


def tell_notes(notes: tuple[str, ...]) -> None:
    """Remarks on standard error."""
    for remark in notes:
        note(f"Note: {remark}.")
