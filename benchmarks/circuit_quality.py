"""Do small circuits of the default model do what it does? `python -m benchmarks.circuit_quality`

For every shipped relation of which the model knows enough facts of one length: EAP-IG on eight of them (five steps,
native keys and values), grown greedily from the logits to a few sizes; Hit@10 on these eight, on all other known facts
of the relation, and on all others whether known or not, beside random circuits of the largest of those sizes and the
empty circuit. One Markdown row for each relation, ablation and way to compare edges (`--by`): by the mean size of each
fact's score, or by the size of their mean.
"""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

from circuits import select
from circuits.analysis.faithfulness import KNOWN, hits, known_and_all, random_circuit
from circuits.circuit import faithfulness
from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.scorers.eap_ig import EAPIG
from circuits.task import Task
from factscope.data.shipped import relations
from factscope.errors import UserError
from factscope.model.load import load
from studies.circuit_inputs import TaskOptions, about_facts


def main() -> None:
    """Print the table."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--model", default="smollm2")
    reader.add_argument("--relations", default=",".join(relations()))
    reader.add_argument("--ablations", default="mean,counterfactual")
    reader.add_argument("--by", default="each,mean")
    reader.add_argument("--metric", default="nll")
    reader.add_argument("--examples", type=int, default=8)
    reader.add_argument("--sizes", default="0.01,0.02,0.05,0.1")
    asked = reader.parse_args()
    sizes = [float(size) for size in asked.sizes.split(",")]
    model = load(asked.model)
    graph = Graph.of(model)
    columns = [f"{size:.1%} found, held out, all (faithfulness)" for size in sizes]
    print(
        "| relation | ablation | by | n found, held out, all (the model's own) | "
        + " | ".join(columns)
        + " | random | empty |"
    )
    print("|" + " --- |" * (6 + len(sizes)))
    for relation in asked.relations.split(","):
        for ablation in asked.ablations.split(","):
            try:
                work = about_facts(model, relation, None, asked.examples, options=TaskOptions(asked.metric, ablation))
            except UserError as trouble:
                print(f"| {relation} | {ablation} | {trouble} |")
                continue
            if len(work.task.prompts) < asked.examples:
                print(f"| {relation} | {ablation} | only {len(work.task.prompts)} known facts of one length |")
                continue
            engine = partial(Reference, model, graph)
            examples = EAPIG().examples(engine(work.task))
            others, rest = known_and_all(model, work.task, work.held_out, KNOWN, [])
            for by in asked.by.split(","):
                scores = examples.abs().mean(0) if by == "each" else examples.mean(0)
                row = measured(engine, work.task, (others, [*others, *rest]), scores, sizes)
                print(f"| {relation} | {ablation} | {by} | {' | '.join(row)} |", flush=True)


def measured(
    engine: Callable[[Task], Reference],
    task: Task,
    held_out: tuple[list[Task], list[Task]],
    scores: Tensor,
    sizes: list[float],
) -> list[str]:
    """How many prompts there are; Hit@10 and faithfulness at each size, of random circuits and of the empty one."""
    reference = engine(task)
    graph, (others, every) = reference.graph, held_out
    full, empty = reference.loss(graph.full()), reference.loss(graph.empty())
    generator = np.random.default_rng(0)
    chance = [random_circuit(graph, round(sizes[-1] * graph.n_edges), generator) for _ in range(3)]
    cells = []
    for size in sizes:
        kept = graph.pruned(select.greedy(graph, scores, round(size * graph.n_edges)))
        own, held, whole = (hits(engine, kept, tasks) for tasks in ([task], others, every))
        share = faithfulness(reference.loss(kept), full, empty)
        cells.append(f"{own.circuit:.2f}, {held.circuit:.2f}, {whole.circuit:.2f} ({share:.2f})")
    nothing = [hits(engine, graph.empty(), tasks, chance) for tasks in ([task], others)]
    count = f"{own.n}, {held.n}, {whole.n} ({whole.full:.2f})"
    random, none = (", ".join(f"{getattr(each, of):.2f}" for each in nothing) for of in ("random", "circuit"))
    return [count, *cells, random, none]


if __name__ == "__main__":
    main()
