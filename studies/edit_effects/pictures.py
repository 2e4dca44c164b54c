"""The pictures of an edit study: traces and wiring on one scale and one layout, both answers through the layers."""

import numpy as np

from circuits.analysis.head_changes import HeadChange
from circuits.formats import to_networkx
from circuits.pages.wiring import into, kinds_of, palette_of, row_names, row_of
from factscope.plots.figures.network import EdgeMark, Fate, Network, NodeMark, View
from factscope.plots.labels import heading
from factscope.plots.specs import Bars, Curves, Heatmap, Palette, Series, Spec, Table, Text, state_labels, state_name
from studies.edit_effects.measures import CIRCUIT, measure_of
from studies.edit_effects.model_state import ModelState
from studies.edit_effects.result import EditStudy
from tracing.results import KINDS

DIFFERENCE = "difference"
Line = tuple[str, str, float, Fate, str]  # source, target, value, what became of it, words


def trace_maps(study: EditStudy) -> tuple[Spec, ...]:
    """For each kind, on one scale: before, after, difference; and below them what a null did to each."""
    drawn, below = [], []
    shown = [study.drawn_null] if study.drawn_null is not None else []
    result = study.before.trace.result
    for kind in study.config["sites"]:
        before, after = study.before.trace.towards(kind), study.after.trace.towards(kind)
        if before is None or after is None or result is None:
            continue
        maps = [("before", before), ("after", after), ("after less before", after - before)]
        nulls = [(f"{side.name} less before", side.trace.towards(kind)) for side in shown]
        maps += [(name, values - before) for name, values in nulls if values is not None]
        top = max(float(values[:, 1:].abs().max()) for _, values in maps) or 1.0
        word = KINDS[kind].removesuffix(" after the block")
        size = min(study.config["window"], len(before))
        window = f", {size} layers" if kind in ("mlp", "attn") else ""
        pictures = [
            Heatmap(
                title=f"{heading(word)}{window}: {name}",
                values=values.numpy(),
                rows=tuple(str(layer) for layer in range(len(values))),
                columns=result.prompt.labels,
                value_title="towards the new answer",
                unit="logits",
                scale="diverging",
                limits=(-top, top),
                marked=tuple(result.prompt.subject_positions),
                left_out=(0,),
            )
            for name, values in maps
        ]
        drawn += pictures[:3]
        below += pictures[3:]
    missing = Text("No trace: corrupting the subject does not move the model between the two answers.")
    return (*drawn, *below) or (missing,)


def network(study: EditStudy) -> Network:
    """Before, after, difference, and a null's circuit, on one layout; of each the strongest paths first."""
    graph, level, unit = study.before.circuit.graph, study.diff.level, study.before.circuit.unit
    sides: list[ModelState] = [study.before, study.after, *([study.drawn_null] if study.drawn_null else [])]
    drawings = [to_networkx(side.circuit) for side in sides]
    lines: list[tuple[str, list[Line]]] = []  # of each view
    for side, drawing in zip(sides, drawings, strict=True):
        found: list[Line] = [
            (a, b, data["score"], "kept", into(data["readers"])) for a, b, data in drawing.edges(data=True)
        ]
        name = side.kind if side.kind in ("before", "after") else f"a null: {side.name}"
        lines.append((f"{name}, {side.circuit.n_edges:,} edges", found))
    changed: list[Line] = []
    for a, b in dict.fromkeys([*drawings[0].edges, *drawings[1].edges]):
        was, now, change = _largest_change(study, a, b)
        fate = _fate(drawings[0].has_edge(a, b), drawings[1].has_edge(a, b), abs(change), level)
        if fate != "kept":
            changed.append((a, b, change, fate, f"effect {was:+.3g} before, {now:+.3g} after, {unit}"))
    changed.sort(key=lambda line: (line[3] == "crossed", -abs(line[2])))
    lines.insert(2, (DIFFERENCE, changed))
    present = {name for _, some in lines for line in some for name in line[:2]}
    names = [name for name in (*graph.writers, "logits") if name in present]
    place = {name: number for number, name in enumerate(names)}
    views = tuple(
        View(
            name,
            tuple(EdgeMark(place[a], place[b], value, words, fate) for a, b, value, fate, words in some),
            by_path=name != DIFFERENCE,
        )
        for name, some in lines
    )
    turned = {head.name: head for head in study.heads}
    return Network(
        "The circuit's wiring",
        tuple(NodeMark(name, row_of(graph, name), palette_of(name), _turned(turned.get(name))) for name in names),
        views,
        kinds=kinds_of(graph),
        rows=row_names(graph),
        value_title="effect",
        unit=unit,
        signs=("effect, or its change, above zero", "below zero"),
        note="The strongest paths of each first, of the difference the lines that moved most. Dashed boxes are "
        "nodes of the other pictures. A head's q, k and v are one node, so that a line can be several edges; an edge "
        "into a key or value that heads share is a line to each of them. Edited: "
        f"{', '.join(edited_nodes(study))}.",
    )


