"""What a circuit, its evaluation and its roles look like: results in, a page out; drawn from saved values alone."""

import math
from typing import Any

import numpy as np

from circuits.analysis.faithfulness import Evaluation, Hits
from circuits.analysis.head_roles import Roles
from circuits.circuit import Circuit
from circuits.formats import to_networkx
from circuits.graph import place_of
from circuits.method import INTEGRAL
from factscope.plots.figures.network import EdgeMark, Network, NodeMark
from factscope.plots.specs import (
    Card,
    Curves,
    Headline,
    Number,
    Page,
    Palette,
    Section,
    Series,
    Spec,
    Table,
    state_labels,
)

MOST_ROWS = 400  # of a table of edges; the export has all
NOT_PART = "only constants: kept by the search, on no path from the inputs to the logits"


def page(circuit: Circuit, evaluation: Evaluation | None = None, roles: Roles | None = None) -> Page:
    """The page of one circuit."""
    prompts = circuit.task.prompts
    more = f" and {len(prompts) - 1} more prompts" if len(prompts) > 1 else ""
    sections = [
        Section("The circuit", (headline(circuit, evaluation), network(circuit, roles)), _reading(circuit)),
    ]
    if evaluation is not None:
        sections.append(Section("Does it do what the model does?", evaluated(evaluation)))
    if roles is not None:
        of = f"Heads and parts of the first prompt: {roles.prompt}{roles.answer}." if len(prompts) > 1 else ""
        sections.append(Section("What its parts do", role_specs(roles), of))
    sections += [Section("Edges", (edge_table(circuit),)), Section("How it was found", (card(circuit),))]
    answer = f"answer{_answer(circuit)}" if len(prompts) == 1 else f"answers of {len(prompts)} prompts"
    return Page(f"Circuit: {prompts[0].text}{more}", tuple(sections), subtitle=f"{circuit.method} · {answer}")


def _answer(circuit: Circuit) -> str:
    return str(circuit.task.prompts[0].answer or " unknown")


def _reading(circuit: Circuit) -> str:
    return (
        "Layers go upward, heads across, MLPs at the right. A line is a kept edge; wider lines matter more, dotted "
        "ones hold the answer back. Click a node to light up its paths, move the slider to hide small effects. "
        f"An edge's effect is the {circuit.convention}."
    )


def words(circuit: Circuit) -> str:
    """The one sentence to remember."""
    share = circuit.n_edges / circuit.graph.n_edges
    if not np.isfinite(circuit.loss_circuit):
        return f"{circuit.n_edges} edges, {share:.1%} of {circuit.graph.n_edges:,}, from a file."
    if len(circuit.task.prompts) > 1:
        one, full = (sum(r <= 10 for r in ranks) / len(ranks) for ranks in (circuit.rank_circuit, circuit.rank_full))
        said = (
            f" the answer among the first ten for {one:.0%} of {len(circuit.task.prompts)} prompts (full model: "
            f"{full:.0%})"
        )
    else:
        said = f"{_answer(circuit)} at rank {circuit.rank_circuit[0]} (full model: {circuit.rank_full[0]})"
    return (
        f"{circuit.n_edges:,} of {circuit.graph.n_edges:,} edges ({share:.1%}{_pruned(circuit)}) put{said}; loss "
        f"{circuit.loss_circuit:.3g} {circuit.unit}, of the full model {circuit.loss_full:.3g}, of no edge "
        f"{circuit.loss_empty:.3g}."
    )


def _pruned(circuit: Circuit) -> str:
    """How many edges a scorer chose, where some of them are on no path and went."""
    chosen = int(circuit.settings.get("selected", circuit.n_edges))
    return f", {chosen:,} chosen less those on no path" if chosen != circuit.n_edges else ""


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
            "hit10_held_out_all": vars(evaluation.held_out_all) if evaluation.held_out_all else None,
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


