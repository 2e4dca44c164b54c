"""The card at the end of every page: what was run, on what, with which seed, and the line that runs it again."""

from factscope.plots.specs import Card
from factscope.runs.provenance import Run


def provenance(run: Run | None, *items: tuple[str, str], title: str = "Provenance") -> Card:
    """A page's own items, then those of the run; without a run, as an imported result has none, its own alone."""
    if run is None:
        return Card(title, items)
    return Card(title, (*items, *run.items()), run.command)
