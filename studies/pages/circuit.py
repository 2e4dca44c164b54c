"""A circuit with its evaluation and the roles of its heads, as a page and in words."""

from typing import Any

from circuits.analysis.faithfulness import Hits
from circuits.pages import circuit as pages
from factscope.plots.labels import counted
from factscope.plots.specs import Page
from studies.circuit import CircuitStudy


def page(study: CircuitStudy) -> Page:
    """The page that shows all of it."""
    return pages.page(study.circuit, study.evaluation, study.roles, study.errors)


def words(study: CircuitStudy) -> list[str]:
    """The circuit in one line, and how well it does in another."""
    return [pages.words(study.circuit), _evaluated(study)]


def summary(study: CircuitStudy) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return pages.summary(study.circuit, study.evaluation, study.roles)


def records(study: CircuitStudy) -> list[dict[str, Any]]:
    """The circuit's edges."""
    return pages.records(study.circuit)


def _evaluated(study: CircuitStudy) -> str:
    """Faithfulness, Hit@10 and roles; the nodes where nothing was evaluated."""
    evaluation, roles = study.evaluation, study.roles
    if evaluation is None:
        nodes = study.circuit.nodes()
        return f"Nodes: {', '.join(nodes[:20])}{', ...' if len(nodes) > 20 else ''}"
    held, every = evaluation.held_out, evaluation.held_out_all
    parts = [
        f"Faithfulness {evaluation.faithfulness:.2f} (random circuits of the same degrees "
        f"{evaluation.random_degree.mean:.2f}, of the same size {evaluation.random_size.mean:.2f})",
        f"the answer among the first ten for {_share(evaluation.found, ' that it was found on')}",
    ]
    if held is not None:
        parts.append(f"held out, for {_share(held, ' that the model knows')}")
    if every is not None and (held is None or every.n > held.n):
        parts.append(f"with those that it does not know, for {_share(every)}")
    if study.circuit.stability is not None:
        steady = study.circuit.stability
        parts.append(f"two circuits of resampled facts share {steady.jaccard:.0%} of their edges (Jaccard)")
    if roles is not None:
        counts = ", ".join(
            f"{count} {role} (by chance up to {roles.chance_high[role]})"
            for role, count in roles.counts.items()
            if role != "none"
        )
        parts.append(counts)
    return "; ".join(parts)


def _share(hits: Hits, which: str = "") -> str:
    """Hit@10 of the circuit, beside the full model's and that of random circuits."""
    beside = f"full model {hits.full:.0%}, random circuits {hits.random:.0%}"
    return f"{hits.circuit:.0%} of {counted(hits.n, 'fact')}{which} ({beside})"
