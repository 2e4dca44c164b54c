"""The calibration, drawn: p-values below the diagonal are conservative, above it too small; intervals beside 95 %.

`python -m tests.campaigns.calibration.drawing report.json picture.svg` draws a saved report.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, TOP = 900, 560, 60, 40
COLOURS = ("#3b6fb6", "#c4572d", "#3f8f5b", "#7b5aa6", "#b08a1e", "#4aa3a8", "#a83f6f", "#666666")


def svg(rows: Sequence[dict[str, Any]]) -> str:
    """Both pictures side by side, as one SVG."""
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
             f'font-size="11"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']  # fmt: skip
    parts += _curves([row for row in rows if row["kind"] == "p"])
    parts += _coverages([row for row in rows if row["kind"] == "interval"])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _curves(rows: Sequence[dict[str, Any]]) -> list[str]:
    """How often each p-value is at most x, under a true null; the diagonal is what it says."""
    size = 330

    def point(x: float, y: float) -> str:
        return f"{LEFT + x * size:.1f},{TOP + (1 - y) * size:.1f}"

    out = [
        f'<text x="{LEFT}" y="22" font-size="14">p-values under a true null</text>',
        f'<rect x="{LEFT}" y="{TOP}" width="{size}" height="{size}" fill="none" stroke="#999"/>',
        f'<polyline points="{point(0, 0)} {point(1, 1)}" stroke="#999" stroke-dasharray="4 3" fill="none"/>',
        f'<text x="{LEFT}" y="{TOP + size + 16}">p from 0 to 1; upwards: share of simulations with a p as small</text>',
    ]
    for number, row in enumerate(rows):
        line = " ".join(point(step / 100, value) for step, value in enumerate((0.0, *row["values"], 1.0)))
        colour = COLOURS[number % len(COLOURS)]
        dash = ' stroke-dasharray="2 2"' if number >= len(COLOURS) else ""
        out.append(f'<polyline points="{line}" stroke="{colour}" fill="none" stroke-width="1.4"{dash}/>')
        y = TOP + size + 34 + 12 * number
        out.append(f'<line x1="{LEFT}" x2="{LEFT + 18}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}"{dash}/>')
        out.append(f'<text x="{LEFT + 24}" y="{y}">{row["name"]}</text>')
    return out


def _coverages(rows: Sequence[dict[str, Any]]) -> list[str]:
    """How often each interval holds the truth, beside what it says (a bar); 0.8 to 1."""
    left, width, step = 680, 200, 15

    def x(share: float) -> float:
        return left + width * (max(share, 0.8) - 0.8) / 0.2

    bottom = TOP + step * len(rows)
    out = ['<text x="430" y="22" font-size="14">intervals: how often they hold the truth</text>']
    for tick in (0.8, 0.85, 0.9, 0.95, 1.0):
        out.append(f'<line x1="{x(tick)}" x2="{x(tick)}" y1="{TOP}" y2="{bottom}" stroke="#ddd"/>')
        out.append(f'<text x="{x(tick)}" y="{bottom + 14}" text-anchor="middle">{tick:.2f}</text>')
    for number, row in enumerate(rows):
        y = TOP + step * (number + 0.7)
        out.append(f'<text x="{left - 8}" y="{y}" text-anchor="end">{row["name"]}</text>')
        bar = x(row["level"])
        out.append(f'<line x1="{bar}" x2="{bar}" y1="{y - 9}" y2="{y + 2}" stroke="#999" stroke-width="2"/>')
        out.append(f'<circle cx="{x(row["coverage"]):.1f}" cy="{y - 3.5}" r="3.5" fill="{COLOURS[0]}"/>')
    return out


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The report's table, for the page."""
    lines = ["| number | where | simulations | wrong at .05 | at .01 | holds the truth | verdict |",
             "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for row in rows:
        p = row["kind"] == "p"
        seen = (f"{row['at_05']:.3f}", f"{row['at_01']:.3f}", "") if p else (
            "", "", f"{row['coverage']:.3f} of {row['level']:.2f}")  # fmt: skip
        verdict = row["fell"] or row["declared"]
        lines.append(f"| {row['name']} | {row['where']} | {row['simulations']} | {' | '.join(seen)} | {verdict} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    report = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(svg(report["rows"]))
    print(table(report["rows"]))
