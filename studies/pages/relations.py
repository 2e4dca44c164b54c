"""Circuits of many relations as a page and in words: Table 1 and Figures 2, 3 and 6 of Knowledge Circuits."""

from collections.abc import Callable
from typing import Any

import numpy as np

from factscope.plots.labels import counted, settings_in_words
from factscope.plots.specs import (
    Cell,
    Curves,
    Headline,
    Heatmap,
    Number,
    Page,
    Section,
    Series,
    Spec,
    Table,
    Text,
    state_labels,
)
from factscope.results.provenance import provenance
from studies.tables.relations import (
    Hit10,
    RelationCircuit,
    RelationTable,
    SharedHead,
    domains,
    overlap,
    pooled,
    shared_by_chance,
    shared_heads,
)

SHOWN = 40  # heads of the matrix, those of most relations
ROLES = {"none": (1, "○"), "mover": (2, "M"), "relation": (3, "R"), "mixture": (4, "X")}
SETS = {"found": "found on", "known_test": "test, known", "all_test": "test, all"}


def words(table: RelationTable) -> list[str]:
    """What the table says: Hit@10 on average, where the circuit does better than the model, and what heads recur."""
    rows, lines = table.rows, []
    parts = []
    for name, said in SETS.items():
        if found := [hit for row in rows if (hit := getattr(row, name)) is not None]:
            model, circuit, random, degrees = (
                np.mean([getattr(hit, of) for hit in found]) for of in ("model", "circuit", "random", "degrees")
            )
            parts.append(
                f"{said}: {circuit:.2f} of the circuit, {model:.2f} of the model, {random:.2f} of random circuits of "
                f"its size and {degrees:.2f} of its degrees"
            )
    sizes = [row.edges for row in rows]
    lines.append(
        f"Circuits of {counted(len(rows), 'relation')} have {min(sizes)} to {max(sizes)} of {table.n_edges:,} edges. "
        f"Hit@10, averaged over relations: {'; '.join(parts)}."
    )
    tested = [row for row in rows if row.all_test is not None]
    if tested:
        better = [row.relation for row in tested if _of(row).circuit > _of(row).model]
        lines.append(
            f"On all test facts, known or not, the circuit has the answer more often than the model in {len(better)} "
            f"of {counted(len(tested), 'relation')}" + (f": {', '.join(better)}." if better else ".")
        )
    lines += _said_of_heads(table)
    if table.left_out:
        lines.append(f"Without a circuit: {'; '.join(f'{name} ({why})' for name, why in table.left_out.items())}.")
    return lines


def page(table: RelationTable) -> Page:
    """The answer, the paper's table, where the circuits lie, the answer's way up, and the heads that they share."""
    mean = {name: _mean(table, name, "circuit") for name in SETS}
    head = Headline(
        words(table)[0],
        tuple(Number(f"{value:.2f}", f"Hit@10 of the circuit, {SETS[name]}") for name, value in mean.items()),
    )
    reading = (
        "Found on: facts that the model knows and the circuit was found on. Test: other facts of the relation, those "
        "that the model knows, and all of them, as in the paper's D_test. Random circuits have as many edges, or as "
        "many for each reader."
    )
    return Page(
        f"Circuits of {counted(len(table.rows), 'relation')}",
        (
            Section("The answer", (head, Text("\n\n".join(words(table)[1:])), _table_1(table)), reading),
            Section("Where the circuits lie", _layers(table), "Figure 2 of the paper, by kind of knowledge."),
            Section(
                "The answer's way up",
                _ways_up(table),
                "Figures 3 and 6 of the paper: the full model at the last position, by the logit lens, over all facts "
                "that it knows.",
            ),
            Section("Heads that relations share", _heads(table), _said_of_chance(table)),
            Section("How it was measured", _measured(table)),
        ),
        subtitle=table.source,
    )


def summary(table: RelationTable) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "relations": [row.relation for row in table.rows],
        "left_out": table.left_out,
        "hit10": {
            name: {of: _mean(table, name, of) for of in ("model", "circuit", "random", "degrees")} for name in SETS
        },
        "edges": {row.relation: row.edges for row in table.rows},
        "shared_heads": {head.name: list(head.relations) for head in shared_heads(table)[:10]},
    }


