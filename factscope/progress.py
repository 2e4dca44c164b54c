"""A progress bar with time left, on standard error, gone when the work is done and silent where nobody looks.

At a terminal it is a bar. In a notebook it is one line of the cell's output, which needs no widgets, appears where the
work takes longer than a moment, and is empty at the end. In a pipe or a file (a cluster's log) no bar is drawn: a line
each minute says how far the work is, and work that is done sooner says nothing. Work whose pieces cannot be counted is
a `stage`: it says what goes on and since when, in the same three ways.

The time left is told from what the pieces that were done now have cost. Where some pieces take longer than others, the
caller says by how much (`costs`), so that cheap ones at the beginning do not promise a quick end; pieces that turn out
to be no work at all are told as `free`, and say nothing of those that are left.

Only one of them is shown at a time: a stage within a bar is part of it, and a bar within a stage takes its place.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int], None]


class Progressing(Protocol):
    """An `Advance` that is also told of pieces that were no work."""

    def __call__(self, more: int, free: bool = False) -> None:
        """So many more pieces are done, or fell away."""


MOMENT, EVERY = 1.0, 0.5  # seconds before a notebook's line appears, and between two of its states
BEAT = 60.0  # seconds between two lines where nobody looks at a bar
CELLS = 24  # characters of its bar
_SHOWN: list[Callable[[], None]] = []  # what is shown now, the innermost last, and how each of them ends


@contextmanager
def progress(
    title: str, total: int, done: int = 0, shown: bool | None = None, costs: Sequence[float] = ()
) -> Iterator[Progressing]:
    """Yields `advance(n)`, to be called when n more of `total` pieces are done; `advance(n, free=True)` for no work.

    `costs`: of each piece, in the order in which they are done, beside each other; none: all take as long.
    Shown in a notebook and when standard error is a terminal, or as `shown` says; a bar never reaches a pipe or a file,
    which get a line a minute unless `shown` is False.
    """
    if shown is False:
        yield _unseen
        return
    display, work = _notebook(), Work(title, total, done, costs)
    with _in_front(lambda: None):
        if display is not None:
            with _in_cell(display, work) as advance:
                yield advance
        elif shown or sys.stderr.isatty():
            with _at_terminal(work) as advance:
                yield advance
        else:
            yield _in_lines(work)


def _unseen(more: int, free: bool = False) -> None:
    """Nobody looks."""


class Work:
    """So many pieces, of which some were done before and more are done now."""

    def __init__(self, title: str, total: int, done: int = 0, costs: Sequence[float] = ()) -> None:
        self.title, self.total, self.done, self.reached = title, total, done, done
        self.upto = [0.0, *accumulate(costs)] if costs else None
        self.free = 0.0  # what pieces would have cost that were no work

    def advance(self, more: int, free: bool) -> float:
        """So many more pieces are done; what they cost."""
        before = self.cost(self.reached)
        self.reached += more
        spent = self.cost(self.reached) - before
        self.free += spent if free else 0.0
        return 0.0 if free else spent

    def cost(self, pieces: int) -> float:
        """What the first so many pieces cost."""
        return float(pieces) if self.upto is None else self.upto[min(pieces, len(self.upto) - 1)]

    def left(self, seconds: float) -> str:
        """The time that is left, if what was done now took so long and the rest goes at its cost."""
        new = self.cost(self.reached) - self.cost(self.done) - self.free
        return _clock(seconds * (self.cost(self.total) - self.cost(self.reached)) / new) if new > 0 else "?"


@contextmanager
def stage(title: str, shown: bool | None = None) -> Iterator[None]:
    """For the block, what goes on and since when; also a decorator, `@stage("evaluating")`.

    Shown where a bar would be; a pipe gets a line a minute. Within a bar or another stage, nothing is shown.
    """
    if shown is False or _SHOWN:
        yield
        return
    display = _notebook()
    if display is None and (shown or sys.stderr.isatty()):
        bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        bar.add_task(title, total=None)
        bar.start()
        stop = bar.stop
    else:
        stop = _Clock(title, display).stop
    try:
        with _in_front(stop):
            yield
    finally:
        stop()


class _Clock:
    """A thread that says at every beat how long a stage has taken, until it is stopped."""

    def __init__(self, title: str, display: Callable[..., Any] | None) -> None:
        self.title, self.display, self.began, self.handle = title, display, time.monotonic(), None
        self.over, self.thread = threading.Event(), threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """No word more; a notebook's line is empty afterwards."""
        self.over.set()
        self.thread.join()
        if self.handle is not None:
            self.handle.update({"text/plain": ""}, raw=True)
            self.handle = None

    def _run(self) -> None:
        while not self.over.wait(BEAT if self.display is None else max(EVERY, 0.01)):
            seconds = time.monotonic() - self.began
            if self.display is None:
                print(f"{self.title}: {_clock(seconds)} so far", file=sys.stderr, flush=True)
            elif self.handle is not None:
                self.handle.update({"text/plain": f"{self.title}, {_clock(seconds)}"}, raw=True)
            elif seconds >= MOMENT:
                line = {"text/plain": f"{self.title}, {_clock(seconds)}"}
                self.handle = self.display(line, raw=True, display_id=True)


