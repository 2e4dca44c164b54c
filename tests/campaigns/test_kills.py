"""A sample of the campaign of kills: real SIGKILLs of a sweep, every trouble once, and hundreds of torn journals."""

import random

import pytest

from campaigns.kills import kills, troubles
from campaigns.kills.works import SWEEP, Work
from factscope.errors import StoreError
from factscope.runs.journal import Journal
from studies.commands import app

SMALL = Work("a sweep", (*SWEEP, "--limit", "2"))
SEED = 18


@pytest.fixture(scope="module")
def place(tmp_path_factory, toy):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACTSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(app, "loader", lambda *_: lambda: toy)
        yield tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def whole(place):
    kills.warm(place / "warm")
    return kills.whole(SMALL, place / "whole")


def test_whoever_is_killed_anywhere_ends_with_what_nobody_interrupted_has(place, whole):
    tried, fell = kills.killed([whole], place, 3, SEED)
    assert not fell, fell
    assert sum(tried.values()) == 3


@pytest.mark.parametrize("trouble", [troubles.disk_full, troubles.twins])
def test_trouble_is_told_in_a_sentence_and_nothing_is_lost(place, whole, trouble):
    assert trouble(whole, place / trouble.__name__, random.Random(SEED)) == ""


def test_a_torn_journal_is_refused_or_loses_its_last_pieces_and_never_gains_one(tmp_path):
    pieces = [{"fact": number, "effect": [0.5 / (number + 1), None, "ü"]} for number in range(4)]
    sound = tmp_path / "sound"
    with Journal(sound, {"work": 1}) as journal:
        for piece in pieces:
            journal.add(piece)
    draw, refused, shorter = random.Random(SEED), 0, 0
    for number in range(200):
        (torn := tmp_path / str(number)).write_bytes(troubles.harm(sound.read_bytes(), draw)[1])
        try:
            with Journal(torn, {"work": 1}) as journal:
                assert journal.done == pieces[: len(journal.done)]
                shorter += 1
                for piece in pieces[len(journal.done) :]:
                    journal.add(piece)
            assert torn.read_bytes() == sound.read_bytes()
        except StoreError:
            refused += 1
    assert min(refused, shorter) > 40
