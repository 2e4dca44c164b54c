"""A progress bar with time left, on standard error, gone when the work is done and silent where nobody looks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int], None]


@contextmanager
def progress(title: str, total: int, done: int = 0, shown: bool | None = None) -> Iterator[Advance]:
    """Yields `advance(n)`, to be called when n more of `total` pieces are done.

    Shown when standard error is a terminal, or as `shown` says; a bar never reaches a pipe or a file.
    """
    visible = sys.stderr.isatty() if shown is None else shown
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not visible) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda n: bar.advance(task, n)
