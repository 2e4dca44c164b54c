"""`edit compare`: two saved benches side by side, subtracted only where both follow one protocol."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from factscope.errors import UserError
from studies.commands import app as common
from studies.commands.app import note, tell
from studies.commands.options import Json

EXAMPLES = common.examples("edit compare runs/bench-zsre-1a2b3c4d runs/bench-zsre-5e6f7a8b")


def compare(
    this: Annotated[Path, typer.Argument(help="Folder of a saved bench.")],
    that: Annotated[Path, typer.Argument(help="Folder of another; its numbers are taken from this one's.")],
    as_json: Json = False,
) -> None:
    """Set two saved benches side by side; their differences only where both follow one protocol."""
    from studies.bench import compare as bench_compare

    one, other = bench_compare.load(this), bench_compare.load(that)
    reasons = bench_compare.obstacles(one, other)
    if as_json:
        tell(json.dumps(compared(one, other) | {"not_subtracted": reasons}, ensure_ascii=False))
    else:
        tell_compared(one, other, f"{this} beside {that}")
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
