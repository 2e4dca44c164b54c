"""Options of where a result goes, and what is printed."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from studies.commands.options.flags import (
    DETAILS,
    OUTPUT,
    option,
)
from studies.commands.options.values import Options

if TYPE_CHECKING:
    pass

Runs = Annotated[Path, option("The folder that holds the saved edits and their stack.", panel=OUTPUT)]


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """Where a result goes, and how it is told."""

    out: Annotated[Path | None, option("Where to write  [dim](default: a new folder in runs/)[/dim]", panel=OUTPUT)] = (
        None
    )
    light: Annotated[
        bool, option("A small page, with plotly.js beside it and not inside.", "--light", panel=OUTPUT)
    ] = False
    as_json: Annotated[bool, option("Print the summary for programs.", "--json", panel=OUTPUT)] = False


@dataclass(frozen=True, kw_only=True)
class RunOptions(OutputOptions):
    """Of work that draws by chance."""

    seed: Annotated[int, option("Of everything that is drawn.", panel=DETAILS)] = 0
