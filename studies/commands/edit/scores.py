"""Scores as programs read them."""

from typing import Any


def scores_of(report: Any) -> dict[str, Any]:
    """A report's scores by name; null for what is not a number."""
    named = {}
    for score in report.scores:
        values = {"n": score.n, "before": score.before, "after": score.after, "final": score.final}
        values |= {"low": score.low, "high": score.high}
        named[score.name] = {key: None if value != value else value for key, value in values.items()}
    return named
