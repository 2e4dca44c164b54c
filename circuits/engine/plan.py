"""What has to be computed again when one reader's input changes: which nodes, in which order, at which positions.

A cut edge carries a constant, so only nodes that hear the change over kept edges change. The loss reads the last
position; a node whose every listener needs only that position (the logits, an MLP or a query that leads there) is
computed there alone. Keys and values need all.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from circuits.engine.writes import Mask
from circuits.graph import Graph

STEPS: dict[str, Literal["mlp", "beside"]] = {"mlp": "mlp", "beside": "beside"}  # readers that are a step of their own


@dataclass(frozen=True, eq=False)
class Step:
    """Nodes of one layer that change together: heads, the MLP, or what is beside it; all positions or the last."""

    kind: Literal["heads", "mlp", "beside"]
    layer: int
    last: bool
    nodes: list[int]  # writers, in the order of their heads
    readers: dict[str, list[int]]  # changed readers, by kind ("q", "k", "v", "head", "mlp")
    hears: dict[int, list[int]] = field(default_factory=dict)  # for each changed reader, the changed writers it hears


@dataclass(frozen=True, eq=False)
class Plan:
    """What must be computed when one reader's input changes, in order."""

    reader: int
    last: bool  # the reader itself matters at the last position alone
    steps: list[Step]
    seen: list[int]  # changed writers, in order
    logits: list[int]  # changed writers that the logits hear
    positions: int  # of one variant that the widest step computes
    cost: int = 0  # vectors that one variant's changes take


def plan(graph: Graph, kept: Mask, number: int, n_positions: int) -> Plan:
    """What to compute when reader `number` changes in the circuit `kept`."""
    kept = kept & graph.allowed
    alive = graph.alive(kept)
    wide_reader, wide_node = _positions(graph, kept, alive)
    changed = np.zeros(len(graph.writers), dtype=bool)
    start = graph.readers[number]
    steps: list[Step] = []
    seen: list[int] = []
    for layer in range(start.layer, graph.n_layers):
        of_layer = [i for i, reader in enumerate(graph.readers) if reader.layer == layer]
        mlps = [i for i in of_layer if graph.readers[i].kind in STEPS]
        moved = {i: graph.moved_by(graph.readers[i]) for i in of_layer}
        hears = {i: np.flatnonzero(kept[:, i] & changed).tolist() for i in of_layer}
        for last in (False, True):
            heads = [
                node
                for node in range(graph.head_writer(layer), graph.head_writer(layer, graph.n_heads))
                if alive[node]
                and wide_node[node] != last
                and any(hears[i] or i == number for i in of_layer if node in moved[i])
            ]
            if heads:
                steps.append(_head_step(graph, layer, last, heads, number, hears))
                seen += heads
        if not graph.parallel:
            changed[seen] = True
            hears |= {i: np.flatnonzero(kept[:, i] & changed).tolist() for i in mlps}
        for mlp in mlps:
            kind = graph.readers[mlp].kind
            nodes = [node for node in graph.nodes_of(graph.readers[mlp]) if alive[node]]
            if nodes and (mlp == number or hears[mlp]):
                last = kind == "mlp" and not wide_node[nodes].any()  # what is beside it may look at the whole prompt
                steps.append(Step(STEPS[kind], layer, last, nodes, {kind: [mlp]}, {mlp: hears[mlp]}))
                seen += nodes
        changed[seen] = True
    heard = [node for node in seen if kept[node, graph.reader_index["logits"]]]
    widths = [1 if step.last else n_positions for step in steps]
    cost = sum(len(step.nodes) * width for step, width in zip(steps, widths, strict=True))
    return Plan(number, not wide_reader[number], steps, seen, heard, max(widths, default=1), cost)


def _head_step(graph: Graph, layer: int, last: bool, heads: list[int], start: int, hears: dict[int, list[int]]) -> Step:
    readers: dict[str, list[int]] = {}
    for number, writers in hears.items():
        kind = graph.readers[number].kind
        there = set(graph.moved_by(graph.readers[number])) & set(heads)
        if kind not in STEPS and (writers or number == start) and there:
            readers.setdefault(kind, []).append(number)
    return Step("heads", layer, last, heads, readers, hears)


def _positions(graph: Graph, kept: Mask, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which readers and which nodes are needed at all positions, and not the last alone."""
    reader = np.zeros(len(graph.readers), dtype=bool)
    node = np.zeros(len(graph.writers), dtype=bool)
    for number in range(len(graph.readers) - 1, -1, -1):
        nodes = list(graph.moved_by(graph.readers[number]))
        if graph.coupled and nodes:
            node[nodes] = node[nodes].any()  # a norm that heads share needs all of them where it needs one
        if nodes and alive[nodes].any():
            kind = graph.readers[number].kind
            reader[number] = kind in ("k", "v", "head", "beside") or node[nodes].any()
            if reader[number]:
                node |= kept[:, number]
    return reader, node
