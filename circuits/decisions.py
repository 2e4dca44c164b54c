"""What a search has decided, and what another may take over: from its own journal, or from one with another threshold.

A journal belongs to whatever could change a decision (`journal_key`). A search that goes on keeps the decisions of
whole layers; one with another threshold keeps those that it would have made alike, up to the first difference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from circuits.engine.writes import Mask
from circuits.graph import Graph
from circuits.task import REFERRING, Task
from factscope.runs.journal import Journal


@dataclass(frozen=True)
class Decision:
    """One tested edge: what cutting it cost over the circuit so far, and whether it was kept."""

    writer: int
    reader: int
    increment: float  # of the loss, signed
    kept: bool
    tie: bool = False  # within the guard, so the plain engine decided


def layer_of(graph: Graph, number: int) -> int:
    """The layer that a reader is searched with; the logits go with the last."""
    return min(graph.readers[number].layer, graph.n_layers - 1)


def is_dead(graph: Graph, kept: Mask, number: int) -> bool:
    """Whether nothing that a reader feeds still reaches the logits."""
    nodes = list(graph.moved_by(graph.readers[number]))
    return bool(nodes) and not graph.alive(kept)[nodes].any()


def recorded(journal: Journal) -> list[Decision]:
    """The decisions in a journal.

    Each line says where its decisions stand among all; those of a layer that was begun anew replace the first ones.
    """
    found: list[Decision] = []
    for line in journal.done:
        found[line["place"] :] = [Decision(**each) for each in line["decisions"]]
    return found


def whole_layers(graph: Graph, decisions: list[Decision]) -> list[Decision]:
    """The decisions without those of a last layer that was not finished."""
    kept, place, whole, layer = graph.full(), 0, 0, None
    for number in range(len(graph.readers) - 1, -1, -1):
        if layer != layer_of(graph, number):
            layer, whole = layer_of(graph, number), place
        if is_dead(graph, kept, number):
            kept[:, number] = False
            continue
        end = place + graph.below(graph.readers[number])
        if end > len(decisions):
            return decisions[:whole]
        for decision in decisions[place:end]:
            kept[decision.writer, number] = decision.kept
        place = end
    return decisions


def shared_prefix(decisions: Sequence[Decision], threshold: float, margin: float) -> Iterator[Decision]:
    """The decisions that a search with `threshold` makes alike; stops before one too near to tell."""
    for decision in decisions:
        if (decision.increment >= threshold) != decision.kept or abs(decision.increment - threshold) < margin:
            return
        yield decision


def key_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What keeps one search (see `journal_key`) from taking over another's decisions, in words; a threshold does not.

    The corrupt and the reference prompts count only under the ablations that read them.
    """
    unread = {"threshold"}
    if now["ablation"] not in REFERRING:
        unread.add("reference")
    if now["ablation"] != "counterfactual":
        unread.add("corrupt")
    named = {"corrupt": "corrupt prompts", "reference": "reference prompts", "answers": "answers or foils"}
    return [named.get(key, key) for key in now if key not in unread and before[key] != now[key]]


def journal_key(task: Task, graph: Graph, threshold: float, fingerprint: str) -> dict[str, Any]:
    """What a journal belongs to: anything that could change a decision."""
    return {
        "search": "acdc",
        "model": fingerprint,
        "graph": graph.described(),
        "prompts": [list(p.tokens) for p in task.prompts],
        "answers": [[p.answer_ids[0], p.foil_ids[0] if p.foil_ids else None] for p in task.prompts],
        "corrupt": [list(p.tokens) for p in task.corrupt],
        "reference": [list(p.tokens) for p in task.reference],
        "metric": task.metric,
        "ablation": task.ablation,
        "threshold": threshold,
    }
