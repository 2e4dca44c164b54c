"""All architectures over seeds; the largest difference of every piece."""

from dataclasses import asdict
from pathlib import Path

from campaigns.differential.pieces import ARCHITECTURES, Difference, differences
from campaigns.trial import Fall, Report

SEEDS = range(3)


def run(_: Path, only: str = "") -> Report:
    """Every architecture whose name holds `only`."""
    rows: list[Difference] = []
    for name in ARCHITECTURES:
        for seed in SEEDS if only in name else ():
            rows += (here := list(differences(name, seed)))
            for row in here:
                print(
                    f"{name} {seed} {row.piece}: {row.refused or f'{row.largest:.1e} of {row.scale:.1e}'}", flush=True
                )
    tried: dict[str, int] = {}
    for row in rows:
        tried[row.piece] = tried.get(row.piece, 0) + (not row.refused)
    fell = [
        Fall(f"{row.piece}, {row.architecture}, seed {row.seed}", row.against, f"{row.largest:.3g} of {row.scale:.3g}")
        for row in rows
        if row.fell
    ]
    return Report(tried, fell, tables={"rows": [asdict(row) for row in rows]})
