"""A progress bar with time left, on standard error, gone when the work is done and silent where nobody looks.

At a terminal it is a bar. In a notebook it is one line of the cell's output, which needs no widgets, appears where the
work takes longer than a moment, and is empty at the end. In a pipe or a file (a cluster's log) no bar is drawn: a line
each minute says how far the work is, and work that is done sooner says nothing.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int], None]
MOMENT, EVERY = 1.0, 0.5  # seconds before a notebook's line appears, and between two of its states
BEAT = 60.0  # seconds between two lines where nobody looks at a bar
CELLS = 24  # characters of its bar


@contextmanager
def progress(title: str, total: int, done: int = 0, shown: bool | None = None) -> Iterator[Advance]:
    """Yields `advance(n)`, to be called when n more of `total` pieces are done.

    Shown in a notebook and when standard error is a terminal, or as `shown` says; a bar never reaches a pipe or a file,
    which get a line a minute unless `shown` is False.
    """
    display = _notebook()
    if display is not None and shown is not False:
        with _in_cell(display, title, total, done) as advance:
            yield advance
        return
    visible = sys.stderr.isatty() if shown is None else shown
    if shown is None and not visible:
        yield _in_lines(title, total, done)
        return
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


def _in_lines(title: str, total: int, done: int) -> Advance:
    """A line on standard error where more than `BEAT` seconds went by since the last."""
    began = told = time.monotonic()
    reached = done

    def advance(more: int) -> None:
        nonlocal reached, told
        reached += more
        now = time.monotonic()
        if now - told >= BEAT and reached < total:
            told = now
            left = _clock((now - began) * (total - reached) / (reached - done)) if reached > done else "?"
            print(f"{title}: {reached} of {total}, {_clock(now - began)}, {left} left", file=sys.stderr, flush=True)

    return advance


def _notebook() -> Callable[..., Any] | None:
    """IPython's `display`, where a notebook's kernel runs this; None elsewhere, and IPython is not imported for it."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    found: Callable[..., Any] = sys.modules["IPython.display"].display
    return found


@contextmanager
def _in_cell(display: Callable[..., Any], title: str, total: int, done: int) -> Iterator[Advance]:
    """One line below the cell that is written anew."""
    began, reached, handle, told = time.monotonic(), done, None, 0.0

    def advance(more: int) -> None:
        nonlocal reached, handle, told
        reached += more
        now = time.monotonic()
        if now - began < MOMENT or now - told < EVERY:
            return
        told, line = now, {"text/plain": in_words(title, reached, total, done, now - began)}
        if handle is None:
            handle = display(line, raw=True, display_id=True)
        else:
            handle.update(line, raw=True)

    try:
        yield advance
    finally:
        if handle is not None:
            handle.update({"text/plain": ""}, raw=True)


def in_words(title: str, reached: int, total: int, done: int, seconds: float) -> str:
    """The line of a notebook: a bar, the pieces, and the time that is left if the rest goes as what was done now."""
    share = min(reached / total, 1.0) if total else 1.0
    bar = ("█" * round(CELLS * share)).ljust(CELLS, "░")
    new = reached - done
    left = _clock(seconds * (total - reached) / new) if new else "?"
    return f"{title} {bar} {reached} of {total}, {_clock(seconds)}, {left} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes}:{rest:02d}"
