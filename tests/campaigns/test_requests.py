"""Odd requests to `factscope view`: all of them, and a crowd that says nothing."""

from pathlib import Path

from campaigns import requests
from campaigns.trial import new_room


def test_the_list_of_runs_tells_nobody_what_lies_outside_and_withstands_odd_requests(tmp_path: Path) -> None:
    tried = list(requests.falls(new_room(tmp_path / "room")))
    fell = [fall for _, fall in tried if fall is not None]
    assert not fell, "\n".join(f"{fall.name}: {fall.words}" for fall in fell)
    assert len(tried) > 100
    assert requests.crowd(tmp_path / "room") == ""
