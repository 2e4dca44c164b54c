"""What a circuit by roles looks like: its nodes in columns by the role of the token, and which roles carry what."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from circuits.analysis.faithfulness import Hits
from circuits.by_role.circuit import RoleCircuit
from circuits.by_role.formats import to_networkx
from circuits.graph import place_of
from circuits.pages.wiring import NODE_KINDS, into, palette_of, row_names, row_of
from factscope.plots.figures.network import EdgeMark, Network, NodeMark, View
from factscope.plots.labels import as_sentence, counted, settings_in_words
from factscope.plots.specs import Card, Headline, Heatmap, Number, Page, Section, Spec, Table, Text
from factscope.results.provenance import provenance

MOST_ROWS = 400  # of a table of edges; the export has all


def page(circuit: RoleCircuit) -> Page:
    """The page of one circuit by roles."""
    prompts = circuit.prompts
    more = f" and {len(prompts) - 1} more prompts" if len(prompts) > 1 else ""
    below = [*words(circuit)[1:], *map(as_sentence, circuit.notes)]
    told = (Text("\n\n".join(below)),) if below else ()
    across = (pair_map(circuit),) if circuit.graph.pairs else ()
    drawn: tuple[Spec, ...] = (headline(circuit), *told, network(circuit), *across, role_table(circuit))
    sections = (
        Section("The circuit", drawn, _reading(circuit)),
        Section("Edges", (edge_table(circuit),)),
        Section("How it was found", (card(circuit),)),
    )
    answer = f"answer{prompts[0].answer}" if len(prompts) == 1 else f"answers of {len(prompts)} prompts"
    return Page(
        f"Circuit {'between' if circuit.graph.pairs else 'by'} token roles: {circuit.asked}{more}",
        sections,
        subtitle=f"{circuit.method} · {answer}",
    )


def _reading(circuit: RoleCircuit) -> str:
    return (
        "Layers go upward, the sentence from left to right: a column is the role of a token. A line within a column is "
        "read and written at these tokens; a line into another column is a head that attends there, and carries by its "
        "key or value what stands at the earlier token. Wider lines matter more; choose a node to see its paths alone. "
        f"An edge's effect is the {circuit.convention}."
    )


def words(circuit: RoleCircuit) -> list[str]:
    """The one sentence to remember, and how well the circuit does."""
    lengths = sorted({len(prompt.tokens) for prompt in circuit.prompts})
    long = f"{lengths[0]} to {lengths[-1]} tokens" if len(lengths) > 1 else f"{lengths[0]} tokens"
    one = "prompt" if len(circuit.prompts) == 1 else "prompts"
    share = circuit.n_edges / circuit.graph.n_edges
    said = [
        f"{circuit.n_edges:,} of {circuit.graph.n_edges:,} {circuit.graph.edges_called} ({share:.2%}) over "
        f"{len(circuit.prompts)} {one} of {long}: faithfulness {circuit.faithfulness:.2f}; loss "
        f"{circuit.loss_circuit:.3g} {circuit.unit}, of the full model {circuit.loss_full:.3g}, of no edge "
        f"{circuit.loss_empty:.3g}."
    ]
    if circuit.evaluation is not None:
        tested = circuit.evaluation
        parts = [
            f"Random circuits of the same degrees have a faithfulness of {tested.random_degree.mean:.2f}; the same "
            f"edges at every role ({tested.everywhere_edges:,}) {tested.everywhere_faithfulness:.2f}",
            f"the answer among the first ten for {_share(tested.found, 'prompts that it was found on')}",
        ]
        if tested.held_out is not None:
            parts.append(f"held out, for {_share(tested.held_out, 'prompts that the model knows')}")
        said.append("; ".join(parts) + ".")
    return said


def _share(hits: Hits, of: str) -> str:
    return f"{hits.circuit:.0%} of {hits.n} {of} (full model {hits.full:.0%}, random circuits {hits.random:.0%})"


def summary(circuit: RoleCircuit) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    steady, tested = circuit.stability, circuit.evaluation
    return {
        "model": circuit.run.model if circuit.run else None,
        "method": circuit.method,
        "settings": circuit.settings,
        "prompts": len(circuit.prompts),
        "roles": list(circuit.graph.roles),
        "edges": circuit.n_edges,
        "edges_in_graph": circuit.graph.n_edges,
        "edges_by_role": {role: count for role, count, _ in by_role(circuit)},
        **({"edges_by_pair": by_pair(circuit)} if circuit.graph.pairs else {}),
        "unit": circuit.unit,
        "loss": {"full": circuit.loss_full, "circuit": circuit.loss_circuit, "empty": circuit.loss_empty},
        "faithfulness": circuit.faithfulness,
        "rank": {"full": circuit.rank_full, "circuit": circuit.rank_circuit},
        "stability": {k: v for k, v in vars(steady).items() if k != "inclusion"} if steady else None,
        "evaluation": tested
        and {
            "hit10_found": vars(tested.found),
            "hit10_held_out": vars(tested.held_out) if tested.held_out else None,
            "hit10_held_out_all": vars(tested.held_out_all) if tested.held_out_all else None,
            "random_same_degree": vars(tested.random_degree),
            "same_edges_at_every_role": {
                "edges": tested.everywhere_edges,
                "faithfulness": tested.everywhere_faithfulness,
            },
        },
        "seconds": circuit.run.seconds if circuit.run else None,
    }


def records(circuit: RoleCircuit) -> list[dict[str, Any]]:
    """A row a kept edge: its score by the circuit's convention."""
    graph = circuit.graph
    return [
        {"writer": graph.plain.writers[writer], "reader": graph.plain.reader_names[reader],
         **_where(circuit, reader, place),
         "score": float(circuit.scores[writer, reader, place]), "unit": circuit.unit}
        for writer, reader, place in np.argwhere(circuit.mask).tolist()
    ]  # fmt: skip