@contextmanager
def _in_front(stop: Callable[[], None]) -> Iterator[None]:
    """For the block, what was shown before is not, and this is the innermost."""
    for each in _SHOWN:
        each()
    _SHOWN.append(stop)
    try:
        yield
    finally:
        _SHOWN.remove(stop)


@contextmanager
def _at_terminal(work: Work) -> Iterator[Progressing]:
    """A bar that is gone at the end; it is as long as what was done cost."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[pieces]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(work.title, total=work.cost(work.total), pieces=f"{work.done}/{work.total}")
        bar.update(task, completed=work.cost(work.done))

        def advance(more: int, free: bool = False) -> None:
            spent, pieces = work.advance(more, free), f"{work.reached}/{work.total}"
            bar.update(task, advance=spent, total=work.cost(work.total) - work.free, pieces=pieces)

        yield advance


def _in_lines(work: Work) -> Progressing:
    """A line on standard error where more than `BEAT` seconds went by since the last."""
    began = told = time.monotonic()

    def advance(more: int, free: bool = False) -> None:
        nonlocal told
        work.advance(more, free)
        now = time.monotonic()
        if now - told >= BEAT and work.reached < work.total:
            told, gone = now, now - began
            line = f"{work.title}: {work.reached} of {work.total}, {_clock(gone)}, {work.left(gone)} left"
            print(line, file=sys.stderr, flush=True)

    return advance


def _notebook() -> Callable[..., Any] | None:
    """IPython's `display`, where a notebook's kernel runs this; None elsewhere, and IPython is not imported for it."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    found: Callable[..., Any] = sys.modules["IPython.display"].display
    return found


@contextmanager
def _in_cell(display: Callable[..., Any], work: Work) -> Iterator[Progressing]:
    """One line below the cell that is written anew."""
    began, handle, told = time.monotonic(), None, 0.0

    def advance(more: int, free: bool = False) -> None:
        nonlocal handle, told
        work.advance(more, free)
        now = time.monotonic()
        if now - began < MOMENT or now - told < EVERY:
            return
        told, line = now, {"text/plain": in_words(work, now - began)}
        if handle is None:
            handle = display(line, raw=True, display_id=True)
        else:
            handle.update(line, raw=True)

    try:
        yield advance
    finally:
        if handle is not None:
            handle.update({"text/plain": ""}, raw=True)


def in_words(work: Work, seconds: float) -> str:
    """The line of a notebook: a bar, the pieces, and the time that is left if the rest goes as what was done now."""
    whole = work.cost(work.total)
    share = min(work.cost(work.reached) / whole, 1.0) if whole else 1.0
    bar = ("█" * round(CELLS * share)).ljust(CELLS, "░")
    pieces = f"{work.reached} of {work.total}"
    return f"{work.title} {bar} {pieces}, {_clock(seconds)}, {work.left(seconds)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, below = divmod(minutes, 60)
    return f"{hours}:{below:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