def headline(circuit: Circuit, evaluation: Evaluation | None) -> Headline:
    """Size, faithfulness and, if evaluated, the random circuits."""
    numbers = [
        Number(f"{circuit.n_edges:,}", f"of {circuit.graph.n_edges:,} edges"),
        Number(f"{len(circuit.nodes())}", f"of {len(circuit.graph.writers)} nodes on a path"),
    ]
    if np.isfinite(circuit.faithfulness):
        numbers.append(Number(f"{circuit.faithfulness:.0%}", "faithfulness"))
    if evaluation is not None:
        numbers.append(Number(f"{evaluation.random_degree.mean:.0%}", "faithfulness of random circuits, same degrees"))
        numbers.append(Number(f"{evaluation.random_size.mean:.0%}", "of random circuits, same size"))
        if evaluation.held_out is not None:
            known = evaluation.held_out
            numbers.append(
                Number(f"{known.circuit:.0%}", f"Hit@10 on {known.n} held-out facts, {known.full:.0%} whole")
            )
    return Headline(words(circuit), tuple(numbers))


def network(circuit: Circuit, roles: Roles | None = None) -> Network:
    """The drawn part of the circuit."""
    graph = circuit.graph
    drawn = to_networkx(circuit)
    role_of = {head.name: head for head in roles.heads} if roles else {}
    about = {part.name: part for part in roles.components} if roles else {}
    names = [name for name in (*graph.writers, "logits") if name in drawn]
    middle = (graph.n_heads - 1) / 2
    nodes: list[NodeMark] = []
    for name in names:
        layer, head = place_of(name) if name != "logits" else (graph.n_layers, None)
        palette: Palette = "purple"
        x, y = middle + (0.8 if name == "positions" else 0.0), float(layer)
        if name.startswith("a") and head is not None:
            palette, x = "red", float(head)
        elif name.startswith("m"):
            palette, x, y = "green", graph.n_heads + 0.6, layer + 0.5
        lines = [f"in {drawn.in_degree(name)}, out {drawn.out_degree(name)} edges"]
        if name in role_of:
            lines.append(f"role: {role_of[name].role}")
        if name in about:
            part = about[name]
            lines += [
                f"towards the answer: {part.direct_effect:+.3g} logits, rank {part.rank}",
                "writes: " + " ".join(repr(token) for token in part.top[:6]),
            ]
        nodes.append(NodeMark(name, x, y, palette, "\n".join(lines)))
    place = {name: number for number, name in enumerate(names)}
    edges = tuple(
        EdgeMark(
            place[source],
            place[target],
            float(data["score"]),
            f"{data['score']:+.3g} {circuit.unit}\ninto {data['readers']}",
        )
        for source, target, data in sorted(drawn.edges(data=True), key=lambda edge: abs(edge[2]["score"]))
    )
    rows = tuple((float(layer), str(layer)) for layer in range(graph.n_layers) if layer % _every(graph.n_layers) == 0)
    constant = circuit.n_edges - int(circuit.drawn.sum())
    return Network(
        "The circuit's wiring",
        tuple(nodes),
        edges,
        kinds=(("red", "head"), ("green", "MLP"), ("purple", "embedding and logits")),
        rows=((-1.0, "embed"), *rows, (float(graph.n_layers), "logits")),
        value_title="effect",
        unit=circuit.unit,
        note=f"{len(edges)} lines between {len(nodes)} nodes, the logits among them; a head's q, k and v are one node, "
        "and a key or value that several heads share is a line to each of those that lead on."
        + (f" {constant} edges are not drawn ({NOT_PART})." if constant else ""),
    )


def _every(layers: int) -> int:
    return 1 if layers <= 16 else 2 if layers <= 40 else 5


