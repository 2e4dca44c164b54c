"""`trace show`, `circuit show`, `edit show`: one command under three names, which draws any saved run again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from factscope.runs.folders import writable
from studies.commands.app import tell, tell_result
from studies.commands.command import Command, command
from studies.commands.options import FIGURE_FORMATS, OneOf, OutputOptions, argument, option


@dataclass(frozen=True, kw_only=True)
class ShowOptions(OutputOptions):
    """Which saved run is drawn, and what is written for a paper."""

    run: Annotated[Path, argument("A run folder of any command.")]
    table: Annotated[
        Path | None, option("Also write the numbers as a table: .csv, .parquet or .tex (LaTeX, booktabs).")
    ] = None
    figures: Annotated[Path | None, option("Also write the page's figures into this folder.")] = None
    figure_format: Annotated[
        str, option("The format of --figures; pdf and png need Chromium.", of=OneOf("figure format", FIGURE_FORMATS))
    ] = "svg"
    cite: Annotated[bool, option("Also print the BibTeX of what the result used.", "--cite")] = False


def show_command(group: str) -> Command[ShowOptions]:
    """The command as a group has it."""

    @command(
        f"{group} show",
        ShowOptions,
        f"{group} show runs/one",
        f"{group} show runs/one --table one.tex --figures figures --figure-format pdf",
    )
    def show(options: ShowOptions) -> None:
        """Draw a saved run again, without the model; as a table and as figures for a paper too."""
        from factscope.results import figures, tables

        if options.table is not None:
            tables.check(options.table)
        if options.figures is not None:
            figures.check(options.figure_format)
        from factscope.plots.page import write_page
        from factscope.plots.show import figures_of, records_of
        from studies.cite import cite
        from studies.saved import saved_run

        result, drawn = saved_run(options.run)
        if options.table is not None:
            tables.write(records_of(result), options.table)
        written = []
        if options.figures is not None:
            written = figures.write(figures_of(drawn), options.figures, options.figure_format)
        with writable(options.out or options.run, fresh=options.out not in (None, options.run)) as folder:
            page = write_page(drawn, folder / "page.html", light=options.light)
        sources = cite(result) if options.cite else ""
        more = {"table": str(options.table)} if options.table is not None else {}
        drawn_files = {"figures": list(map(str, written))} if written else {}
        cited = {"bibtex": sources} if sources else {}
        tell_result(result, page, options, **more, **drawn_files, **cited)
        if not options.as_json:
            tell(*(f"Table: {place}" for place in more.values()), *(f"Figure: {place}" for place in written))
            tell(*sources.splitlines())

    return show
