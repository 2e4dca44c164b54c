"""A handful of the calibrations, on few simulations; what was off before it was mended would fall here, too."""

from dataclasses import replace

import pytest

from campaigns.calibration.campaign import measure
from campaigns.calibration.cases import cases

CASES = {case.name: case for case in cases()}
SAMPLE = {
    "p among 19 nulls": 2000,
    "p among 19 nulls, values tied": 500,
    "p of a change by an edit": 500,
    "p of a knockout, 12 words": 200,
    "the same, means over 10 neighbours": 400,
    "share of 20 facts, any true share": 1000,
    "share of facts of one subject, unequal groups": 1000,
    "BCa, 5 normal numbers": 300,
    "percentile, 5 normal numbers": 1000,
    "an edge worth nothing has no bound, 5 facts": 4000,
}


@pytest.mark.parametrize("name", SAMPLE)
def test_five_percent_are_five_percent(name: str) -> None:
    row = measure(CASES[name], SAMPLE[name])
    assert not row.fell, f"{row.fell}; seed {row.seed}"


def test_a_case_that_is_off_falls() -> None:
    """The oracle itself: what is wrong twice as often as it says is seen, either way."""
    case = CASES["p among 19 nulls"]
    too_small = replace(case, draw=lambda rng, n: case.draw(rng, n) / 2)
    too_large = replace(case, draw=lambda rng, n: case.draw(rng, n) * 2)
    assert measure(too_small).fell.endswith("and 0.05 is said")
    assert "only, and 0.05" in measure(too_large).fell
    assert not measure(replace(too_large, declared="conservative")).fell
