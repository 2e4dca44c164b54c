"""The trace and the lens of one prompt, on one page."""

from typing import Any

from factscope.plots.specs import Page
from studies.trace import TraceStudy
from tracing.pages import trace as pages


def page(study: TraceStudy) -> Page:
    """The page that shows both."""
    return pages.page(study.trace, study.lens)


def words(study: TraceStudy) -> list[str]:
    """What the trace says."""
    return pages.words(study.trace)


def summary(study: TraceStudy) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return pages.summary(study.trace)
