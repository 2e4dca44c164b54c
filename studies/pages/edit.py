"""What is saved beside an edit, as a page and in words; the edits themselves have their own page."""

from typing import Any

from editing.pages import report
from factscope.plots.specs import Page
from studies.edit import EditScores


def page(scores: EditScores) -> Page:
    """The scores, every question, and the singular values of the weights."""
    return report.page(scores.report, scores.spectra)


def words(scores: EditScores) -> list[str]:
    """The table of scores."""
    return report.words(scores.report)


def summary(scores: EditScores) -> dict[str, Any]:
    """Every line of the table for a program."""
    return report.summary(scores.report)


def records(scores: EditScores) -> list[dict[str, Any]]:
    """A row a question and time, with all that was read."""
    return report.records(scores.report)
