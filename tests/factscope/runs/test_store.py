"""Results come back as they were saved, or not at all; a journal keeps what was finished and nothing half done."""

import json
import re
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from factscope.errors import StoreError
from factscope.runs import store
from factscope.runs.folders import writable
from factscope.runs.journal import Journal


@dataclass(frozen=True)
class Small:
    name: str
    span: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Result:
    number: float
    words: tuple[str, ...]
    small: Small
    many: tuple[Small, ...]
    table: dict[str, float]
    maybe: Small | None
    grid: Tensor
    parts: tuple[Tensor, ...]
    whole: Tensor | None = None


def result() -> Result:
    one = Small("a\u2028</script>", (1, 2))
    nested = {"x": float("nan"), "y": float("inf")}
    grid = torch.tensor([[1.5, float("nan")], [-0.0, 1e-42]])
    return Result(0.1, ("é", ""), one, (one, one), nested, None, grid, (torch.arange(3), torch.zeros(0)))


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    store.save(result(), tmp_path)
    again = store.load(tmp_path, Result)
    assert (again.number, again.words, again.small, again.many) == (0.1, ("é", ""), result().small, result().many)
    assert again.maybe is None
    assert again.whole is None
    assert str(again.table) == str(result().table)
    assert torch.equal(again.grid.view(torch.int32), result().grid.view(torch.int32))
    assert again.parts[0].dtype == torch.int64
    assert store.same(again.small, result().small)


def test_a_person_can_read_the_json(tmp_path: Path) -> None:
    store.save(result(), tmp_path)
    document = json.loads((tmp_path / "result.json").read_text())
    assert document["kind"] == "Result"
    assert document["tensors"]["grid"] == {"shape": [2, 2], "dtype": "float32"}


def test_files_that_do_not_belong_together_are_noticed(tmp_path: Path) -> None:
    store.save(result(), tmp_path / "a")
    changed = result()
    changed.grid[0, 0] = 7
    store.save(changed, tmp_path / "b")
    (tmp_path / "b" / "result.safetensors").replace(tmp_path / "a" / "result.safetensors")
    with pytest.raises(StoreError, match="another run"):
        store.load(tmp_path / "a", Result)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: d.update(kind="Other"), "holds an Other"),
        (lambda d: d.update(schema=99), "schema 99"),
        (lambda d: d.pop("result"), "not written by Factscope"),
        (lambda d: d["result"].pop("small"), "lacks small"),
        (lambda d: d["result"].update(extra=1), "no field extra"),
    ],
)
def test_a_damaged_run_is_refused_in_words(tmp_path: Path, damage: object, words: str) -> None:
    store.save(result(), tmp_path)
    document = json.loads((tmp_path / "result.json").read_text())
    damage(document)  # type: ignore[operator]
    (tmp_path / "result.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match=words):
        store.load(tmp_path, Result)


def test_what_is_no_run_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a run folder"):
        store.load(tmp_path / "nothing", Result)
    store.save(result(), tmp_path / "several" / "one")
    store.save(result(), tmp_path / "several" / "two")
    with pytest.raises(StoreError, match="it holds one, two: name one of these"):
        store.load(tmp_path / "several", Result)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(StoreError, match="not readable JSON"):
        store.load(tmp_path, Result)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot"):
        store.save(result(), tmp_path / "file" / "run")


def test_a_journal_takes_up_and_drops_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, {"n": 3}) as journal:
        journal.add({"i": 0})
        journal.add({"i": 1})
    with path.open("ab") as file:
        file.write(b'{"i": 2, "half')
    with Journal(path, {"n": 3}) as journal:
        assert journal.done == [{"i": 0}, {"i": 1}]
        journal.add({"i": 2})
    with Journal(path, {"n": 3}) as journal:
        assert [piece["i"] for piece in journal.done] == [0, 1, 2]


def test_a_journal_of_other_work_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", {"n": 3, "seed": 0}):
        pass
    with Journal(tmp_path / "j", {"n": 3, "seed": 1}) as journal:  # the first one held nothing that could be lost
        journal.add({"i": 0})
    with (
        pytest.raises(StoreError, match="other settings \\(seed: 1, not 2\\)"),
        Journal(tmp_path / "j", {"n": 3, "seed": 2}),
    ):
        pass
    with Journal(tmp_path / "j", {"n": 3, "seed": 1}) as journal:
        assert journal.done == [{"i": 0}]


