"""Circuits by roles as files of others: networkx, GraphML, GEXF and JSON.

A node is a head, an MLP, the embedding or the logits at a role, "m5 @ last subject". A line joins two of them, has the
largest effect of its edges as its score, and lists them by name with their own scores, so that GraphML and JSON come
back edge by edge (`read`). A key's or value's edge that no attending role is told of is a line to each later role that
leads on.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.by_role.graph import RoleGraph
from circuits.formats import read_graphml, read_listed, read_score
from circuits.graph import Graph
from factscope.errors import StoreError, UserError
from factscope.files import parsed_json, write_text_atomically

if TYPE_CHECKING:
    from circuits.by_role.circuit import RoleCircuit

FORMATS = ("json", "graphml", "gexf")
JSON_KIND = "factscope circuit by roles"


def to_networkx(circuit: "RoleCircuit") -> "networkx.DiGraph":
    """The kept edges that lead to the logits, between nodes at roles, in the order of computation."""
    graph, plain = circuit.graph, circuit.graph.plain
    kept = graph.pruned(circuit.mask)
    alive, _ = graph.alive(kept)
    drawn = networkx.DiGraph(**{key: str(value) for key, value in described(circuit).items()})
    for writer, number, place in np.argwhere(kept).tolist():
        reader, role = plain.readers[number], graph.places[place].role
        named, score = graph.edge_name(writer, number, place), float(circuit.scores[writer, number, place])
        source = f"{plain.writers[writer]} @ {graph.roles[role]}"
        targets = [
            (node, at) for node in plain.nodes_of(reader) for at in np.flatnonzero(graph.reaching(reader)[place])
        ]
        there = [f"{plain.writers[node]} @ {graph.roles[at]}" for node, at in targets if alive[node, at]]
        for target in there if targets else [f"logits @ {graph.roles[role]}"]:
            if not drawn.has_edge(source, target):
                drawn.add_edge(source, target, score=score, readers=reader.name, edges={})
            line = drawn[source][target]
            line["score"] = max(line["score"], score, key=abs)
            line["readers"] = " ".join(dict.fromkeys([*line["readers"].split(), reader.name]))
            line["edges"][named] = score
    return drawn


def described(circuit: "RoleCircuit") -> dict[str, Any]:
    """What a reader of the file must know."""
    return {
        "method": circuit.method,
        "convention": circuit.convention,
        "unit": circuit.unit,
        "metric": circuit.metric,
        "ablation": circuit.ablation,
        "prompts": json.dumps([prompt.text for prompt in circuit.prompts], ensure_ascii=False),
        "model": circuit.run.model if circuit.run else "unknown",
        "fingerprint": circuit.run.fingerprint if circuit.run else "unknown",
        "settings": json.dumps(circuit.settings, ensure_ascii=False),
        "layout": json.dumps(circuit.graph.described()),
    }


def export(circuit: "RoleCircuit", path: str | Path, form: str) -> Path:
    """Write the circuit in one of `FORMATS`, whole or not at all."""
    if form == "json":
        return write_text_atomically(path, json.dumps(to_json(circuit), ensure_ascii=False, indent=1) + "\n")
    if form not in FORMATS:
        raise UserError(f"a circuit by roles is written as {', '.join(FORMATS)} or html, and not as {form}")
    drawn = to_networkx(circuit)
    for _, _, line in drawn.edges(data=True):
        line["edges"] = json.dumps(line["edges"], ensure_ascii=False)
    lines = networkx.generate_graphml(drawn) if form == "graphml" else networkx.generate_gexf(drawn)
    return write_text_atomically(path, "\n".join(lines) + "\n")


def to_json(circuit: "RoleCircuit") -> dict[str, Any]:
    """Kept edges by name with their scores; `read` has them back."""
    graph = circuit.graph
    edges = [
        {"edge": graph.edge_name(*place), "score": float(circuit.scores[tuple(place)])}
        for place in np.argwhere(circuit.mask).tolist()
    ]
    return {"kind": JSON_KIND, **described(circuit), "edges": edges}


def read(
    path: str | Path,
) -> tuple[RoleGraph, Bool[np.ndarray, "writer reader place"], Float[Tensor, "writer reader place"]]:
    """The graph, the kept edges and their scores, from a file that `export` wrote as GraphML or JSON.

    Raises StoreError for a file that is none, and GraphError for an edge that its graph does not have.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as trouble:
        raise StoreError(f"{path} cannot be read ({trouble})") from trouble
    layout, edges = _from_json(text, path) if text.lstrip().startswith("{") else _from_graphml(text, path)
    try:
        told = parsed_json(str(layout))
        plain, roles, pairs = Graph(**told["plain"]), tuple(told["roles"]), bool(told.get("pairs", False))
    except (AttributeError, KeyError, TypeError, ValueError) as trouble:
        raise StoreError(f'the "layout" of {path} is missing or is not one that circuit export writes') from trouble
    graph = RoleGraph(plain, roles, pairs)
    kept, scores = graph.empty(), torch.zeros(graph.allowed.shape)
    for name, score in edges.items():
        place = graph.edge(name)
        kept[place], scores[place] = True, score
    return graph, kept, scores


def _from_json(text: str, path: str | Path) -> tuple[Any, dict[str, float]]:
    try:
        document = parsed_json(text)
    except ValueError as trouble:
        raise StoreError(f"{path} is not readable JSON ({trouble})") from trouble
    if document.get("kind") != JSON_KIND:
        raise StoreError(f"{path} is no circuit by roles as circuit export writes it")
    return document.get("layout"), read_listed(document.get("edges"), str(path))


def _from_graphml(text: str, path: str | Path) -> tuple[Any, dict[str, float]]:
    drawn = read_graphml(text, str(path))
    found: dict[str, float] = {}
    for source, target, line in drawn.edges(data=True):
        where = f"the line from {source} to {target} in {path}"
        try:
            each = parsed_json(str(line["edges"])).items()
        except (AttributeError, KeyError, ValueError) as trouble:
            raise StoreError(f"{where} does not list its edges, as a circuit by roles does") from trouble
        found |= {name: read_score(score, f"{name!r} in {where}") for name, score in each}
    return drawn.graph.get("layout"), found
