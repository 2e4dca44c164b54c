"""Options of who does the work: processes side by side, and shards of a larger job."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from factscope.errors import UserError
from studies.commands.options.flags import DETAILS, option
from studies.commands.options.values import Options

if TYPE_CHECKING:
    from factscope.runs.shards import Shard
    from factscope.runs.workers import Workers


@dataclass(frozen=True, kw_only=True)
class WorkersOptions(Options):
    """Who does long work; no number depends on it."""

    workers: Annotated[
        int, option("Processes that share the work, each with its own copy of the model.", panel=DETAILS)
    ] = 1
    ray: Annotated[
        str | None, option("The address of a Ray cluster for them  [dim](default: this machine)[/dim]", panel=DETAILS)
    ] = None

    def crew(self) -> "Workers":
        """The workers that were asked for; UserError where Ray or its cluster is not there."""
        from factscope.runs.workers import Workers, check_there

        found = Workers(self.workers, self.ray)
        check_there(found)
        return found


@dataclass(frozen=True, kw_only=True)
class ShardOptions(WorkersOptions):
    """Long work that is dealt out among the jobs of an array."""

    shard: Annotated[
        str | None, option("Only this part of the work, as 2/4; factscope merge joins all.", panel=DETAILS)
    ] = None

    def part(self, folder: Path) -> tuple["Shard | None", Path]:
        """The shard that was asked for, and its own folder beside that of the whole; None and `folder` without.

        Raises UserError for a shard whose numbers are to be logged: it has none before it is joined with the others.
        """
        if self.shard is None:
            return None, folder
        if getattr(self, "log", None) is not None:
            raise UserError("--log is of a whole result: give it to factscope merge, which joins the shards")
        from factscope.runs.shards import Shard

        found = Shard.read(self.shard)
        return found, folder.with_name(f"{folder.name}-{found.number}of{found.of}")
