"""Circuits to and from the files of others: networkx, GraphML, GEXF, GraphViz DOT, JSON; no GraphViz is needed.

What goes out: the drawn edges (on a path from the inputs to the logits), each with its score; the graph's attributes
say model, task, metric, ablation and the sign of a score. What comes in: our own JSON and GraphML, the `.gv` drawings
of Knowledge Circuits, and the `.json` graphs of EAP-IG. GraphML has one line between two nodes, so what a head's query,
key and value hear comes back with one score, the largest; GEXF and DOT are for drawing. A drawing of Knowledge Circuits
has no queries, keys and values and has lost exact scores below 0.3 (they are pen widths), which a note then says.
"""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError
from xml.parsers.expat import ExpatError, ParserCreate

import networkx
import numpy as np
import torch

from circuits.circuit import Circuit
from circuits.graph import Graph
from circuits.task import Task
from factscope.errors import GraphError, StoreError, UserError
from factscope.files import parsed_json, write_text_atomically
from factscope.model.prompts import Prompt

FORMATS = ("json", "graphml", "gexf", "dot")
JSON_KIND = "factscope circuit"
XML_DEPTH = 32  # of elements; GraphML has four
DOT_BEGINS = "digraph circuit {"  # our own drawing, which is not read back


def to_networkx(circuit: Circuit) -> "networkx.DiGraph":
    """The drawn edges between nodes (a head's q, k and v in one node), the reader's name and the score on each edge."""
    graph = networkx.DiGraph(**{key: str(value) for key, value in described(circuit).items()})
    drawn = circuit.drawn  # made anew at every asking
    for writer, number in np.argwhere(drawn).tolist():
        reader = circuit.graph.readers[number]
        score = float(circuit.scores[writer, number])
        for node in circuit.graph.nodes_of(reader) or (None,):
            if node is not None and not drawn[node].any():
                continue  # a member of the key/value group that leads nowhere
            target = "logits" if node is None else circuit.graph.writers[node]
            source = circuit.graph.writers[writer]
            if graph.has_edge(source, target):
                known = graph[source][target]
                known["readers"] += f" {reader.name}"
                known["score"] = max(known["score"], score, key=abs)
            else:
                graph.add_edge(source, target, score=score, readers=reader.name)
    return graph


def described(circuit: Circuit) -> dict[str, Any]:
    """What a reader of the file must know."""
    return {
        "method": circuit.method,
        "convention": circuit.convention,
        "unit": circuit.unit,
        "metric": circuit.task.metric,
        "ablation": circuit.task.ablation,
        "prompt": circuit.task.prompts[0].text,
        "answer": circuit.task.prompts[0].answer,
        "model": circuit.run.model if circuit.run else "unknown",
        "fingerprint": circuit.run.fingerprint if circuit.run else "unknown",
        "settings": json.dumps(circuit.settings, ensure_ascii=False),
        "layout": json.dumps(circuit.graph.described()),
    }


def export(circuit: Circuit, path: str | Path, form: str) -> Path:
    """Write the circuit in one of `FORMATS`, whole or not at all."""
    if form == "json":
        return write_text_atomically(path, json.dumps(to_json(circuit), ensure_ascii=False, indent=1) + "\n")
    if form == "graphml":
        return write_text_atomically(path, "\n".join(networkx.generate_graphml(to_networkx(circuit))) + "\n")
    if form == "gexf":
        return write_text_atomically(path, "\n".join(networkx.generate_gexf(to_networkx(circuit))) + "\n")
    if form == "dot":
        return write_text_atomically(path, to_dot(circuit))
    raise UserError(f"there is no format {form!r}; choose one of {', '.join(FORMATS)}, html")


def to_json(circuit: Circuit) -> dict[str, Any]:
    """Kept edges by name with their scores; `mask_from` and `import` read it back."""
    graph = circuit.graph
    edges = [
        {"edge": graph.edge_name(writer, number), "score": float(circuit.scores[writer, number])}
        for number, writer in np.argwhere(circuit.mask.T).tolist()
    ]
    return {"kind": JSON_KIND, "graph": graph.described(), **described(circuit), "edges": edges}


def to_dot(circuit: Circuit) -> str:
    """GraphViz source; widths follow the scores."""
    largest = float(circuit.scores.abs().max()) or 1.0
    lines = [DOT_BEGINS, "  rankdir=BT;", f"  label={_quoted(circuit.task.prompts[0].text)};"]
    for writer, number in np.argwhere(circuit.drawn).tolist():
        score = float(circuit.scores[writer, number])
        width = 0.3 + 3 * abs(score) / largest
        source, target = circuit.graph.writers[writer], circuit.graph.reader_names[number]
        lines.append(f'  "{source}" -> "{target}" [score="{score:.6g}", penwidth="{width:.2f}"];')
    for number, reader in enumerate(circuit.graph.readers):
        if circuit.drawn[:, number].any() and reader.kind in "qkv":
            for node in circuit.graph.nodes_of(reader):
                if circuit.drawn[node].any():
                    lines.append(f'  "{reader.name}" -> "{circuit.graph.writers[node]}" [style="dotted"];')
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