def evaluated(evaluation: Evaluation) -> tuple[Spec, ...]:
    """The evaluation's card, curve and tables."""
    hit_rows = tuple(
        (name, hits.n, hits.full, hits.circuit, hits.random) for name, hits in _sets(evaluation) if hits is not None
    )
    least = f"{evaluation.tolerance:.2g} {evaluation.unit}"
    items = (
        ("faithfulness", f"{evaluation.faithfulness:.3f}"),
        ("random circuits, same size", _spread(evaluation.random_size)),
        ("random circuits, same degree", _spread(evaluation.random_degree)),
        ("KL(full || circuit)", f"{evaluation.kl:.3g} nats"),
        ("CPR (signed) / CMD (by size)", f"{evaluation.cpr:.3f} / {evaluation.cmd:.3f}"),
        ("completeness: KL under knock-outs", f"{float(evaluation.knocked_out.mean()):.3g} nats on average"),
        ("kept edges that hardly matter", f"{evaluation.superfluous:.1%} change the loss by less than {least}"),
        *((f"faithfulness under {name} ablation", f"{value:.3f}") for name, value in evaluation.by_ablation.items()),
    )
    grown = [("edges by size", evaluation.faithfulness_by_size)]
    if evaluation.faithfulness_by_signed_size is not None:
        grown.append(("edges by signed effect", evaluation.faithfulness_by_signed_size))
    curve = Curves(
        "Faithfulness as the circuit grows",
        evaluation.sizes.double().numpy(),
        tuple(Series(name, values.double().numpy()) for name, values in grown),
        x_title="share of all edges",
        y_title="faithfulness",
        note="The largest edges, wherever they are, less those on no path. CPR is the area below the signed curve, CMD "
        "the area from the other one to the line at 1.",
    )
    conventions = Table("What each number means", ("number", "convention"), tuple(evaluation.conventions.items()))
    specs: list[Spec] = [
        Table("Hit@10", ("prompts", "n", "full model", "circuit", "random circuits"), hit_rows),
        _prompts(evaluation),
        Card("Evaluation", items, note=" ".join(evaluation.notes)),
        curve,
        conventions,
    ]
    return tuple(specs)


def _prompts(evaluation: Evaluation) -> Table:
    """Every prompt that was asked, and where its answer stood."""
    rows = [
        (name, text, full, circuit)
        for name, hits in (("found on", evaluation.found), ("held out", evaluation.held_out_all or evaluation.held_out))
        if hits is not None
        for text, full, circuit in zip(hits.prompts, hits.ranks_full, hits.ranks_circuit, strict=False)
    ]
    return Table("The prompts, and the rank of each answer", ("set", "prompt", "full model", "circuit"), tuple(rows))


def _sets(evaluation: Evaluation) -> tuple[tuple[str, Hits | None], ...]:
    """The prompts that the circuit was found on, and those that it was not."""
    return (
        ("found on", evaluation.found),
        ("held out, known", evaluation.held_out),
        ("held out, all", evaluation.held_out_all),
    )


def _spread(spread: Any) -> str:
    mean, low, high = (round(value, 3) + 0.0 for value in (spread.mean, spread.low, spread.high))  # no "-0.000"
    return f"{mean:.3f} ({low:.3f} to {high:.3f}, {spread.n} drawn)"


def role_specs(roles: Roles) -> tuple[Spec, ...]:
    """Counts against chance, the heads' table, what each part writes, and the curves over layers."""
    order = sorted(
        roles.heads, key=lambda head: (head.role == "none", -abs(head.direct_subject + head.direct_relation))
    )
    heads = Table(
        "Heads at the last position",
        ("head", "role", "attention S", "attention R", "D subject", "D relation", "D rest", "writes most"),
        tuple(
            (
                head.name, head.role, head.attention_subject, head.attention_relation, head.direct_subject,
                head.direct_relation, head.direct_rest, " ".join(repr(token) for token in head.top_tokens[:6]),
            )
            for head in order
        ),
        note="S subject, R relation; D: direct attribution to the answer in logits. The sink (position 0) is left out.",
    )  # fmt: skip
    counts = Table(
        "Roles, and how many chance gives",
        ("role", "heads", "chance", "chance, 19 of 20 below"),
        tuple((role, roles.counts[role], roles.chance[role], roles.chance_high[role]) for role in roles.counts),
        note="Chance: the same heads with the labels subject, relation and rest shuffled over the positions.",
    )
    parts = Table(
        "What each part writes",
        ("part", "towards the answer (logits)", "rank of the answer", "probability", "writes most"),
        tuple(
            (
                part.name,
                part.direct_effect,
                part.rank,
                math.exp(part.log_probability),
                " ".join(repr(token) for token in part.top[:8]),
            )
            for part in sorted(roles.components, key=lambda part: -abs(part.direct_effect))
        ),
    )
    layers = np.arange(len(roles.active_heads))
    active = Curves(
        "Where the circuit is",
        layers,
        (
            Series("share of heads", roles.active_heads.double().numpy(), palette="red"),
            Series("MLP", roles.active_mlps.double().numpy(), palette="green"),
        ),
        y_title="in the circuit",
    )
    return (counts, heads, _curve(roles, "rank", True), _curve(roles, "probability", False), active, parts)


