"""Long work in named parts: each is computed once, saved, timed, and taken up again after an interruption."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from factscope.progress import progress
from factscope.runs import store
from factscope.runs.journal import Journal
from factscope.runs.provenance import stopwatch

T = TypeVar("T")
JOURNAL, PARTS = "journal.jsonl", "parts"


class Parts:
    """Finished pieces of a study: each computed once, saved, timed, and taken up again after an interruption."""

    def __init__(self, folder: Path | None, journal: Journal | None, advance: Callable[[int], None]) -> None:
        self.folder, self.journal, self.advance = folder, journal, advance
        done = journal.done if journal is not None else []
        self.seconds: dict[str, float] = {piece["part"]: piece["seconds"] for piece in done}

    def get(self, name: str, cls: type[T], make: Callable[[], T]) -> T:
        """The part `name`, from the folder if it was finished before."""
        place = None if self.folder is None else self.folder / PARTS / name.replace(": ", "-").replace(" ", "-")
        if (
            place is not None
            and name in self.seconds
            and all((place / one).is_file() for one in (store.JSON, store.TENSORS))
        ):
            return store.load(place, cls)
        with stopwatch() as elapsed:
            found = make()
        if place is not None and self.journal is not None:
            store.save(found, place)
        if name not in self.seconds:  # else a kill took its files, and the journal names it
            if self.journal is not None:
                self.journal.add({"part": name, "seconds": elapsed[0]})
            self.advance(1)
        self.seconds[name] = elapsed[0]
        return found


@contextlib.contextmanager
def parts_in(folder: Path | None, work: dict[str, Any], costs: Sequence[float], shown: bool | None) -> Iterator[Parts]:
    """The parts in `folder`, with a bar; they go once all is done and the result is saved (`forget`).

    `costs`: of each part, in their order, beside each other; the time left is told by them.
    """
    with contextlib.ExitStack() as stack:
        journal = None if folder is None else stack.enter_context(Journal(folder / JOURNAL, work))
        done = 0 if journal is None else len(journal.done)
        advance = stack.enter_context(progress("parts of the study", len(costs), done, shown, costs))
        yield Parts(folder, journal, advance)


def forget(folder: Path) -> None:
    """Remove the kept parts of a study that is saved."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)
