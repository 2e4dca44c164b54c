"""Progress: one line of a cell without widgets, nothing for short work, empty at the end; in a pipe, lines."""

import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from factscope import progress as progress_module
from factscope.progress import Work, in_words, progress, stage


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a cell shows, state by state, under a kernel."""
    states: list[str] = []

    def display(line: dict[str, str], **how: Any) -> Any:
        assert how == {"raw": True, "display_id": True}
        states.append(line["text/plain"])
        return SimpleNamespace(update=lambda line, **_: states.append(line["text/plain"]))

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(progress_module, "EVERY", 0.0)
    return states


def test_a_notebook_shows_a_line_that_is_empty_at_the_end(cell: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "MOMENT", 0.0)
    with progress("cutting edges", 4) as advance:
        for _ in range(4):
            advance(1)
    assert [line.split(",")[0][-6:] for line in cell[:-1]] == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]
    assert cell[-1] == ""


def test_short_work_and_work_that_is_not_to_be_shown_leave_no_trace(cell: list[str]) -> None:
    with progress("a moment", 2) as advance:
        advance(2)
    with progress("hidden", 2, shown=False) as advance:
        advance(2)
    assert cell == []


def test_an_interrupted_cell_has_no_line_left(cell: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "MOMENT", 0.0)

    def stopped() -> None:
        with progress("stopped", 9) as advance:
            advance(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert cell[-1] == ""


def test_the_time_left_is_that_of_the_pieces_done_now() -> None:
    """Pieces that an earlier run left do not make this one look faster."""
    work = Work("x", 100, 50)
    assert in_words(work, 20.0).endswith("? left")
    work.reached = 60
    assert in_words(work, 20.0).endswith("60 of 100, 0:20, 1:20 left")
    assert in_words(Work("x", 0), 1.0).count("█") == progress_module.CELLS


def test_pieces_that_were_no_work_say_nothing_of_the_rest() -> None:
    work = Work("x", 10)
    work.advance(2, free=False)
    work.advance(6, free=True)
    assert work.left(4.0) == "0:04"  # two were two seconds each, and two are left
    work = Work("x", 4, 0, [1.0, 1.0, 3.0, 5.0])
    work.advance(1, free=True)
    assert work.left(9.0) == "?"  # nothing was done yet
    work.advance(1, free=False)
    assert work.left(1.0) == "0:08"


def test_more_than_an_hour_is_said_in_hours() -> None:
    work = Work("x", 61)
    work.reached = 1
    assert in_words(work, 3599.0).endswith("1 of 61, 59:59, 59:59:00 left")


@pytest.mark.parametrize("done", [0, 3])
def test_where_pieces_take_longer_and_longer_the_time_left_is_true_at_each(done: int) -> None:
    """Each takes as many seconds as its place: after half the pieces a quarter of the time has gone, not a half."""
    costs = [2.0 * place for place in range(11)]  # only beside each other: a second is 2 here
    work = Work("x", len(costs), done, costs)
    gone = 0
    for place in range(done, 10):
        work.reached, gone = place + 1, gone + place
        rest = sum(range(place + 1, 11))
        assert work.left(float(gone)) == ("?" if gone == 0 else f"{rest // 60}:{rest % 60:02d}")
    assert Work("x", 10, 0, [1.0] * 10).left(3.0) == Work("x", 10).left(3.0) == "?"


def test_in_a_pipe_a_line_a_minute_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And short work, and work that is not to be shown, says nothing."""
    clock = iter((0.0, 30.0, 70.0, 80.0, 200.0))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    with progress("facts", 10, 2) as advance:
        for _ in range(4):
            advance(2)
    assert capsys.readouterr().err == "facts: 6 of 10, 1:10, 1:10 left\n"  # the last piece has no line: all is done
    monkeypatch.undo()
    with progress("facts", 10, shown=False) as advance:
        advance(5)
    assert capsys.readouterr().err == ""


def until(happened: Any) -> None:
    """Wait for a thread to have done something, and not for ever."""
    began = time.monotonic()
    while not happened() and time.monotonic() - began < 60:
        time.sleep(0.01)


def test_a_stage_says_what_goes_on_and_since_when(cell: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And a bar within it takes its place; a stage within a bar, or within another, is part of that."""
    monkeypatch.setattr(progress_module, "MOMENT", 0.0)
    with stage("evaluating"):
        until(lambda: len(cell) > 1)
        assert set(cell) <= {"evaluating, 0:00", "evaluating, 0:01"}
        with stage("a part of it"), progress("cutting edges", 2) as advance:
            assert cell[-1] == ""
            seen = len(cell)
            advance(1)
            with stage("a part of that"):
                time.sleep(0.05)
            assert [line.split(" ")[0] for line in cell[seen:]] == ["cutting"]
    assert cell[-1] == ""
    assert progress_module._SHOWN == []
    with stage("hidden", shown=False):
        time.sleep(0.05)
    assert cell[-1] == ""


def test_a_stage_that_fails_or_is_short_leaves_no_line(cell: list[str]) -> None:
    @stage("failing")
    def failing() -> None:
        raise KeyboardInterrupt

    for _ in range(2):  # a decorator serves every call
        with pytest.raises(KeyboardInterrupt):
            failing()
    assert cell == []
    assert progress_module._SHOWN == []


def test_in_a_pipe_a_stage_says_at_every_beat_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "BEAT", 0.02)
    said: list[str] = []

    def heard() -> bool:
        said.append(capsys.readouterr().err)
        return any(said)

    with stage("evaluating"):
        until(heard)
    assert "".join(said).startswith("evaluating: 0:00 so far\n")
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""
