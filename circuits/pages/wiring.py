"""How a circuit is drawn: its nodes in rows by layer, the strongest paths first, and a map of all edges by layer."""

from typing import Any

import networkx
import numpy as np

from circuits.analysis.head_roles import Roles
from circuits.circuit import Circuit
from circuits.formats import to_networkx
from circuits.graph import Graph, place_of
from factscope.plots.figures.network import STEPS, EdgeMark, Network, NodeMark, View
from factscope.plots.specs import Heatmap, Palette, Spec

NODE_KINDS: tuple[tuple[Palette, str], ...] = (("red", "head"), ("green", "MLP"), ("purple", "embedding and logits"))
BESIDE: tuple[Palette, str] = ("orange", "what an edit lets stand beside an MLP")
NOT_PART = "only constants: kept by the search, on no path from the inputs to the logits"


def network(circuit: Circuit, roles: Roles | None = None) -> Network:
    """The drawn part of the circuit."""
    graph = circuit.graph
    drawn = to_networkx(circuit)
    names = [name for name in (*graph.writers, "logits") if name in drawn]
    said = _said(drawn, roles)
    nodes = tuple(NodeMark(name, row_of(graph, name), palette_of(name), "\n".join(said[name])) for name in names)
    place = {name: number for number, name in enumerate(names)}
    edges = tuple(_edge(circuit, place, source, target, data) for source, target, data in drawn.edges(data=True))
    constant = circuit.n_edges - int(circuit.drawn.sum())
    return Network(
        "The circuit's wiring",
        nodes,
        (View("the circuit", edges),),
        kinds=kinds_of(graph),
        rows=row_names(graph),
        value_title="effect",
        unit=circuit.unit,
        note="A full line helps the answer, a dashed one that ends in a bar holds it back. The strongest paths come "
        f"first, a path being as strong as its weakest line; {len(edges):,} lines between "
        f"{len(nodes)} nodes in all, the logits among them. A head's q, k and v are one node, and a key or value that "
        "several heads share is a line to each of those that lead on."
        + (" Faint lines are in few of the resampled circuits." if circuit.stability is not None else "")
        + (f" {constant} edges are not drawn ({NOT_PART})." if constant else ""),
    )


def _edge(circuit: Circuit, place: dict[str, int], source: str, target: str, line: dict[str, Any]) -> EdgeMark:
    """A line between two nodes: its largest effect, the inputs that it goes into, and how sure its edges are."""
    said, share = into(line["readers"]), 1.0
    if circuit.stability is not None:
        readers = [circuit.graph.reader_index[name] for name in line["readers"].split()]
        share = float(circuit.stability.inclusion[circuit.graph.writer_index[source], readers].max())
        said = f"{said}\nin {share:.0%} of resampled circuits".strip()
    return EdgeMark(place[source], place[target], float(line["score"]), said, share=share)


def _said(drawn: "networkx.DiGraph", roles: Roles | None) -> dict[str, list[str]]:
    """What is said of each node: its lines, its role and what it writes."""
    role_of = {head.name: head for head in roles.heads} if roles else {}
    about = {part.name: part for part in roles.components} if roles else {}
    said = {}
    for name in drawn:
        lines = [f"in {drawn.in_degree(name)}, out {drawn.out_degree(name)} lines"]
        if name in role_of:
            head = role_of[name]
            lines += [f"role: {head.role}"] if head.role != "none" else []
            lines += [
                f"the last token attends to the subject {head.attention_subject:.0%}, to the relation "
                f"{head.attention_relation:.0%}",
            ]
        if name in about:
            part = about[name]
            lines += [
                f"towards the answer: {part.direct_effect:+.3g} logits, rank {part.rank}",
                "writes: " + " ".join(repr(token) for token in part.top[:6]),
            ]
        said[name] = lines
    return said


def into(readers: str) -> str:
    """Which inputs of a head a line goes into, where it has several."""
    kinds = [reader.rsplit(".", 1)[-1] for reader in readers.split()]
    inputs = [kind for kind in dict.fromkeys(kinds) if kind in ("q", "k", "v")]
    return f"into {', '.join(inputs)}" if inputs else ""


def row_of(graph: Graph, name: str) -> float:
    """The row of a node in a drawing: by layer, MLPs half a row above the heads that they hear."""
    if name == "logits":
        return float(graph.n_layers)
    layer, head = place_of(name)
    return layer + (0.5 if head is None and layer >= 0 and not graph.parallel else 0.0)


def row_names(graph: Graph) -> tuple[tuple[float, str], ...]:
    """The name of each row of a drawing that is a layer's."""
    return tuple((layer + half, f"layer {layer}") for layer in range(graph.n_layers) for half in (0.0, 0.5))


def kinds_of(graph: Graph) -> tuple[tuple[Palette, str], ...]:
    """The legend of a drawing's nodes."""
    return (*NODE_KINDS, BESIDE) if graph.beside else NODE_KINDS


def palette_of(name: str) -> Palette:
    """The colour, and with it the shape, of a node: heads red, MLPs green, beside them orange, the ends purple."""
    by_letter: dict[str, Palette] = {"a": "red", "m": "green", "b": "orange"}
    return "purple" if name in ("embed", "positions", "logits") else by_letter[name[0]]


def matrix(circuit: Circuit) -> tuple[Spec, ...]:
    """For a circuit too large to be drawn whole: the effects of its edges, summed by the layers of both ends."""
    graph, drawn = circuit.graph, circuit.drawn
    if int(drawn.sum()) <= STEPS[-1]:
        return ()
    total = np.full((graph.n_layers + 1, graph.n_layers + 1), np.nan)
    count, most = np.zeros_like(total, dtype=int), np.full(total.shape, "", dtype=object)
    largest = np.zeros_like(total)
    for writer, number in np.argwhere(drawn).tolist():
        reader, name = graph.readers[number], graph.writers[writer]
        at = reader.layer, place_of(name)[0] + 1
        size = abs(float(circuit.scores[writer, number]))
        total[at] = size + np.nan_to_num(total[at])
        count[at] += 1
        if size >= largest[at]:
            largest[at], most[at] = size, f"{name} to {reader.name}, {float(circuit.scores[writer, number]):+.3g}"
    layers = tuple(str(layer) for layer in range(graph.n_layers))
    return (
        Heatmap(
            "All edges, by the layers of both ends",
            total,
            rows=(*layers, "logits"),
            columns=("embed", *layers),
            row_title="read in layer",
            column_title="written in layer",
            value_title="sum of sizes",
            unit=circuit.unit,
            hover={"edges": count, "largest": most},
            note=f"Each of the {int(drawn.sum()):,} edges once. An MLP reads the heads of its own layer, "
            "at the right end of each row.",
        ),
    )
