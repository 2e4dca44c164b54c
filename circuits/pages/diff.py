"""Two circuits beside each other, as a page."""

from typing import Any

import numpy as np
import torch

from circuits.analysis.diff import SETTLED, CircuitDiff
from circuits.pages.circuit import MOST_ROWS
from factscope.plots.specs import Bars, Curves, Headline, Page, Section, Series, Spec, Table, Text


def page(found: CircuitDiff) -> Page:
    """What is shared, what changed, and what two random circuits would share."""
    sentence = (
        f"{len(found.shared)} edges are shared, {len(found.gained)} gained, {len(found.lost)} lost: Jaccard "
        f"{found.jaccard:.3f}, and {found.jaccard_random:.3f} for random circuits of these sizes."
    )
    if found.jaccard_within is not None:
        sentence += " " + _resampled(found)
    layers = torch.arange(found.by_layer.shape[1]).numpy()
    series = tuple(
        Series(name, row.double().numpy())
        for name, row in zip(("gained", "lost", "shared"), found.by_layer, strict=True)
    )
    shares = dict(zip((*found.gained, *found.lost), found.inclusion, strict=False))
    changed = tuple(
        (name, change, *shares.get(name, ()))
        for change in ("gained", "lost")
        for name in getattr(found, change)[:MOST_ROWS]
    )
    resampled = tuple(f"in resamples {name}" for name in found.names) if found.inclusion else ()
    gained, lost = (", ".join(nodes) or "none" for nodes in (found.nodes_gained, found.nodes_lost))
    tables: list[Spec] = [
        Table("Edges", ("edge", "change", *resampled), changed),
        Text(f"gained: {gained}\n\nlost: {lost}", "Nodes"),
    ]
    if found.roles:
        one, other = found.roles
        rows = tuple((role, one.get(role, 0), other.get(role, 0)) for role in one)
        tables.insert(0, Table("Roles", ("role", *found.names), rows))
    bars = Bars(
        "Overlap",
        ("these two", "random, mean", "random, greatest"),
        np.array([found.jaccard, found.jaccard_random, found.jaccard_random_high]),
        value_title="Jaccard",
    )
    curves = Curves("By the reader's layer", layers, series, y_title="edges")
    return Page(
        f"Two circuits: {' and '.join(found.names)}",
        (
            Section(
                "Overlap",
                (Headline(sentence), bars, curves),
                f"Found differently: {'; '.join(found.apart)}." if found.apart else "",
            ),
            Section("What changed", tuple(tables)),
        ),
    )


def _resampled(found: CircuitDiff) -> str:
    """How much of the difference other facts would give, in a sentence."""
    assert found.jaccard_within is not None
    before, after = found.jaccard_within
    return (
        f"Two circuits of resampled facts have a Jaccard index of {before:.3f} before and {after:.3f} after; "
        f"{len(found.settled)} of the {len(found.gained) + len(found.lost)} changed edges are on their side in at "
        f"least {SETTLED:.0%} of these circuits and on the other in at most {1 - SETTLED:.0%}."
    )


def words(found: CircuitDiff) -> list[str]:
    """Edges and nodes, in two lines, and what a bootstrap over the facts says in a third."""
    return [
        f"{len(found.shared)} edges shared, {len(found.gained)} gained, {len(found.lost)} lost; Jaccard "
        f"{found.jaccard:.3f}, random circuits {found.jaccard_random:.3f}",
        f"Nodes gained: {', '.join(found.nodes_gained) or 'none'}; lost: {', '.join(found.nodes_lost) or 'none'}",
        *([_resampled(found)] if found.jaccard_within is not None else []),
    ]


def summary(found: CircuitDiff) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "shared": len(found.shared),
        "gained": found.gained,
        "lost": found.lost,
        "jaccard": found.jaccard,
        "jaccard_random": found.jaccard_random,
        "differences": found.apart,
        "settled": found.settled,
        "jaccard_within": found.jaccard_within,
    }


def records(found: CircuitDiff) -> list[dict[str, Any]]:
    """A row an edge of either circuit: gained, lost or shared; both effects where it is among the largest moves."""
    moves = {move.edge: move for move in found.moved}
    rows = []
    for change in ("gained", "lost", "shared"):
        for edge in getattr(found, change):
            move = moves.get(edge)
            effects = {"before": None, "after": None} if move is None else {"before": move.before, "after": move.after}
            rows.append({"edge": edge, "change": change, **effects})
    return rows