def _where(circuit: RoleCircuit, reader: int, place: int) -> dict[str, str]:
    """The role of the token where an edge is read, and of a key or value the role that attends to it."""
    graph, at = circuit.graph, circuit.graph.places[place]
    if not graph.pairs:
        return {"role": graph.roles[at.role]}
    attending = graph.roles[at.attending] if graph.carrying[reader] and at.attending is not None else ""
    return {"role": graph.roles[at.role], "attending": attending}


def headline(circuit: RoleCircuit) -> Headline:
    """Size, faithfulness and, if evaluated, what it is held against."""
    numbers = [
        Number(f"{circuit.n_edges:,}", f"of {circuit.graph.n_edges:,} {circuit.graph.edges_called}"),
        Number(f"{circuit.faithfulness:.0%}", "faithfulness"),
    ]
    if circuit.evaluation is not None:
        tested = circuit.evaluation
        numbers += [
            Number(f"{tested.everywhere_faithfulness:.0%}", "the same edges at every role"),
            Number(f"{round(tested.random_degree.mean, 2) + 0.0:.0%}", "random circuits, same degrees"),
        ]
        if tested.held_out is not None:
            held = tested.held_out
            numbers.append(Number(f"{held.circuit:.0%}", f"Hit@10, {counted(held.n, 'held-out fact')}"))
    return Headline(words(circuit)[0], tuple(numbers))


def by_role(circuit: RoleCircuit) -> list[tuple[str, int, float]]:
    """Of each role: its kept edges, and the sum of their effects' sizes."""
    standing, kept = circuit.graph.standing, circuit.mask
    sizes = (circuit.scores.abs().numpy() * kept).sum((0, 1), dtype=float) @ standing
    counts = kept.sum((0, 1)) @ standing
    return [(role, int(counts[at]), float(sizes[at])) for at, role in enumerate(circuit.graph.roles)]


def by_pair(circuit: RoleCircuit) -> dict[str, int]:
    """How many kept edges of keys and values there are from each role to each that attends to it; none are left out."""
    graph, kept = circuit.graph, circuit.mask[:, circuit.graph.carrying].sum((0, 1))
    number = int(np.flatnonzero(graph.carrying)[0])
    return {graph.place_name(number, place): int(count) for place, count in enumerate(kept) if count}


def pair_map(circuit: RoleCircuit) -> Heatmap:
    """What keys and values carry from each role to each that attends to it: the sum of their edges' sizes."""
    graph, kept = circuit.graph, circuit.mask[:, circuit.graph.carrying]
    sizes = (circuit.scores[:, torch.from_numpy(graph.carrying)].abs().numpy() * kept).sum((0, 1), dtype=float)
    total = np.full((len(graph.roles), len(graph.roles)), np.nan)
    count = np.zeros(total.shape, dtype=int)
    for place, size, edges in zip(graph.places, sizes, kept.sum((0, 1)), strict=True):
        if place.attending is not None:
            total[place.role, place.attending], count[place.role, place.attending] = size, int(edges)
    return Heatmap(
        "From which token to which",
        total,
        rows=graph.roles,
        columns=graph.roles,
        row_title="read at",
        column_title="attended from",
        value_title="sum of sizes",
        unit=circuit.unit,
        hover={"edges": count},
        note="The kept edges into keys and values, each at the token where it stands and at the token whose attention "
        "reads it. No token reads what stands behind it.",
    )