def edited_nodes(study: EditStudy) -> list[str]:
    """The MLPs that the edit changes, and the nodes that it lets stand beside MLPs."""
    beside = study.before.circuit.graph.beside
    return [f"b{layer}" if layer in beside else f"m{layer}" for layer in study.layers]


def _fate(was: bool, now: bool, change: float, level: float) -> Fate:
    if was and now:
        return "moved" if change > level else "kept"
    if change <= level:
        return "crossed"
    return "lost" if was else "gained"


def _largest_change(study: EditStudy, source: str, target: str) -> tuple[float, float, float]:
    """Effect before and after, and the change, of the edge that changed most among those that one line stands for."""
    graph = study.before.circuit.graph
    node = graph.writer_index.get(target)
    readers = [graph.reader_index["logits"]] if node is None else np.flatnonzero(graph.feeds[:, node]).tolist()
    writer = graph.writer_index[source]
    was, now = (side.circuit.scores[writer, readers].numpy() for side in (study.before, study.after))
    most = int(np.abs(now - was).argmax())
    return float(was[most]), float(now[most]), float(now[most] - was[most])


def _turned(head: HeadChange | None) -> str:
    """What is said of a head whose share in the answer changed."""
    return f"{head.what}; turn {head.shift:+.3g} logits" if head is not None else ""


def lens_curves(study: EditStudy) -> tuple[Spec, ...]:
    """Probability of both answers before and after, at both places; ranks at the last token."""
    old, new = study.answers
    drawn: list[Spec] = []
    names = state_labels(study.before.lens.probability.shape[-1])
    for what, log in (("probability", False), ("rank", True)):
        for place, where in enumerate(study.before.lens.places):
            series = []
            for which, (answer, palette) in enumerate(((old, "blue"), (new, "red"))):
                nulls = np.stack([getattr(side.lens, what)[which, place].numpy() for side in study.nulls] or [[]])
                chosen: Palette = "blue" if palette == "blue" else "red"
                before, after = (getattr(side.lens, what)[which, place].numpy() for side in (study.before, study.after))
                series.append(Series(f"{answer.strip()} before", before, palette="green" if which else "purple"))
                series.append(Series(f"{answer.strip()} after", after, palette=chosen))
                if nulls.size and which:
                    name = f"{answer.strip()} under nulls"
                    series.append(Series(name, nulls.mean(0), nulls.min(0), nulls.max(0), "orange"))
            drawn.append(
                Curves(
                    f"{what.capitalize()} at the {where}", np.arange(len(names)), tuple(series), x_labels=names,
                    y_title=what, log_y=log, note="Band: from the least to the greatest null." if study.nulls else "",
                )
            )  # fmt: skip
    leads = [(side.name, *(state_name(side.lens.leads_from(place)) for place in (0, 1)))
             for side in (study.before, study.after, *study.nulls)]  # fmt: skip
    table = Table("The new answer leads from", ("model", *study.before.lens.places), tuple(leads))
    return (*drawn, table)


def bars(study: EditStudy) -> tuple[Spec, ...]:
    """How far all edge effects changed: by the edit, by each null, found again, and in the neighbours."""
    measure = measure_of(study, CIRCUIT)
    parts = [("the edit", measure.edit), *((f"directions {n + 1}", v) for n, v in enumerate(measure.scrambled))]
    parts += [(f"values {n + 1}", v) for n, v in enumerate(measure.values)]
    parts += [(f"again: {each.prompt}", v) for each, v in zip(study.again, measure.again, strict=True)]
    parts += [(f"neighbour: {each.prompt}", v) for each, v in zip(study.neighbours, measure.neighbours, strict=True)]
    labels, values = tuple(name for name, _ in parts), np.array([value for _, value in parts])
    return (Bars("Edge effects changed", labels, values, value_title="share of their sum before"),)


def direct_curves(study: EditStudy) -> tuple[Spec, ...]:
    """What each layer writes straight towards the new answer at the last position: its MLP, and all its heads."""
    graph = study.before.circuit.graph
    layers = np.arange(graph.n_layers)

    def towards_new(side: ModelState) -> tuple[np.ndarray, np.ndarray]:
        mlps = (side.heads.mlps[1] - side.heads.mlps[0]).numpy()
        heads = (side.heads.direct[1] - side.heads.direct[0]).view(graph.n_layers, graph.n_heads).sum(1).numpy()
        return mlps, heads

    drawn = []
    for which, what in enumerate(("MLP", "heads of each layer")):
        palettes: tuple[Palette, Palette] = ("purple", "red")
        series = [
            Series(side.name, towards_new(side)[which], palette=palette)
            for side, palette in zip((study.before, study.after), palettes, strict=True)
        ]
        if study.nulls:
            nulls = np.stack([towards_new(side)[which] for side in study.nulls])
            series.append(Series("under nulls", nulls.mean(0), nulls.min(0), nulls.max(0)))
        drawn.append(
            Curves(
                f"Direct attribution of the {what}", layers, tuple(series), y_title="new - old", unit="logits",
                note=f"Edited: layer {', '.join(map(str, study.layers))}.",
            )
        )  # fmt: skip
    return tuple(drawn)
