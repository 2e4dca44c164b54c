"""The tables of an edit study: edges, heads, neighbours, every change beside its nulls, and how it was made."""

from collections.abc import Sequence

import numpy as np

from circuits.analysis.diff import changes, diff
from circuits.analysis.head_changes import HeadChange, head_changes
from factscope.plots.labels import settings_in_words
from factscope.plots.specs import Card, Cell, Spec, Table
from factscope.results.provenance import provenance
from studies.edit_effects.result import EditStudy, Measure

MOST = 60  # rows of a table of edges or heads


def edge_table(study: EditStudy) -> Table:
    """The edges whose effect changed most, whatever was kept."""
    rows = tuple((move.edge, move.before, move.after, move.change, move.kept) for move in study.diff.moved[:MOST])
    found, unit = study.diff, study.before.circuit.unit
    alone = moved_beside_each(study)
    spread = (
        f" With one null alone as the level, between {min(alone):,} and {max(alone):,} edges moved." if alone else ""
    )
    return Table(
        f"{found.n_moved:,} of {found.n_compared:,} edges moved beyond every null",
        ("edge", f"effect before ({unit})", "after", "change", "in the circuit"),
        rows,
        note=f"{len(found.gained)} edges gained, {len(found.lost)} lost, {len(found.shared)} kept; "
        f"{len(found.only_crossed)} of the gained and lost only crossed the threshold. Jaccard {found.jaccard:.3f}, "
        f"random circuits of these sizes {found.jaccard_random:.3f}. Nodes gained: "
        f"{', '.join(found.nodes_gained) or 'none'}; lost: {', '.join(found.nodes_lost) or 'none'}." + spread,
    )


def moved_beside_each(study: EditStudy) -> list[int]:
    """How many edges moved further than any edge did under each values null, one null at a time."""
    change = changes(study.before.circuit, study.after.circuit).abs()
    levels = [
        diff(study.before.circuit, side.circuit, draws=0).largest_change
        for side in study.nulls
        if side.kind == "values"
    ]
    return [int((change > level).sum()) for level in levels]


def entry_tables(study: EditStudy) -> tuple[Spec, ...]:
    """Cross-faithfulness, and the edges by which the edited layers are heard."""
    cells = tuple(
        (cell.model, cell.circuit, cell.faithfulness, cell.rank, cell.rank_foil, cell.loss, cell.loss_full)
        for cell in study.cross.cells
    )
    spreads = (study.cross.random_before, study.cross.random_after)
    unit = study.cross.unit
    return (
        Table(
            "Cross-faithfulness",
            (
                "model",
                "circuit",
                "faithfulness",
                "rank of the new answer",
                "of the old",
                f"loss ({unit})",
                "loss, whole",
            ),
            cells,
            note="Random circuits as large: "
            + "; ".join(
                f"model {name} {spread.mean:.3f} ({spread.low:.3f} to {spread.high:.3f})"
                for name, spread in zip(("before", "after"), spreads, strict=True)
            ),
        ),
        Table(
            f"Edges out of the edited {', '.join(written(study))} in either circuit",
            ("edge", "effect before", "after", "change", "in the circuit"),
            tuple((e.edge, e.before, e.after, e.after - e.before, e.kept) for e in study.entries[:20]),
            note=f"The largest of {len(study.entries)}. Keys and values are numbered by key/value head: "
            f"{_group(study)}.",
        ),
    )


def written(study: EditStudy) -> list[str]:
    """The edited MLPs, each with what the edit lets stand beside it."""
    beside = study.before.circuit.graph.beside
    return [name for n in study.layers for name in (f"m{n}", *([f"b{n}"] if n in beside else []))]


def _group(study: EditStudy) -> str:
    group = study.before.circuit.graph.group
    if group == 1 or not study.before.circuit.graph.split:
        return "here each head has its own"
    return f"h1.v is read by the heads {', '.join(f'h{head}' for head in range(group, 2 * group))}"


def head_tables(study: EditStudy) -> tuple[Table, ...]:
    """The heads that turned most, with all that changed what they move; and what they write."""
    chosen = [head for head in study.heads if head.what != "none"]
    chosen += [head for head in study.heads if head not in chosen][: max(0, 25 - len(chosen))]
    chosen = sorted(chosen, key=lambda head: -abs(head.shift))[:MOST]
    old, new = (answer.strip() for answer in study.answers)
    columns = ("head", "change", "turn (logits)", "beyond nulls", "p", f"role for {old}", f"role for {new}",
               f"D {old}", f"D {new}", "attention S")  # fmt: skip
    note = (
        "D: direct attribution in logits, before → after. Attention S: share on the subject, without the sink. Roles "
        "as on a circuit's page."
    )
    rows = tuple((h.name, " ".join(map(repr, h.top_tokens[0][:6])), " ".join(map(repr, h.top_tokens[1][:6])))
                 for h in chosen)  # fmt: skip
    return (
        Table("Heads", columns, tuple(_head_row(head) for head in chosen), note),
        Table("What these heads write most", ("head", "before", "after"), rows),
    )