# ---- from others ----


def imported(path: str | Path, graph: Graph, task: Task) -> Circuit:
    """A circuit from a file, for the graph of a model and a task of its prompt; losses are unknown (nan).

    Raises StoreError (no such file, no format that we read) and GraphError (an edge that the graph does not have).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as trouble:
        raise StoreError(f"{path} cannot be read ({trouble})") from trouble
    edges, source, notes = read_edges(text, str(path))
    kept, scores = graph.empty(), torch.zeros(graph.allowed.shape, dtype=torch.float64)
    for name, score in edges.items():
        writer, number = _edge(graph, name, ungrouped=source == "EAP-IG")
        for each in number:
            kept[writer, each] = True
            scores[writer, each] = score
    nan = float("nan")
    return Circuit(
        graph=graph,
        task=task,
        method="imported",
        convention="as the file has it",
        settings={"format": source, "edges": len(edges)},
        kept=torch.from_numpy(kept),
        scores=scores,
        tested=torch.from_numpy(kept.copy()),
        unit="",
        loss_full=nan,
        loss_circuit=nan,
        loss_empty=nan,
        rank_full=(),
        rank_circuit=(),
        certificate=None,
        notes=tuple(notes),
        run=None,
    )


def read_edges(text: str, where: str) -> tuple[dict[str, float], str, list[str]]:
    """Edges in our names with their scores, which format it was, and what a reader must know."""
    if text.lstrip().startswith("{"):
        try:
            document = parsed_json(text)
        except ValueError as trouble:
            raise StoreError(f"{where} is not readable JSON ({trouble})") from trouble
        if document.get("kind") == JSON_KIND:
            return read_listed(document.get("edges"), where), "factscope", []
        if isinstance(document.get("edges"), dict):
            return _eap_ig(document["edges"], where), "EAP-IG", []
    elif text.lstrip().startswith("<"):
        note = "a line between two nodes has one score, the largest of the edges that it stands for"
        return _lines(read_graphml(text, where), where), "GraphML", [note]
    elif text.lstrip().startswith(DOT_BEGINS):
        raise StoreError(
            f"{where} is Factscope's own DOT, which is for drawing and has only the drawn edges: what is read back is "
            "the JSON of circuit export --format json"
        )
    elif "digraph" in text[:200]:
        note = "scores are pen widths: below 0.3 they were lost, and what did not hang together was left out"
        return _drawing(text), "Knowledge Circuits", [note]
    raise StoreError(
        f"{where} is neither a circuit of ours (JSON, GraphML), nor a drawing (.gv), nor a graph of EAP-IG"
    )


def graph_of(text: str, name: str = "the file") -> Graph:
    """The smallest graph that the file's edges fit, for a file whose model is not at hand."""
    edges, source, _ = read_edges(text, name)
    if source == "GraphML":
        layout = read_graphml(text, name).graph.get("layout")
        try:
            return Graph(**parsed_json(layout))
        except (TypeError, ValueError) as trouble:
            raise StoreError(f"{name} does not say the graph's layout as circuit export writes it") from trouble
    document = parsed_json(text) if text.lstrip().startswith("{") else {}
    if source == "factscope":
        try:
            return Graph(**document["graph"])
        except (KeyError, TypeError) as trouble:
            raise StoreError(f'the "graph" of {name} is missing or is not one that circuit export writes') from trouble
    names = [part for name in edges for part in name.split("->")]
    layers = [int(found[1]) for name in names if (found := re.match(r"[abm](\d+)", name))]
    heads = [int(found[1]) for name in names if (found := re.match(r"a\d+\.h(\d+)", name))]
    config = document.get("cfg", {})
    if not isinstance(config, dict):
        raise StoreError(f'the "cfg" of {name} is no object with the settings of a model')
    n_heads = config.get("n_heads", 1 + max(heads, default=0))
    return Graph(
        n_layers=config.get("n_layers", 1 + max(layers, default=0)),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        parallel=bool(config.get("parallel_attn_mlp", False)),
        split=source == "EAP-IG",
    )


def unknown_task(text: str) -> Task:
    """The task of a circuit whose file does not say more than its prompt."""
    prompt = Prompt(text, (), (), None, "", (0, 0), (0, 0), "unknown", None, (0,), "unknown")
    return Task((prompt,), ablation="unknown")


def read_listed(edges: Any, where: str) -> dict[str, float]:
    """Our own list of edges; StoreError names the entry that is none."""
    if not isinstance(edges, list):
        raise StoreError(f'{where} has no list "edges" of a circuit')
    found: dict[str, float] = {}
    for number, entry in enumerate(edges, 1):
        name = entry.get("edge") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise StoreError(f'edge {number} in {where} has no name "edge", as "embed->logits": {str(entry)[:80]}')
        score = entry.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise StoreError(f'edge {number} in {where}, {name!r}, has no number "score": {str(entry)[:80]}')
        found[name] = float(score)
    return found


