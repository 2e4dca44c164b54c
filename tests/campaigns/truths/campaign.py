"""Twenty models, each with a planted circuit and a planted edit; what was found of them, and what else."""

from dataclasses import asdict
from pathlib import Path

from campaigns.trial import Fall, Report, asked
from campaigns.truths.circuits import ALIVE, SCORERS, Found, plant, recovered
from campaigns.truths.edits import nothing, plan, uncovered
from circuits.find import find
from circuits.search.acdc import ACDC


def one(seed: int, scorers: bool = True) -> list[Found]:
    """All that is found of the circuit and the edit of a seed."""
    planted = plant(seed)
    task = planted.task(2, seed=seed)
    circuit = find(planted.model, task, ACDC(threshold=ALIVE))
    plans = [plan(seed, planted), *([nothing(seed, planted)] if seed % 5 == 4 else [])]
    edits = [row for planned in plans for row in uncovered(seed, planned, planted, task, circuit)]
    return [*recovered(seed, planted, task, circuit, scorers), *edits]


def fell(found: Found) -> bool:
    """Whether an exact method missed something or found what is not there; estimates may."""
    return found.method not in SCORERS and bool(found.missed or found.false)


def run(_: Path, only: str = "") -> Report:
    """CAMPAIGN_COUNT models from CAMPAIGN_SEED on, twenty from 0; of the methods whose name holds `only`."""
    count, first = asked(20, 0)
    rows: list[Found] = []
    for seed in range(first, first + count):
        rows += (here := [row for row in one(seed) if only in row.method])
        print(f"seed {seed}:", *(f"{row.method} {_count(row)}" for row in here), flush=True)
    tried, falls = dict[str, int](), []
    for row in rows:
        tried[row.method] = tried.get(row.method, 0) + 1
        if fell(row):
            falls.append(Fall(f"{row.method}, seed {row.seed}", str(row.planted), f"{row.missed} {row.false}"))
    return Report(tried, falls, tables={"rows": [asdict(row) for row in rows]})


def _count(row: Found) -> str:
    whole = len(row.planted)
    return f"{whole - len(row.missed)}/{whole}" + (f" +{len(row.false)}" if row.false else "")
