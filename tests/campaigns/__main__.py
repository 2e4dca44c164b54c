"""Run campaigns in full: `python -m tests.campaigns hostile`, or `make campaign` for all; what fell ends with 1.

The report is JSON: what was tried and how often, what fell, and the campaign's own tables; docs/campaigns.md has them.
A campaign is a module, or a package's `campaign` module, with `run(place, only) -> Report`.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the packages, and the tests' own rooms as the tests name them

CAMPAIGNS = {
    "hostile": "campaigns.hostile",
    "calibration": "campaigns.calibration.campaign",
    "kills": "campaigns.kills.campaign",
    "fuzz": "campaigns.fuzz.campaign",
    "truths": "campaigns.truths.campaign",
    "differential": "campaigns.differential.campaign",
}


def main() -> int:
    """Run what is asked for; 1 if anything fell."""
    asked = argparse.ArgumentParser(prog="python -m tests.campaigns")
    asked.add_argument("campaign", nargs="*", default=[*CAMPAIGNS], help=f"of {', '.join(CAMPAIGNS)}; all of them")
    asked.add_argument("--only", default="", help="what has this in its kind and name")
    asked.add_argument("--count", help="kills, or random inputs")
    asked.add_argument("--seed", help="of what is drawn")
    asked.add_argument("--out", type=Path, help="a folder for the reports, one JSON file each")
    options = asked.parse_args()
    if unknown := [name for name in options.campaign if name not in CAMPAIGNS]:
        asked.error(f"there is no campaign {unknown[0]!r}; choose from {', '.join(CAMPAIGNS)}")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    os.environ |= {f"CAMPAIGN_{n}": v for n, v in (("COUNT", options.count), ("SEED", options.seed)) if v is not None}
    fallen = [_ran(name, options.only, options.out) for name in options.campaign]
    return 1 if any(fallen) else 0


def _ran(name: str, only: str, out: Path | None) -> bool:
    """Run one campaign, say what it found, keep its report; whether anything fell."""
    began = time.time()
    with tempfile.TemporaryDirectory() as place:
        os.environ["FACTSCOPE_CACHE"] = f"{place}/cache"
        report = importlib.import_module(CAMPAIGNS[name]).run(Path(place), only)
    if not report.tried:
        raise SystemExit(f"{name} tries nothing with {only!r} in its kind and name")
    for fall in report.fell:
        print(f"FELL {fall.name}: {fall.words}\n     {fall.command}")
    print(*(f"{kind:<24} {count:>6}" for kind, count in report.tried.items()), *report.lines, sep="\n")
    print(f"{name}: {sum(report.tried.values())} tried, {len(report.fell)} fell, {time.time() - began:.0f} s")
    if out is not None:
        from factscope.files import write_text_atomically

        told = {"campaign": name, "tried": report.tried, "fell": [vars(fall) for fall in report.fell]}
        words = json.dumps(told | report.tables, indent=1, ensure_ascii=False)
        write_text_atomically(out / f"{name}.json", words + "\n")
    return bool(report.fell)


if __name__ == "__main__":
    sys.exit(main())
