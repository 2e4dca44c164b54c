"""How wrong scorers are, as a page and in words."""

from typing import Any

import numpy as np

from circuits.analysis.scorer_errors import TOP, Agreement, Estimate, ScorerErrors
from factscope.plots.labels import counted
from factscope.plots.specs import Bars, Card, Curves, Headline, Number, Page, Section, Series, Table
from factscope.results.provenance import provenance

DRAWN = 40  # edges of the picture: the largest exact effects
WORST = 100  # rows of the table of edges


def words(found: ScorerErrors) -> list[str]:
    """Each scorer in a line, the best order first."""
    size = float(found.exact.abs().mean())
    said = [
        f"{counted(len(found.edges), 'edge')} of {found.graph.n_edges:,}, drawn at random and cut one at a time: the "
        f"mean size of an exact effect is {size:.3g} {found.unit}"
    ]
    return said + [f"{each.scorer}: {sentence(each, found)}" for each in _best_first(found)]


def sentence(each: Agreement, found: ScorerErrors) -> str:
    """What is to be known of one scorer."""
    order, sizes = _plus_minus(each.rank_correlation), _plus_minus(each.by_size)
    return (
        f"rank correlation with exact cuts {order} (of sizes {sizes}), mean absolute error {each.mean_error.value:.3g} "
        f"{found.unit}, {each.top_found.value:.0%} of the {TOP:.0%} of edges that matter most found"
    )


def page(found: ScorerErrors) -> Page:
    """Order, size and sign of the errors; the edges on which they are largest."""
    best = _best_first(found)[0]
    head = Headline(
        f"The scores of {best.scorer} are nearest to the order of exact cuts: {sentence(best, found)}.",
        (
            Number(f"{best.rank_correlation.value:.2f}", f"rank correlation of {best.scorer}"),
            Number(str(len(found.edges)), "edges cut one at a time"),
        ),
    )
    prompts = found.task.prompts
    more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    reading = (
        "An exact cut is of one edge alone, from the full graph. That a scorer agrees with it does not say that its "
        "circuit is good: edges that stand in for each other look dispensable one by one. What a circuit does is on "
        "its own page."
    )
    return Page(
        f"Scorers and exact cuts: {prompts[0].text}{more}",
        (
            Section("How far from exact?", (head, table(found), _bars(found)), reading),
            Section("The edges that matter most", (_curves(found), _edges(found))),
            Section("How it was measured", (_card(found),)),
        ),
        subtitle=f"{found.direction} · {found.task.ablation} ablation",
    )


def summary(found: ScorerErrors) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "edges": len(found.edges),
        "unit": found.unit,
        "mean_effect": float(found.exact.abs().mean()),
        "scorers": {
            each.scorer: {
                "rank_correlation": each.rank_correlation.value,
                "rank_correlation_error": each.rank_correlation.error,
                "mean_absolute_error": each.mean_error.value,
                "top_found": each.top_found.value,
            }
            for each in found.agreements
        },
    }


def records(found: ScorerErrors) -> list[dict[str, Any]]:
    """A row for each edge and scorer: the score and the exact effect."""
    return [
        {"edge": edge, "scorer": each.scorer, "score": score, "exact": exact, "unit": found.unit}
        for each, row in zip(found.agreements, found.scores.tolist(), strict=True)
        for edge, score, exact in zip(found.edges, row, found.exact.tolist(), strict=True)
    ]


def table(found: ScorerErrors) -> Table:
    """One row for each scorer."""
    rows = tuple(
        (
            each.scorer,
            _plus_minus(each.rank_correlation),
            _plus_minus(each.by_size),
            f"{each.mean_error.value:.3g} ± {each.mean_error.error:.1g}",
            _plus_minus(each.top_found),
            round(each.sign, 2),
            None if each.seconds != each.seconds else round(each.seconds, 2),
        )
        for each in _best_first(found)
    )
    columns = (
        "scorer",
        "rank correlation",
        "of sizes",
        f"mean absolute error ({found.unit})",
        f"largest {TOP:.0%} found",
        "their signs right",
        "seconds",
    )
    note = (
        f"Mean size of an exact effect: {float(found.exact.abs().mean()):.3g} {found.unit}. ±: one standard error over "
        "the drawn edges."
    )
    return Table("Scorers beside exact single cuts", columns, rows, note=note)


def _best_first(found: ScorerErrors) -> list[Agreement]:
    return sorted(found.agreements, key=lambda each: -np.nan_to_num(each.rank_correlation.value, nan=-1))


def _plus_minus(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ± {estimate.error:.2f}"


def _bars(found: ScorerErrors) -> Bars:
    best = _best_first(found)
    return Bars(
        "Rank correlation with exact cuts",
        tuple(each.scorer for each in best),
        np.array([each.rank_correlation.value for each in best]),
        np.array([each.rank_correlation.error for each in best]),
        value_title="Spearman's rank correlation",
    )


def _curves(found: ScorerErrors) -> Curves:
    """The largest exact effects in their order, and what each scorer says of them."""
    order = np.argsort(-np.abs(found.exact.numpy()), kind="stable")[:DRAWN]
    series = [Series("exact cut", found.exact.double().numpy()[order])]
    series += [
        Series(each.scorer, row[order])
        for each, row in zip(found.agreements, found.scores.double().numpy(), strict=True)
    ]
    return Curves(
        "What is said of the edges of largest exact effect",
        np.arange(len(order)),
        tuple(series),
        x_title="edge, the largest effect first",
        y_title="effect",
        unit=found.unit,
    )


def _edges(found: ScorerErrors) -> Table:
    order = np.argsort(-np.abs(found.exact.numpy()), kind="stable")[:WORST].tolist()
    names = tuple(each.scorer for each in found.agreements)
    rows = tuple(
        (found.edges[i], round(float(found.exact[i]), 5), *(round(float(row[i]), 5) for row in found.scores))
        for i in order
    )
    return Table("Edges by exact effect", ("edge", f"exact ({found.unit})", *names), rows, folded=True)


def _card(found: ScorerErrors) -> Card:
    items = (
        ("prompts", " / ".join(prompt.text for prompt in found.task.prompts)),
        ("metric", found.task.metric),
        ("ablation", found.task.ablation),
        ("direction of the exact cuts", found.direction),
        ("graph", str(found.graph)),
        ("exact cuts", f"{len(found.edges)} in {found.seconds:.1f} s"),
    )
    return provenance(found.run, *items)
