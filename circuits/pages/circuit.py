"""What a circuit, its evaluation and its roles look like: results in, a page out; drawn from saved values alone."""

from typing import Any

import numpy as np

from circuits.analysis.faithfulness import Evaluation
from circuits.analysis.head_roles import Roles
from circuits.analysis.scorer_errors import ScorerErrors
from circuits.circuit import Circuit
from circuits.method import INTEGRAL
from circuits.pages.evaluation import evaluated
from circuits.pages.roles import attention_specs, role_specs
from circuits.pages.scorer_errors import sentence
from circuits.pages.wiring import matrix, network
from circuits.stability import Stability
from circuits.task import REFERRING
from factscope.plots.labels import as_sentence, settings_in_words
from factscope.plots.specs import (
    Card,
    Headline,
    Number,
    Page,
    Section,
    Spec,
    Table,
    Text,
)
from factscope.results.provenance import provenance

MOST_ROWS = 400  # of a table of edges; the export has all


def page(
    circuit: Circuit,
    evaluation: Evaluation | None = None,
    roles: Roles | None = None,
    errors: ScorerErrors | None = None,
) -> Page:
    """The page of one circuit."""
    prompts = circuit.task.prompts
    more = f" and {len(prompts) - 1} more prompts" if len(prompts) > 1 else ""
    told = (Text("\n\n".join(map(as_sentence, circuit.notes))),) if circuit.notes else ()
    shown: tuple[Spec, ...] = (headline(circuit, evaluation), *told, network(circuit, roles), *matrix(circuit))
    sections = [Section("The circuit", shown, _reading(circuit))]
    if evaluation is not None:
        sections.append(Section("Does it do what the model does?", evaluated(evaluation)))
    if roles is not None:
        of = f"Heads and parts of the first prompt: {roles.prompt}{roles.answer}." if len(prompts) > 1 else ""
        sections.append(Section("What its parts do", role_specs(roles), of))
        if attended := attention_specs(roles, prompts[0]):
            sections.append(Section("What its strongest heads attend to", attended, of))
    sections += [Section("Edges", (edge_table(circuit),)), Section("How it was found", (card(circuit, errors),))]
    answer = f"answer{_answer(circuit)}" if len(prompts) == 1 else f"answers of {len(prompts)} prompts"
    return Page(f"Circuit: {prompts[0].text}{more}", tuple(sections), subtitle=f"{circuit.method} · {answer}")


def _answer(circuit: Circuit) -> str:
    return str(circuit.task.prompts[0].answer or " unknown")


def _reading(circuit: Circuit) -> str:
    return (
        "Layers go upward, from the prompt's embedding to the answer's logits. A line is a kept edge; wider lines "
        "matter more. Choose a node to see its paths alone, move the slider to draw more of the smaller effects. "
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
    steady = circuit.stability
    stability = {name: value for name, value in vars(steady).items() if name != "inclusion"} if steady else None
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
        "stability": stability,
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


def records(circuit: Circuit) -> list[dict[str, Any]]:
    """A row an edge that was kept or measured: its score by the circuit's convention, and whether it was kept."""
    graph, kept, tested, drawn = circuit.graph, circuit.mask, circuit.tested.numpy(), circuit.drawn
    return [
        {"writer": graph.writers[writer], "reader": graph.reader_names[reader],
         "score": float(circuit.scores[writer, reader]), "kept": bool(kept[writer, reader]),
         "on_a_path": bool(drawn[writer, reader]), "unit": circuit.unit}
        for writer, reader in np.argwhere(kept | tested).tolist()
    ]  # fmt: skip


def headline(circuit: Circuit, evaluation: Evaluation | None) -> Headline:
    """Size, faithfulness and, if evaluated, the random circuits."""
    numbers = [
        Number(f"{circuit.n_edges:,}", f"of {circuit.graph.n_edges:,} edges"),
        Number(f"{len(circuit.nodes())}", f"of {len(circuit.graph.writers)} nodes on a path"),
    ]
    if np.isfinite(circuit.faithfulness):
        numbers.append(Number(f"{circuit.faithfulness:.0%}", "faithfulness"))
    if evaluation is not None:
        numbers.append(Number(_percent(evaluation.random_degree.mean), "faithfulness of random circuits, same degrees"))
        numbers.append(Number(_percent(evaluation.random_size.mean), "of random circuits, same size"))
        if evaluation.held_out is not None:
            known = evaluation.held_out
            numbers.append(
                Number(f"{known.circuit:.0%}", f"Hit@10 on {known.n} held-out facts, {known.full:.0%} whole")
            )
    return Headline(words(circuit), tuple(numbers))


def _percent(share: float) -> str:
    return f"{round(share, 2) + 0.0:.0%}"  # no "-0%"


def edge_table(circuit: Circuit) -> Table:
    """The kept edges, the largest first."""
    graph, drawn = circuit.graph, circuit.drawn
    pairs = sorted(np.argwhere(circuit.mask).tolist(), key=lambda pair: -abs(float(circuit.scores[pair[0], pair[1]])))
    steady = circuit.stability
    rows = tuple(
        (
            graph.writers[w],
            graph.reader_names[r],
            float(circuit.scores[w, r]),
            *((float(steady.inclusion[w, r]),) if steady else ()),
            "yes" if drawn[w, r] else "constant",
        )
        for w, r in pairs[:MOST_ROWS]
    )
    left = len(pairs) - len(rows)
    return Table(
        f"{len(pairs):,} edges",
        ("writer", "reader", f"effect ({circuit.unit})", *(("in resamples",) if steady else ()), "on a path"),
        rows,
        note=f"{circuit.convention}."
        + (f" In resamples: {_resampled(steady)}" if steady else "")
        + (f" The {left:,} smallest are left out here." if left else ""),
        folded=True,
    )


def _resampled(steady: Stability) -> str:
    """What the bootstrap of a circuit did, and what it found."""
    return (
        f"the share of {steady.draws} circuits that keep the edge, each chosen from {steady.examples} examples drawn "
        f"with replacement; two of these circuits have a Jaccard index of {steady.jaccard:.2f} on average."
    )


def _ablation(circuit: Circuit) -> str:
    """What cut edges carry, and of which other subjects or prompts."""
    task = circuit.task
    if task.ablation == "counterfactual":
        others = [f"{other.subject} for {own.subject}" for own, other in zip(task.prompts, task.corrupt, strict=True)]
        return f"counterfactual: {', '.join(others)}"
    of = f", over {len(task.reference)} reference prompts" if task.ablation in REFERRING else ""
    return task.ablation + of


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


def card(circuit: Circuit, errors: ScorerErrors | None = None) -> Card:
    """Method, task, certificate, how far the scores are from exact cuts, and provenance."""
    task = circuit.task
    items = [
        ("method", circuit.method),
        ("settings", settings_in_words({k: v for k, v in circuit.settings.items() if k not in INTEGRAL})),
        *_completeness(circuit),
        ("graph", str(circuit.graph)),
        ("prompts", f"{len(task.prompts)}; start token {task.prompts[0].start_token or 'none'}"),
        ("metric", f"{task.metric} ({circuit.unit})"),
        ("ablation", _ablation(circuit)),
        ("score", circuit.convention),
    ]
    if errors is not None:
        drawn = f"on {len(errors.edges)} edges, drawn at random and cut one at a time: "
        items.append(("error of the scores", drawn + sentence(errors.agreements[0], errors)))
    if circuit.certificate:
        items.append(("certificate", str(circuit.certificate)))
    return provenance(circuit.run, *items)
