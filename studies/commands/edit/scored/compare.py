"""`edit compare`: two saved benches side by side, subtracted only where both follow one protocol."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import UserError
from studies.commands.app import note, tell
from studies.commands.command import command
from studies.commands.options import AsJson, Options, argument


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """Which two."""

    this: Annotated[Path, argument("Folder of a saved bench.", metavar="THIS")]
    that: Annotated[Path, argument("Folder of another; its numbers are taken from this one's.", metavar="THAT")]
    as_json: AsJson = False


@command("edit compare", CompareOptions, "edit compare runs/bench-zsre-1a2b3c4d runs/bench-zsre-5e6f7a8b")
def compare(options: CompareOptions) -> None:
    """Set two saved benches side by side; their differences only where both follow one protocol."""
    from studies.bench import compare as bench_compare

    one, other = bench_compare.load(options.this), bench_compare.load(options.that)
    reasons = bench_compare.obstacles(one, other)
    if options.as_json:
        tell(json.dumps(compared(one, other) | {"not_subtracted": reasons}, ensure_ascii=False))
    else:
        tell_compared(one, other, f"{options.this} beside {options.that}")
    if reasons:
        raise UserError(f"these two are not subtracted, as their numbers mean different things: {'; '.join(reasons)}")


def tell_compared(one: Any, other: Any, title: str) -> None:
    """Two benches side by side, and what else is not alike."""
    from studies.bench import compare as bench_compare

    show(replace(bench_compare.side_by_side(one, other), title=title))
    for words in bench_compare.unlike(one, other):
        note(f"Note: {words}.")


def compared(one: Any, other: Any) -> dict[str, Any]:
    """The same for a program."""
    from studies.bench import compare as bench_compare

    table = bench_compare.side_by_side(one, other)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return {"rows": rows, "not_alike": bench_compare.unlike(one, other)}


WIDE = 12  # characters of a column


def show(table: Any) -> None:
    """A table in the terminal, in several parts where it is too wide for it; whole where nobody looks."""
    from rich.console import Console
    from rich.table import Table

    first = max(len(str(row[0])) for row in table.rows)
    console = Console()
    fits = max(1, (console.width - first - 4) // (WIDE + 3)) if console.is_terminal else len(table.columns)
    if not console.is_terminal:
        console = Console(width=first + 40 + (WIDE + 3) * len(table.columns))
    for begin in range(1, len(table.columns), fits):
        drawn = Table(title=table.title if begin == 1 else None)
        drawn.add_column(table.columns[0], no_wrap=True)
        for name in table.columns[begin : begin + fits]:
            drawn.add_column(name, overflow="fold", min_width=min(WIDE, len(name)))
        for row in table.rows:
            cells = (
                "" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else str(cell)
                for cell in row[begin : begin + fits]
            )
            drawn.add_row(str(row[0]), *cells)
        console.print(drawn)
    if table.note:
        tell(table.note)