def records(table: RelationTable) -> list[dict[str, Any]]:
    """A row for each relation: the paper's table with its nulls."""
    found = []
    for row in table.rows:
        record: dict[str, Any] = {
            name: getattr(row, name)
            for name in ("relation", "domain", "facts", "known", "edges", "share", "faithfulness")
        }
        for name, said in SETS.items():
            hit = getattr(row, name)
            for of in ("n", "model", "circuit", "random", "degrees"):
                record[f"{said}: {of}"] = None if hit is None else getattr(hit, of)
        found.append(record)
    return found


def _of(row: RelationCircuit) -> Hit10:
    assert row.all_test is not None
    return row.all_test


def _mean(table: RelationTable, name: str, of: str) -> float:
    values = [getattr(hit, of) for row in table.rows if (hit := getattr(row, name)) is not None]
    return float(np.mean(values)) if values else float("nan")


def _table_1(table: RelationTable) -> Table:
    columns = ("domain", "relation", "facts", "known", "edges", "faithful")
    titles = [f"{said}: {of}" for said in SETS.values() for of in ("n", "model", "circuit", "random", "same degrees")]

    def cells(hit: Hit10 | None) -> tuple[Cell, ...]:
        if hit is None:
            return (0, None, None, None, None)
        return (hit.n, *(round(value, 2) for value in (hit.model, hit.circuit, hit.random, hit.degrees)))

    rows: list[tuple[Cell, ...]] = [
        (
            row.domain, row.relation, row.facts, row.known, row.edges, round(row.faithfulness, 2),
            *(cell for name in SETS for cell in cells(getattr(row, name))),
        )
        for row in table.rows
    ]  # fmt: skip
    return Table("Hit@10 of circuits and of the model", (*columns, *titles), tuple(rows))


def _layers(table: RelationTable) -> tuple[Spec, ...]:
    pictures = []
    for what, name in (("heads", "active_heads"), ("MLPs", "active_mlps")):
        series = []
        for domain, rows in domains(table).items():
            each = np.array([getattr(row, name) for row in rows])
            error = each.std(0, ddof=1) / len(rows) ** 0.5 if len(rows) > 1 else None
            mean = each.mean(0)
            band = (None, None) if error is None else (mean - error, mean + error)
            series.append(Series(f"{domain} ({counted(len(rows), 'relation')})", mean, *band))
        pictures.append(
            Curves(
                f"Share of each layer's {what} that is in the circuit",
                np.arange(len(series[0].y)),
                tuple(series),
                y_title="share",
                note="Means over a domain's relations; bands: one standard error over relations.",
            )
        )
    return tuple(pictures)


def _ways_up(table: RelationTable) -> tuple[Spec, ...]:
    def same(values: np.ndarray) -> np.ndarray:
        return values

    by_layer = (
        ("Rank of the answer", "log rank", np.exp, "rank", True),
        ("Probability of the answer", "probability", same, "probability", False),
        ("Probability of the subject's last token", "probability of the subject", same, "probability", False),
        ("Rank of the answer at the subject", "log rank at the subject", np.exp, "rank", True),
    )
    found = [_curves(table, *one) for one in by_layer]
    return (*found[:2], _change(table), *found[2:])


def _curves(
    table: RelationTable, title: str, name: str, read: Callable[[np.ndarray], np.ndarray], y_title: str, log: bool
) -> Curves:
    series = []
    for domain, rows in domains(table).items():
        mean, error = pooled(rows, name)
        band = (None, None) if np.isnan(error).any() else (read(mean - error), read(mean + error))
        known = sum(row.known for row in rows)
        series.append(Series(f"{domain} ({counted(known, 'fact')})", read(mean), *band))
    labels = state_labels(len(series[0].y))
    return Curves(
        title,
        np.arange(len(labels)),
        tuple(series),
        x_labels=labels,
        y_title=y_title,
        log_y=log,
        note="Over all known facts of a domain; bands: one standard error over facts."
        + (" Geometric means; the best place of the subject's." if "subject" in name and log else ""),
    )


def _change(table: RelationTable) -> Curves:
    series = tuple(
        Series(domain, np.diff(pooled(rows, "log-probability")[0])) for domain, rows in domains(table).items()
    )
    labels = state_labels(len(series[0].y) + 1)[1:]
    return Curves(
        "What each layer adds to the answer's log-probability",
        np.arange(len(labels)),
        series,
        x_labels=labels,
        y_title="change",
        unit="nats",
        note="After the layer, less before it; means over all known facts of a domain.",
    )