def test_a_setting_within_settings_is_named(tmp_path: Path) -> None:
    """Long values are left out of the sentence; a setting that only one of them has counts as another."""
    with Journal(tmp_path / "j", {"config": {"every": 10, "facts": ["x" * 99]}}) as journal:
        journal.add({"i": 0})
    said = r"other settings \(config.every: 10, not 5, config.facts, config.new: null, not true\)"
    with (
        pytest.raises(StoreError, match=said),
        Journal(tmp_path / "j", {"config": {"every": 5, "facts": [], "new": True}}),
    ):
        pass


@pytest.mark.parametrize("line", ["3", "[]", '{"n": 3}', "words", '{"work": {"n": 3}}'])
def test_a_file_that_is_no_journal_is_refused_and_intact(tmp_path: Path, line: str) -> None:
    path = tmp_path / "j"
    path.write_text(line + "\n")
    with pytest.raises(StoreError, match=r"line 1 .* is not a line of a journal"), Journal(path, {"n": 3}):
        pass
    assert path.read_text() == line + "\n"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_altered_line_is_refused_and_intact(tmp_path: Path, number: int) -> None:
    """Another number in it, or a line taken out before it."""
    path = tmp_path / "j"
    with Journal(path, {"n": 3}) as journal:
        journal.add({"loss": 0.1})
        journal.add({"loss": 0.1})
    lines = path.read_text().splitlines(keepends=True)
    for altered in (
        [*lines[:number], re.sub(r"[0-9]", "7", lines[number], count=1), *lines[number + 1 :]],
        [*lines[:number], *lines[number + 1 :]] if number < 2 else [*lines, lines[2]],
    ):
        path.write_text("".join(altered))
        before = path.read_bytes()
        with pytest.raises(StoreError, match=r"was altered|none of a journal"), Journal(path, {"n": 3}):
            pass
        assert path.read_bytes() == before


def test_no_lock_is_left_behind(tmp_path: Path) -> None:
    """Neither by finished work, nor by a refused journal, nor by a failure; and a second asker leaves the first's."""
    path, lock = tmp_path / "j", tmp_path / "j.lock"
    with Journal(path, {"n": 1}) as journal:
        journal.add({"i": 0})
        with pytest.raises(StoreError, match="in use"), Journal(path, {"n": 1}):
            pass
        assert lock.exists()
    assert not lock.exists()
    with pytest.raises(StoreError, match="other settings"), Journal(path, {"n": 2}):
        pass
    assert not lock.exists()
    with pytest.raises(RuntimeError), Journal(path, {"n": 1}):
        raise RuntimeError
    assert not lock.exists()


def test_two_processes_do_not_share_a_journal(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "j", {}),
        pytest.raises(StoreError, match="in use"),
        Journal(tmp_path / "j", {}),
    ):
        pass


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    """A lock of another descriptor is that of another process: the second asker is refused, and the first goes on."""
    with writable(tmp_path / "run") as folder:
        with pytest.raises(StoreError, match=r"in use.*choose another with --out"), writable(tmp_path / "run"):
            pass
        store.save(result(), folder)
    assert {each.name for each in folder.iterdir()} == {store.JSON, store.TENSORS}
    with writable(tmp_path / "run"):
        pass


def test_a_result_that_is_whole_outlives_what_is_drawn_of_it(tmp_path: Path) -> None:

    def fails(after: Callable[[Path], object], name: str) -> Path:
        with writable(tmp_path / name) as folder:
            after(folder)
            raise RuntimeError

    with pytest.raises(RuntimeError) as trouble:
        fails(lambda folder: store.save(result(), folder), "run")
    folder = tmp_path / "run"
    assert trouble.value.__notes__ == [f"The result is saved in {folder}."]
    assert store.load(folder, Result).small == result().small
    with pytest.raises(RuntimeError):
        fails(lambda folder: (folder / store.TENSORS).write_bytes(b"half"), "half")
    assert not (tmp_path / "half").exists()


def filled(path: Path) -> None:
    """Write a journal on a disk that is full after the first piece: writing beyond a limit is then an error."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Journal(path, {"work": 1}) as journal:
            journal.add({"piece": 1})
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, before[1]))
            journal.add({"piece": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_journal_that_the_disk_does_not_take_is_one_sentence_and_goes_on_later(tmp_path: Path) -> None:
    """What was not taken is not tried again when the file is closed, where it would be a traceback."""
    path = tmp_path / "journal.jsonl"
    with pytest.raises(StoreError, match=r"^cannot write the journal .*: File too large$"):
        filled(path)
    with Journal(path, {"work": 1}) as journal:
        assert journal.done == [{"piece": 1}]
        journal.add({"piece": 2})
    with Journal(path, {"work": 1}) as journal:
        assert journal.done == [{"piece": 1}, {"piece": 2}]
