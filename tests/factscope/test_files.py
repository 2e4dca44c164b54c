"""Files written whole or not at all, what a kill leaves of them, and JSON of strangers."""

import os

import pytest

from factscope.files import parsed_json, sweep, write_text_atomically
from factscope.runs.folders import writable


def test_what_a_killed_process_left_is_swept_up_and_nothing_else(tmp_path):
    written = write_text_atomically(tmp_path / "edits" / "one.json", "{}")
    torn = [tmp_path / f".result.json.{'0a' * 16}.part", tmp_path / "edits" / f".one.json.{'1b' * 16}.part"]
    mine = [tmp_path / ".hidden", tmp_path / "notes.part", tmp_path / ".notes.part"]
    for file in (*torn, *mine, tmp_path / ".probe-7"):
        file.touch()
    sweep(tmp_path, "other.json")
    sweep(tmp_path, age=60)
    assert all(file.exists() for file in torn)
    os.utime(torn[0], (0, 0))
    sweep(tmp_path, age=60)
    assert [file.exists() for file in torn] == [False, True]
    with writable(tmp_path):
        assert sorted(tmp_path.rglob("*.part")) == sorted(mine[1:])
    assert written.exists()
    assert mine[0].exists()
    assert not (tmp_path / ".probe-7").exists()


def test_half_a_character_is_no_text():
    assert (
        parsed_json('"\\ud83d\\ude00 \\\\ud800"') == "\U0001f600 \\ud800"
    )  # a pair is one; escaped letters are letters
    for text in ('"\\ud800"', '{"a": ["\\uDC00 x"]}', '{"\\udfff": 1}'):
        with pytest.raises(ValueError, match="half a character"):
            parsed_json(text)
