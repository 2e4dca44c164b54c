"""Two circuits beside each other, as a page."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from circuits.analysis.diff import CircuitDiff
from circuits.analysis.faithfulness import Evaluation
from circuits.analysis.head_roles import Roles
from circuits.circuit import Circuit
from circuits.pages.circuit import MOST_ROWS
from factscope.plots.specs import (
    Bars,
    Curves,
    Headline,
    Page,
    Section,
    Series,
    Spec,
    Table,
    Text,
)


def diff_page(
    found: CircuitDiff,
    names: tuple[str, str],
    counts: tuple[dict[str, int], dict[str, int]] | None,
    apart: Sequence[str] = (),
) -> Page:
    """The page of a comparison; `apart` says in what the two were found differently."""
    sentence = (
        f"{len(found.shared)} edges are shared, {len(found.gained)} gained, {len(found.lost)} lost: Jaccard "
        f"{found.jaccard:.3f}, and {found.jaccard_random:.3f} for random circuits of these sizes."
    )
    layers = torch.arange(found.by_layer.shape[1]).numpy()
    series = tuple(
        Series(name, row.double().numpy())
        for name, row in zip(("gained", "lost", "shared"), found.by_layer, strict=True)
    )
    changed = tuple((name, change) for change in ("gained", "lost") for name in getattr(found, change)[:MOST_ROWS])
    gained, lost = (", ".join(nodes) or "none" for nodes in (found.nodes_gained, found.nodes_lost))
    tables: list[Spec] = [
        Table("Edges", ("edge", "change"), changed),
        Text(f"gained: {gained}\n\nlost: {lost}", "Nodes"),
    ]
    if counts:
        rows = tuple((role, counts[0].get(role, 0), counts[1].get(role, 0)) for role in counts[0])
        tables.insert(0, Table("Roles", ("role", *names), rows))
    bars = Bars(
        "Overlap",
        ("these two", "random, mean", "random, greatest"),
        np.array([found.jaccard, found.jaccard_random, found.jaccard_random_high]),
        value_title="Jaccard",
    )
    curves = Curves("By the reader's layer", layers, series, y_title="edges")
    return Page(
        f"{names[0]} and {names[1]}",
        (
            Section(
                "Overlap",
                (Headline(sentence), bars, curves),
                f"Found differently: {'; '.join(apart)}." if apart else "",
            ),
            Section("What changed", tuple(tables)),
        ),
    )


def summary(circuit: Circuit, evaluation: Evaluation | None = None, roles: Roles | None = None) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    found: dict[str, Any] = {
        "model": circuit.run.model if circuit.run else None,
        "method": circuit.method,
        "settings": circuit.settings,
        "edges": circuit.n_edges,
        "edges_on_a_path": int(circuit.drawn.sum()),
        "edges_in_graph": circuit.graph.n_edges,
        "unit": circuit.unit,
        "loss": {"full": circuit.loss_full, "circuit": circuit.loss_circuit, "empty": circuit.loss_empty},
        "faithfulness": circuit.faithfulness,
        "rank": {"full": circuit.rank_full, "circuit": circuit.rank_circuit},
        "certificate": str(circuit.certificate) if circuit.certificate else None,
        "seconds": circuit.run.seconds if circuit.run else None,
    }
    if evaluation is not None:
        found["evaluation"] = {
            "hit10_found": vars(evaluation.found),
            "hit10_held_out": vars(evaluation.held_out) if evaluation.held_out else None,
            "kl": evaluation.kl,
            "cpr": evaluation.cpr,
            "cmd": evaluation.cmd,
            "superfluous": evaluation.superfluous,
            "random_same_size": vars(evaluation.random_size),
            "random_same_degree": vars(evaluation.random_degree),
            "by_ablation": evaluation.by_ablation,
        }
    if roles is not None:
        found["roles"] = {"counts": roles.counts, "chance": roles.chance}
    return found