def _said_of_heads(table: RelationTable) -> list[str]:
    heads, rows = shared_heads(table), len(table.rows)
    if rows < 2 or not heads:
        return []
    half = (rows + 1) // 2
    many = [head for head in heads if len(head.relations) >= max(2, half)]
    first = ", ".join(f"{head.name} ({len(head.relations)}{_usual_role(head)})" for head in many[:5])
    return [
        f"{counted(len(many), 'head')} {'is' if len(many) == 1 else 'are'} in the circuits of at least "
        f"{max(2, half)} of {rows} relations, where chance would have {shared_by_chance(table, max(2, half)):.1f}"
        + (f"; in most: {first}." if first else "."),
        *_said_of_kinds(table),
    ]


def _said_of_kinds(table: RelationTable) -> list[str]:
    """Whether circuits of one kind of knowledge share more heads than those of two."""
    kinds = np.array([row.domain for row in table.rows])
    alike, apart = kinds[:, None] == kinds, kinds[:, None] != kinds
    np.fill_diagonal(alike, False)
    if not alike.any() or not apart.any():
        return []
    shared = overlap(table)
    return [
        f"Two circuits of one kind of knowledge share {np.nanmean(shared[alike]):.2f} of their heads (Jaccard), of two "
        f"kinds {np.nanmean(shared[apart]):.2f}."
    ]


def _usual_role(head: SharedHead) -> str:
    named = [role for role in head.relations.values() if role != "none"]
    if not named:
        return ""
    usual = max(dict.fromkeys(named), key=named.count)
    return f", {usual} in {named.count(usual)}"


def _said_of_chance(table: RelationTable) -> str:
    rows = len(table.rows)
    sizes = ", ".join(f"{least} or more: {shared_by_chance(table, least):.1f}" for least in range(2, min(rows, 6) + 1))
    return (
        "The paper's special components. M mover, R relation, X mixture head, by the circuit's first fact; ○ in the "
        "circuit, and of no role. "
        + (f"Heads that so many circuits would share if each drew its heads at random: {sizes}." if sizes else "")
    )


def _heads(table: RelationTable) -> tuple[Spec, ...]:
    relations = tuple(row.relation for row in table.rows)
    heads = shared_heads(table)[:SHOWN]
    if not heads:
        return (Text("No circuit has a head."),)
    values = np.zeros((len(heads), len(relations)))
    letters = np.full(values.shape, "·", dtype=object)
    for i, head in enumerate(heads):
        for relation, role in head.relations.items():
            values[i, relations.index(relation)], letters[i, relations.index(relation)] = ROLES[role]
    matrix = Heatmap(
        "Heads by relation",
        values[::-1],
        tuple(f"{head.name} ({len(head.relations)})" for head in heads[::-1]),
        relations,
        row_title="head",
        column_title="relation",
        value_title="role",
        palette="red",
        limits=(0, len(ROLES)),
        cell_labels=letters[::-1],
        note=f"Those of most relations on top, at most {SHOWN}; in brackets, of how many.",
    )
    if len(relations) < 2:
        return (matrix,)
    shared = overlap(table)
    beside = Heatmap(
        "Heads that two relations' circuits share",
        shared[::-1],
        relations[::-1],
        relations,
        row_title="relation",
        column_title="relation",
        value_title="Jaccard index",
        limits=(0, 1),
        cell_labels=np.vectorize(lambda x: "·" if np.isnan(x) else f"{x:.2f}")(shared[::-1]),
    )
    return (matrix, beside)


def _measured(table: RelationTable) -> tuple[Spec, ...]:
    notes = tuple((row.relation, note) for row in table.rows for note in row.notes)
    specs: list[Spec] = []
    if table.left_out:
        specs.append(Table("Without a circuit", ("relation", "why"), tuple(table.left_out.items())))
    if notes:
        specs.append(Table("Notes", ("relation", "note"), notes, folded=True))
    items = (
        ("facts", table.source),
        ("settings", settings_in_words(table.settings)),
        ("seconds for each relation", ", ".join(f"{row.relation} {row.seconds:.0f}" for row in table.rows)),
    )
    return (*specs, provenance(table.run, *items))
