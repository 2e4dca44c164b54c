"""What every result can do, whatever it holds: `to_frame`, `to_html`, `save`, `save_table`, `save_figures`.

A result's class is a `Result`, and `@shown("its.pages")` above it names the module that knows the rest: `page(result)`
for what is drawn, `words(result)` for a terminal, `summary(result)` for a program, and `records(result)` for a table of
numbers, one mapping for each row, in full precision. Nothing of it is imported before somebody asks.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from factscope.plots.show import page_of, pictures, records_of
from factscope.results import figures, tables
from factscope.runs import store

if TYPE_CHECKING:
    import pandas


class Result:
    """A value that was measured, with its ways out."""

    def to_frame(self) -> "pandas.DataFrame":
        """The numbers as a pandas table, one row for each thing that was measured; docs/results.md says which."""
        return tables.frame(records_of(self))

    def to_html(self) -> str:
        """The page as one HTML document that works offline."""
        from factscope.plots.page import page_html  # plotly is heavy, and most results are not drawn

        return page_html(page_of(self))

    def save(self, folder: str | Path) -> Path:
        """Write `result.json` and `result.safetensors` into a folder, which `fs.load` reads back; gives the folder."""
        return store.save(self, folder)

    def save_table(self, path: str | Path) -> Path:
        """Write the rows of `to_frame` as .csv, .parquet or .tex (LaTeX, booktabs); UserError for another ending."""
        return tables.write(records_of(self), path)

    def save_figures(self, folder: str | Path, form: str = "svg") -> list[Path]:
        """Write the page's figures into a folder as "svg", "pdf" or "png"; the files, in the page's order.

        Raises UserError for another form, and where PDF or PNG is asked for and there is no Chromium to make it.
        """
        return figures.write(pictures(self), folder, form)
