"""All architectures over seeds; the largest difference of every piece."""

from dataclasses import asdict
from pathlib import Path

from campaigns.differential.pieces import ARCHITECTURES, Difference, differences
from campaigns.trial import Fall, Report, asked


def run(_: Path, only: str = "") -> Report:
    """Every architecture whose name holds `only`; CAMPAIGN_COUNT models of each, from CAMPAIGN_SEED on."""
    count, first = asked(3, 0)
    rows: list[Difference] = []
    for seed in range(first, first + count):
        for name in (one for one in ARCHITECTURES if only in one):
            for row in differences(name, seed):
                rows.append(row)
                words = row.refused or f"{row.largest:.1e} of {row.scale:.1e}"
                print(f"{name} {seed} {row.piece}: {words}", flush=True)
    tried: dict[str, int] = {}
    for row in rows:
        tried[row.piece] = tried.get(row.piece, 0) + (not row.refused)
    fell = [
        Fall(f"{row.piece}, {row.architecture}, seed {row.seed}", row.against, f"{row.largest:.3g} of {row.scale:.3g}")
        for row in rows
        if row.fell
    ]
    return Report(tried, fell, tables={"rows": [asdict(row) for row in rows]})