def read_graphml(text: str, where: str) -> "networkx.DiGraph":
    """A graph from GraphML; StoreError for anything else."""
    if "<gexf" in text[:500]:
        raise StoreError(f"{where} is GEXF, which is for drawing; what is read back is JSON or GraphML")
    try:
        _harmless(text)
        return networkx.parse_graphml(text)
    except (networkx.NetworkXError, ParseError, ExpatError, KeyError, ValueError) as trouble:
        raise StoreError(f"{where} is no GraphML ({' '.join(str(trouble).split())[:200]})") from trouble


def _harmless(text: str) -> None:
    """ValueError for XML that GraphML has no need of and that costs more to read than its size: entities and depth."""
    depth = 0

    def refuse(*_: Any) -> None:
        raise ValueError("it declares a document type, which may define entities without end")

    def enter(*_: Any) -> None:
        nonlocal depth
        depth += 1
        if depth > XML_DEPTH:
            raise ValueError(f"its elements are nested more than {XML_DEPTH} deep")

    def leave(_: str) -> None:
        nonlocal depth
        depth -= 1

    parser = ParserCreate()
    parser.StartDoctypeDeclHandler, parser.StartElementHandler, parser.EndElementHandler = refuse, enter, leave
    parser.Parse(text.encode("utf-8", errors="replace"), True)


def _lines(graph: "networkx.DiGraph", where: str) -> dict[str, float]:
    """Our edges of the lines between nodes: to each of the readers that a line names."""
    found: dict[str, float] = {}
    for source, target, about in graph.edges(data=True):
        if "readers" not in about or "score" not in about:
            raise StoreError(f"the line from {source} to {target} in {where} does not name its readers and score")
        for reader in str(about["readers"]).split():
            found[f"{source}->{reader}"] = read_score(about["score"], f"the line from {source} to {target} in {where}")
    return found


def read_score(found: Any, owner: str) -> float:
    """A score as a number; StoreError says whose is none."""
    try:
        return float(found)
    except (TypeError, ValueError, OverflowError):
        raise StoreError(f"{owner} has the score {str(found)[:40]!r}, which is no number") from None


def _eap_ig(edges: dict[str, Any], where: str) -> dict[str, float]:
    """ "input->a0.h1<q>": our "embed->a0.h1.q"; only those that are in the graph."""
    found = {}
    for name, entry in edges.items():
        kept = entry.get("in_graph") if isinstance(entry, dict) else entry
        if kept:
            ours = re.sub(r"<([qkv])>$", r".\1", name).replace("input->", "embed->")
            score = entry.get("score") if isinstance(entry, dict) else None
            found[ours] = read_score(score, f"edge {name!r} in {where}") if score is not None else 0.0
    return found


def _drawing(text: str) -> dict[str, float]:
    """Nodes <a3.5>, <m7>, embed, <resid_post>, or a3.h5, input, logits as EAP writes them.

    The pen's width is twice the effect, at least 0.6.
    """
    found = {}
    name = r'"?<?([\w.]+)>?"?'
    # No pattern here may begin at many places and run far: a file of empty lines would take the square of its length.
    for source, target, attributes in re.findall(rf"^[ \t]*{name}\s*->\s*{name}\s*(\[[^][]*\])?", text, re.M):
        width = re.search(r'penwidth="?([\d.eE+-]+)', attributes)
        found[f"{_ours(source)}->{_ours(target)}"] = read_score(width[1], f"{source} -> {target}") / 2 if width else 0.0
    if not found:
        raise StoreError("the drawing has no edges that we can read")
    return found


def _ours(name: str) -> str:
    if name in ("resid_post", "logits", "input", "embed"):
        return "embed" if name in ("input", "embed") else "logits"
    return re.sub(r"^a(\d+)\.(?!h)(\d+)$", r"a\1.h\2", name)


def _edge(graph: Graph, name: str, ungrouped: bool) -> tuple[int, list[int]]:
    """Writer and readers; an edge into a whole head goes to all its inputs, an ungrouped key to its group's."""
    source, _, target = name.partition("->")
    if graph.split and re.fullmatch(r"a\d+\.h\d+", target):
        layer, head = (int(number) for number in re.findall(r"\d+", target))
        pair = head // graph.group
        targets = [f"{target}.q", f"a{layer}.h{pair}.k", f"a{layer}.h{pair}.v"]
    elif graph.split and ungrouped and (found := re.fullmatch(r"a(\d+)\.h(\d+)\.([kv])", target)):
        targets = [f"a{found[1]}.h{int(found[2]) // graph.group}.{found[3]}"]
    elif not graph.split:
        targets = [re.sub(r"\.[qkv]$", "", target)]
    else:
        targets = [target]
    pairs = [graph.edge(f"{source}->{each}") for each in targets]
    if not pairs:
        raise GraphError(f"there is no edge {name!r} in {graph}")
    return pairs[0][0], [number for _, number in pairs]
