"""What the evaluation of a circuit looks like: its card, Hit@10 by set of prompts, and faithfulness by size."""

import numpy as np

from circuits.analysis.faithfulness import Evaluation, Hits, RandomBaseline
from factscope.plots.specs import Card, Curves, Series, Spec, Table


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
        *(
            (f"faithfulness under {name.replace('_', ' ')} ablation", f"{value:.3f}")
            for name, value in evaluation.by_ablation.items()
        ),
    )
    grown = [("edges by size", evaluation.faithfulness_by_size)]
    if evaluation.faithfulness_by_signed_size is not None:
        grown.append(("edges by signed effect", evaluation.faithfulness_by_signed_size))
    curve = Curves(
        "Faithfulness as the circuit grows",
        np.arange(len(evaluation.sizes)),
        tuple(Series(name, values.double().numpy()) for name, values in grown),
        x_title="share of all edges",
        x_labels=tuple(f"{size:.3g}" for size in evaluation.sizes.tolist()),
        y_title="faithfulness",
        note="The largest edges, wherever they are, less those on no path. CPR is the area below the signed curve, CMD "
        "the area from the other one to the line at 1, both over shares on a linear axis.",
    )
    conventions = Table(
        "What each number means", ("number", "convention"), tuple(evaluation.conventions.items()), folded=True
    )
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
    return Table(
        "The prompts, and the rank of each answer", ("set", "prompt", "full model", "circuit"), tuple(rows), folded=True
    )


def _sets(evaluation: Evaluation) -> tuple[tuple[str, Hits | None], ...]:
    """The prompts that the circuit was found on, and those that it was not."""
    return (
        ("found on", evaluation.found),
        ("held out, known", evaluation.held_out),
        ("held out, all", evaluation.held_out_all),
    )


def _spread(spread: RandomBaseline) -> str:
    mean, low, high = (round(value, 3) + 0.0 for value in (spread.mean, spread.low, spread.high))  # no "-0.000"
    return f"{mean:.3f} ({low:.3f} to {high:.3f}, {spread.n} drawn)"