def role_table(circuit: RoleCircuit) -> Table:
    """How many edges each role has, and what they weigh; and in how many prompts there is such a token."""
    found = by_role(circuit)
    total = sum(size for _, _, size in found) or 1.0
    present = [sum(at in circuit.graph.roles_in(prompt) for prompt in circuit.prompts) for at in range(len(found))]
    rows = tuple(
        (role, count, f"{size / total:.0%}", f"{there} of {len(circuit.prompts)}")
        for (role, count, size), there in zip(found, present, strict=True)
    )
    return Table("Which tokens carry it", ("role", "edges", "share of the effects", "in prompts"), rows)


def edge_table(circuit: RoleCircuit) -> Table:
    """The kept edges, the largest first."""
    graph, steady = circuit.graph, circuit.stability
    places = sorted(np.argwhere(circuit.mask).tolist(), key=lambda place: -abs(float(circuit.scores[tuple(place)])))
    rows = tuple(
        (
            graph.plain.writers[place[0]],
            graph.plain.reader_names[place[1]],
            *_where(circuit, place[1], place[2]).values(),
            float(circuit.scores[tuple(place)]),
            *((float(steady.inclusion[tuple(place)]),) if steady else ()),
        )
        for place in places[:MOST_ROWS]
    )
    left = len(places) - len(rows)
    return Table(
        f"{len(places):,} {graph.edges_called}",
        (
            "writer",
            "reader",
            "read at",
            *(("attended from",) if graph.pairs else ()),
            f"effect ({circuit.unit})",
            *(("in resamples",) if steady else ()),
        ),
        rows,
        note=f"{circuit.convention}." + (f" The {left:,} smallest are left out here." if left else ""),
        folded=True,
    )


def network(circuit: RoleCircuit) -> Network:
    """The kept edges between nodes at roles; a key or value is a line to the head at every later role that it has."""
    graph, plain = circuit.graph, circuit.graph.plain
    drawn = to_networkx(circuit)
    order = {
        f"{name} @ {role}": (w, r)
        for w, name in enumerate((*plain.writers, "logits"))
        for r, role in enumerate(graph.roles)
    }
    ends = sorted(drawn, key=lambda name: order[name])
    place = {name: number for number, name in enumerate(ends)}
    marks = tuple(_mark(circuit, *order[name]) for name in ends)
    edges = tuple(
        EdgeMark(place[source], place[target], line["score"], _crossing(source, target, line["readers"]))
        for source, target, line in sorted(drawn.edges(data=True), key=lambda each: -abs(each[2]["score"]))
    )
    used = sorted({mark.column for mark in marks})  # a column where nothing stands would be empty
    columns = tuple(graph.roles[at] for at in used)
    marks = tuple(replace(mark, column=used.index(mark.column)) for mark in marks)
    return Network(
        "The circuit's wiring, by token",
        marks,
        (View("the circuit", edges),),
        kinds=NODE_KINDS,
        rows=row_names(plain),
        columns=columns,
        value_title="effect",
        unit=circuit.unit,
        note="A full line helps the answer, a dashed one that ends in a bar holds it back. The strongest paths come "
        f"first, a path being as strong as its weakest line; {len(edges):,} lines between {len(marks)} nodes in all. "
        + (
            "A key or value is a line from the token where it stands to the one that reads it there."
            if graph.pairs
            else "A key or value is a line to its head at every later token that matters."
        ),
    )


def _mark(circuit: RoleCircuit, node: int, role: int) -> NodeMark:
    plain, named = circuit.graph.plain, circuit.graph.roles[role]
    name = "logits" if node == len(plain.writers) else plain.writers[node]
    where = "logits" if name == "logits" else f"layer {place_of(name)[0]}" if place_of(name)[0] >= 0 else "inputs"
    return NodeMark(
        f"{name} @ {named}", row_of(plain, name), palette_of(name), f"{where}, {named}", column=role, label=name
    )


def _crossing(source: str, target: str, readers: str) -> str:
    said, (_, here), (_, there) = into(readers), source.split(" @ "), target.split(" @ ")
    return said if here == there else f"{said}, read at the {here}".lstrip(", ")


def card(circuit: RoleCircuit) -> Card:
    """Method, prompts and provenance."""
    items = [
        ("method", circuit.method),
        ("settings", settings_in_words(circuit.settings)),
        ("graph", str(circuit.graph)),
        ("prompts", "; ".join(f"{prompt.subject} ({len(prompt.tokens)} tokens)" for prompt in circuit.prompts)),
        ("metric", f"{circuit.metric} ({circuit.unit})"),
        ("ablation", f"{circuit.ablation}, by token role"),
        ("score", circuit.convention),
    ]
    if circuit.stability is not None:
        items.append(("stability", f"Jaccard {circuit.stability.jaccard:.2f} of two circuits of resampled prompts"))
    return provenance(circuit.run, *items)
