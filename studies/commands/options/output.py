"""Options of where a result goes and what is printed; and those that most commands have, the seed and the settings."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.errors import UserError
from studies.commands.options.flags import DETAILS, OUTPUT, TRACKERS, OneOf, option
from studies.commands.options.values import Options

AsJson = Annotated[bool, option("Print the summary for programs.", "--json", panel=OUTPUT)]
Light = Annotated[bool, option("A small page, with plotly.js beside it and not inside.", "--light", panel=OUTPUT)]
Seed = Annotated[int, option("The seed of everything that is drawn.", panel=DETAILS)]
OtherSettings = Annotated[
    tuple[str, ...], option("Any other setting; repeat for several.", "--set", metavar="KEY=VALUE", panel=DETAILS)
]
Runs = Annotated[Path, option("The folder that holds the saved edits and their stack.", panel=OUTPUT)]


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """Where a result goes, and how it is told."""

    out: Annotated[Path | None, option("Where to write  [dim](default: a new folder in runs/)[/dim]", panel=OUTPUT)] = (
        None
    )
    light: Light = False
    as_json: AsJson = False
    log: Annotated[
        str | None,
        option("Also log the numbers to this tracker of experiments.", panel=OUTPUT, of=OneOf("tracker", TRACKERS)),
    ] = None

    def __post_init__(self) -> None:
        """UserError, before any work, for a tracker whose library is not installed."""
        super().__post_init__()
        if self.log and sys.modules.get(self.log) is None and importlib.util.find_spec(self.log) is None:
            raise UserError(f"--log {self.log} needs its library: pip install {self.log}")


@dataclass(frozen=True, kw_only=True)
class RunOptions(OutputOptions):
    """Of work that draws by chance."""

    seed: Seed = 0
