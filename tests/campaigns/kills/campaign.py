"""The campaign of kills and troubles: every work killed again and again, and each trouble on the quick ones.

`CAMPAIGN_COUNT` and `CAMPAIGN_SEED` in the environment say how many kills, and from which seed; a tenth of as many
troubles of each kind comes after them. `only` names a kind of work, or of trouble.
"""

import random
from pathlib import Path

from campaigns.kills import kills, troubles
from campaigns.kills.works import WORKS
from campaigns.trial import Fall, Report, asked, prepare

QUICK = ("trace sweep", "flow sweep", "edit bench")  # what troubles befall


def run(place: Path, only: str = "") -> Report:
    """All kills, then all troubles."""
    count, seed = asked(100, 18)
    prepare()
    works = [work for work in WORKS if only in work.name]
    tried, fell = kills.campaign(place / "kills", count, seed, works) if works else ({}, [])
    befall = [(name, one) for one in troubles.TROUBLES if only in (name := one.__name__.replace("_", " "))]
    if befall:
        quick = [kills.whole(work, place / work.name) for work in WORKS if work.name in QUICK]
        draw = random.Random(seed)
        for number in range(max(1, count // 10)):
            for name, trouble in befall:
                one = quick[number % len(quick)]
                tried[name] = tried.get(name, 0) + 1
                if words := trouble(one, place / name / str(number), draw):
                    fell.append(Fall(f"{name} (seed {seed}, number {number})", one.work.name, words))
                    print(f"{name}: {one.work.name}: {words}", flush=True)
    return Report(tried, fell, lines=(f"seed {seed}",), tables={"seed": seed})
