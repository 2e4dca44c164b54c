"""Run every case, judge it, make the table and the picture of docs/campaigns.md."""

import math
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from campaigns.calibration.cases import Case, cases
from campaigns.trial import Fall, Report

ERRORS = 4  # binomial standard errors that a rate may be off by: of a hundred rates, none by chance


@dataclass(frozen=True)
class Row:
    """What was seen of one case."""

    name: str
    where: str
    kind: str
    simulations: int
    seed: int
    at_05: float  # how often p was at most .05; of an interval, how often the truth was outside
    at_01: float  # NaN of an interval
    coverage: float  # NaN of a p-value
    level: float  # of the interval
    none: float  # share of the simulations without an interval
    declared: str
    fell: str  # why it is not what it is declared to be; "" where it is
    values: tuple[float, ...]  # the p-values' distribution at 1, 2, ... 99 %; () of an interval


def measure(case: Case, simulations: int | None = None) -> Row:
    """Draw, and judge; the seed is the case's own name."""
    seed, n = zlib.crc32(case.name.encode()), simulations or case.simulations
    found = case.draw(np.random.default_rng(seed), n)
    known = found[~np.isnan(found)]
    p = case.kind == "p"
    wrong = float((known <= 0.05).mean() if p else 1 - known.mean())
    rare = float((known <= 0.01).mean()) if p else math.nan
    curve = tuple(float((known <= step / 100).mean()) for step in range(1, 100)) if p else ()
    fell = _fell(case, wrong, rare, len(known))
    coverage = math.nan if p else 1 - wrong
    none = float(np.isnan(found).mean())
    return Row(case.name, case.where, case.kind, n, seed, wrong, rare, coverage, case.level, none, case.declared, fell,
               curve)  # fmt: skip


def _fell(case: Case, wrong: float, rare: float, n: int) -> str:
    """Too often wrong, or not what it is declared to be."""
    said = 0.05 if case.kind == "p" else 1 - case.level
    room = ERRORS * math.sqrt(said * (1 - said) / n)
    if case.declared == "approximate":
        most = case.bound if case.kind == "p" else 1 - case.bound
        return f"wrong in {wrong:.3f}, and at most {most:.3f} is said" if wrong > most + room else ""
    if wrong > said + room:
        return f"wrong in {wrong:.3f}, and {said:.2f} is said"
    if case.kind == "p" and rare > 0.01 + ERRORS * math.sqrt(0.01 * 0.99 / n):
        return f"p at most .01 in {rare:.3f}"
    if case.declared == "exact" and wrong < said - room:
        return f"wrong in {wrong:.3f} only, and {said:.2f} is said"
    return ""


def run(_: Path, only: str = "") -> Report:
    """Every case whose name holds `only`."""
    rows, lines = [], []
    for case in cases():
        if only not in case.name:
            continue
        began = time.time()
        row = measure(case)
        rows.append(row)
        seen = f"{row.at_05:.3f} / {row.at_01:.3f}" if row.kind == "p" else f"{row.coverage:.3f} of {row.level:.2f}"
        lines.append(f"{row.name:<56} {row.simulations:>5}  seed {row.seed:<10}  {seen}  {time.time() - began:.0f} s")
        print(lines[-1], flush=True)
    fell = [Fall(row.name, f"seed {row.seed}, {row.simulations} simulations", row.fell) for row in rows if row.fell]
    tried = {kind: sum(row.simulations for row in rows if row.kind == kind) for kind in ("p", "interval")}
    return Report(tried, fell, tables={"rows": [asdict(row) for row in rows]})
