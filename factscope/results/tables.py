"""Rows of plain values as a table: a pandas frame, or a file for a spreadsheet, a program or a paper."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factscope.errors import UserError
from factscope.files import write_bytes_atomically, write_text_atomically

if TYPE_CHECKING:
    import pandas

Records = Sequence[Mapping[str, Any]]
FORMS = (".csv", ".parquet", ".tex")
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what begins a formula in a spreadsheet
DIGITS = 4  # of a number in a paper; the other files have all of them


def frame(records: Records) -> "pandas.DataFrame":
    """A pandas table; a column is missing in no row, and a value that was not measured is missing in its cell."""
    import pandas  # heavy, and most commands write no table

    columns = list(dict.fromkeys(name for record in records for name in record))
    return pandas.DataFrame.from_records([dict(record) for record in records], columns=columns)


def check(path: str | Path) -> Path:
    """The path of a table; UserError where its ending is none of `FORMS`."""
    path = Path(path)
    if path.suffix not in FORMS:
        raise UserError(f"{path} ends in {path.suffix or 'nothing'!r}; a table is one of {', '.join(FORMS)}")
    return path


def write(records: Records, path: str | Path) -> Path:
    """Write a table, whole or not at all; UserError as in `check`."""
    path, table = check(path), frame(records)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        packed = io.BytesIO()
        table.to_parquet(packed, index=False)
        return write_bytes_atomically(path, packed.getvalue())
    if path.suffix == ".csv":
        return write_text_atomically(path, table.map(_harmless).to_csv(index=False))
    return write_text_atomically(path, latex(table))


def _harmless(cell: Any) -> Any:
    """A cell that no spreadsheet computes: before text that would be a formula there stands an apostrophe.

    Text comes from prompts and from what models say. Numbers are as they are, those that are text too.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) and not _is_number(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def latex(table: "pandas.DataFrame") -> str:
    """A table for a paper (booktabs): text escaped and in one line, numbers to four digits."""
    in_one_line = table.map(lambda cell: " ".join(cell.split()) if isinstance(cell, str) else cell)
    return str(
        in_one_line.to_latex(index=False, escape=True, na_rep="--", float_format=lambda number: f"{number:.{DIGITS}g}")
    )
