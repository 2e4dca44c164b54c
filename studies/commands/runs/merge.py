"""`factscope merge`: one result of the shards of a job array, as one process would have given it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import StoreError, UserError
from studies.commands.app import JOURNAL, note
from studies.commands.command import Command, command, config_values, document
from studies.commands.edit.scored.bench import bench
from studies.commands.edit.sequence import sequence
from studies.commands.options import CONFIG, Device, OutputOptions, argument
from studies.commands.papers.mib import mib
from studies.commands.papers.table import table
from studies.commands.trace import trace
from studies.commands.tracing.flow import flow

SHARDED: dict[str, Command[Any]] = {each.name: each for each in (trace, flow, bench, sequence, table, mib)}


@dataclass(frozen=True, kw_only=True)
class MergeOptions(OutputOptions):
    """Which shards."""

    shards: Annotated[tuple[Path, ...], argument("The run folders of all shards of one work.", metavar="SHARDS...")]
    device: Device = None


@command("merge", MergeOptions, "factscope merge runs/trace-country-capital-1a2b3c4d-*of4")
def merge(options: MergeOptions) -> None:
    """Join the shards of one work: their journals become one, and the result is that of a single process.

    The model is loaded for the result's provenance, and nothing is computed again.
    """
    from factscope.runs.shards import merge as joined
    from tracing.sweep import enough

    first = options.shards[0]
    name, values = _config(first)
    journals = sorted(place.name for place in first.glob(f"*{Path(JOURNAL).suffix}"))
    if not journals:
        raise StoreError(f"{first} holds no shard of any work; --shard 1/2 makes the first of two")
    whole = options.out or _whole(first)
    for journal in journals:
        for remark in joined([folder / journal for folder in options.shards], whole / journal, enough):
            note(f"Note: {remark}.")
    asked = SHARDED[name].options(**values)
    how = {each: getattr(options, each) for each in ("light", "as_json", "log", "device")}
    SHARDED[name](replace(asked, out=whole, **how))


def _config(folder: Path) -> tuple[str, dict[str, Any]]:
    """The command that made a shard, and its options; StoreError for what is no shard."""
    file = folder / CONFIG
    if not file.is_file():
        raise StoreError(f"{folder} holds no shard of any work; --shard 1/2 makes the first of two")
    name = str(document(file, "merge").get("command"))
    if name not in SHARDED:
        raise StoreError(f"{folder} holds a run of `{name}`, which has no shards; they are of {', '.join(SHARDED)}")
    values = config_values(file, name, SHARDED[name].options)
    return name, {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _whole(shard: Path) -> Path:
    """The folder of the work that a shard's folder is a part of."""
    head, dash, tail = shard.absolute().name.rpartition("-")
    number, of, count = tail.partition("of")
    if not (dash and of and number.isdecimal() and count.isdecimal()):
        raise UserError(f"{shard} does not say by its name which work it is a shard of; name a folder with --out")
    return shard.parent / head
