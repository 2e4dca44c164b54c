"""The campaign of random inputs: `CAMPAIGN_COUNT` inputs from `CAMPAIGN_SEED`, in the environment; each fall shrunk."""

from pathlib import Path

from campaigns.fuzz import fuzz
from campaigns.trial import Report, asked, prepare


def run(place: Path, only: str = "") -> Report:
    """All kinds of input, or those whose name begins with `only`."""
    count, seed = asked(2000, 18)
    prepare()
    tried, fell = fuzz.campaign(place, count, seed, only)
    return Report(tried, fell, lines=(f"seed {seed}",), tables={"seed": seed})
