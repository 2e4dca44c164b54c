"""Run campaigns in full: `python -m tests.campaigns hostile`, or `make campaign`; what fell ends with exit code 1.

The report is JSON: what was tried and how often, what fell, the versions. docs/campaigns.md has its tables.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the packages, and the tests' own rooms as the tests name them

CAMPAIGNS = ("hostile",)


def main() -> int:
    """Run what is asked for; 1 if anything fell."""
    asked = argparse.ArgumentParser(prog="python -m tests.campaigns")
    asked.add_argument("campaign", nargs="?", default=CAMPAIGNS[0], choices=CAMPAIGNS)
    asked.add_argument("--only", default="", help="those whose kind and name hold this")
    asked.add_argument("--out", type=Path, help="a folder for the reports, one JSON file each")
    options = asked.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from campaigns import hostile
    from campaigns.trial import prepare

    began = time.time()
    with tempfile.TemporaryDirectory() as place:
        os.environ["FACTSCOPE_CACHE"] = f"{place}/cache"
        prepare()
        tried, fell = hostile.campaign(Path(place), lambda attack: options.only in f"{attack.kind}: {attack.name}")
    for fall in fell:
        print(f"FELL {fall.name}: {fall.words}\n     {fall.command}")
    print(*(f"{kind:<10} {count:>5} commands" for kind, count in tried.items()), sep="\n")
    print(f"{sum(tried.values())} commands, {len(fell)} fell, {time.time() - began:.0f} s")
    if options.out is not None:
        from factscope.files import write_text_atomically

        report = {"campaign": "hostile", "tried": tried, "fell": [vars(fall) for fall in fell]}
        write_text_atomically(options.out / "hostile.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return 1 if fell else 0


if __name__ == "__main__":
    sys.exit(main())