def _head_row(head: HeadChange) -> tuple[Cell, ...]:
    beyond = {None: "-", True: "yes", False: "no"}[head.out_of_nulls]
    roles = [one if one == other else f"{one} → {other}" for one, other in (head.role_old, head.role_new)]
    numbers = [f"{one:+.2f} → {other:+.2f}" for one, other in (head.old, head.new)]
    attention = f"{head.attention_subject[0]:.2f} → {head.attention_subject[1]:.2f}"
    return (head.name, head.what, head.shift, beyond, "-" if head.p is None else head.p, *roles, *numbers, attention)


def neighbour_tables(study: EditStudy) -> tuple[Spec, ...]:
    """Each neighbour's circuit before and after, and its heads that turned towards the edited object."""
    rows: list[tuple[Cell, ...]] = []
    heads: list[tuple[Cell, ...]] = []
    for near in study.neighbours:
        found = diff(near.before, near.after, draws=0, level=study.diff.level)
        gaps = (-near.before.loss_full, -near.after.loss_full)
        rows.append((near.prompt, near.answer.strip(), *gaps, found.relative_change, len(found.gained),
                     len(found.lost), found.jaccard))  # fmt: skip
        for head in head_changes(near.heads_before, near.heads_after)[:6]:
            heads.append((near.prompt, head.name, head.what, head.shift, *head.attention_subject, *head.new))
    gap = "new - own" if study.before.circuit.task.metric == "logit_difference" else "-loss"
    return (
        Table(
            "Neighbours' circuits",
            ("prompt", "its answer", f"{gap} before", "after", "edge effects changed", "gained", "lost", "Jaccard"),
            tuple(rows),
        ),
        Table(
            "Heads through which the edit reaches a neighbour",
            ("prompt", "head", "change", "turn to the new answer (logits)", "attention S before", "after",
             "D new before", "D new after"),
            tuple(heads),
            note="The six heads of each neighbour that turned most, towards the edited object (plus) or away from it.",
        ),
    )  # fmt: skip


def measure_table(found: Sequence[Measure]) -> Table:
    """Every change beside its nulls."""
    rows = tuple(
        (m.name, m.unit, m.edit, _range(m.scrambled), _range(m.values), _range(m.again), _range(m.neighbours),
         {None: "no null", True: "yes", False: "no"}[m.beyond], "-" if m.p is None else m.p)
        for m in found
    )  # fmt: skip
    columns = ("change", "unit", "the edit", "directions", "values", "again", "neighbours", "beyond every null", "p")
    note = (
        "Mean (least to greatest, how many). p: the share of the edit and its values nulls with so large a change, "
        "each row for itself; of many rows, one in twenty is at 0.05 by chance."
    )
    return Table("Each change beside its null distribution", columns, rows, note=note)


def _range(values: Sequence[float]) -> str:
    known = [value for value in values if value == value]
    if not known:
        return "–"
    return f"{np.mean(known):.3g} ({min(known):.3g} to {max(known):.3g}, {len(known)})"


def null_spectra(study: EditStudy) -> tuple[Spec, ...]:
    """The same weights under each null."""
    rows = tuple((s.weight, s.condition, s.largest, s.share) for s in study.null_spectra if s.edits)
    columns = ("weight", "condition", "largest", "|dW| / |W|")
    return (Table("Under each null", columns, rows),) if rows else ()


def card(study: EditStudy) -> Card:
    """Everything needed to do it again."""
    items = [
        ("edit", f"{study.edit[:12]} by {study.method}, layers {', '.join(map(str, study.layers))}"),
        ("circuits", f"{study.before.circuit.method}; {settings_in_words(study.before.circuit.settings)}"),
        ("graph", str(study.before.circuit.graph)),
        ("metric and ablation", f"{study.before.circuit.task.metric}, {study.before.circuit.task.ablation}"),
        ("settings", settings_in_words(study.config)),
    ]
    return provenance(study.run, *items)


def seconds(study: EditStudy) -> Table:
    """Where the time went, by part, over all sides."""
    total: dict[str, float] = {}
    for name, spent in study.seconds.items():
        part = name.partition(": ")[2].rstrip(" 0123456789")
        total[part] = total.get(part, 0.0) + spent
    whole = sum(total.values()) or 1.0
    rows = tuple(
        (part, round(spent, 2), round(spent / whole, 3)) for part, spent in sorted(total.items(), key=lambda p: -p[1])
    )
    return Table(
        "Time by part", ("part", "seconds", "share"), rows, note=f"{whole:.0f} s in all, the edit itself apart."
    )