def _curve(roles: Roles, what: str, log: bool) -> Curves:
    series = tuple(
        Series(name.removeprefix(what).strip("_, ").replace("_", " ") or name, values.double().numpy())
        for name, values in roles.curves.items()
        if name.startswith(what)
    )
    names = state_labels(len(next(iter(roles.curves.values()))))
    return Curves(
        f"{what.capitalize()} of the answer after each layer",
        np.arange(len(names)),
        series,
        x_labels=names,
        y_title=what,
        log_y=log,
        note="Logit lens at the last position. Rank 1 is the first. Final scale: every state "
        f"divided by the last state's norm, not its own.{_averaged(roles, log)}",
    )


def _averaged(roles: Roles, log: bool) -> str:
    n = roles.settings.get("prompts", 1)
    return f" {'Geometric mean' if log else 'Mean'} over {n} prompts." if n > 1 else ""


def edge_table(circuit: Circuit) -> Table:
    """The kept edges, the largest first."""
    graph, drawn = circuit.graph, circuit.drawn
    pairs = sorted(np.argwhere(circuit.mask).tolist(), key=lambda pair: -abs(float(circuit.scores[pair[0], pair[1]])))
    rows = tuple(
        (graph.writers[w], graph.reader_names[r], float(circuit.scores[w, r]), "yes" if drawn[w, r] else "constant")
        for w, r in pairs[:MOST_ROWS]
    )
    left = len(pairs) - len(rows)
    return Table(
        f"{len(pairs):,} edges",
        ("writer", "reader", f"effect ({circuit.unit})", "on a path"),
        rows,
        note=f"{circuit.convention}." + (f" The {left:,} smallest are left out here." if left else ""),
    )


def _completeness(circuit: Circuit) -> list[tuple[str, str]]:
    """How far an integral's scores are from the gap that they should sum to."""
    if INTEGRAL[0] not in circuit.settings:
        return []
    total, gap = (float(circuit.settings[name]) for name in INTEGRAL)
    off = f", off by {abs(total - gap) / abs(gap):.0%}" if gap else ""
    said = (
        f"edges out of the embedding sum to {total:.3g}; the loss between clean and ablated embedding is {gap:.3g}{off}"
    )
    return [("completeness of the scores", said)]


def card(circuit: Circuit) -> Card:
    """Method, task, certificate and provenance."""
    task, run = circuit.task, circuit.run
    items = [
        ("method", circuit.method),
        ("settings", ", ".join(f"{key} {value}" for key, value in circuit.settings.items() if key not in INTEGRAL)),
        *_completeness(circuit),
        ("graph", str(circuit.graph)),
        ("prompts", f"{len(task.prompts)}; start token {task.prompts[0].start_token or 'none'}"),
        ("metric", f"{task.metric} ({circuit.unit})"),
        ("ablation", task.ablation + (f", {len(task.reference)} reference prompts" if task.reference else "")),
        ("score", circuit.convention),
    ]
    if circuit.certificate:
        items.append(("certificate", str(circuit.certificate)))
    if run is not None:
        items += [
            ("model", f"{run.model} ({run.fingerprint[:12]}), {run.dtype} on {run.device}, {run.threads} threads"),
            ("time", f"{run.seconds:.1f} s, {run.peak_memory:.2f} GB at most, started {run.started}"),
            ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
        ]
    return Card("Provenance", tuple(items), command=run.command if run else "", note=" ".join(circuit.notes))
