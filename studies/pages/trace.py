"""The trace and the lens of one prompt, and its knowledge neurons where they were asked for, on one page."""

from dataclasses import replace
from typing import Any

from factscope.plots.specs import Page
from studies.trace import TraceStudy
from tracing.pages import neurons
from tracing.pages import trace as pages

_BEFORE = 2  # sections of the trace that stand before the neurons: what was found, and the maps


def page(study: TraceStudy) -> Page:
    """The page that shows them all."""
    whole = pages.page(study.trace, study.lens)
    if study.neurons is None:
        return whole
    own = neurons.sections(study.neurons, study.trace)
    return replace(whole, sections=(*whole.sections[:_BEFORE], *own, *whole.sections[_BEFORE:]))


def words(study: TraceStudy) -> list[str]:
    """What the trace says, and then the neurons."""
    found = pages.words(study.trace)
    return found if study.neurons is None else [*found, *neurons.words(study.neurons, study.trace)]


def summary(study: TraceStudy) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    found = pages.summary(study.trace)
    return found if study.neurons is None else found | {"neurons": neurons.summary(study.neurons)}


def records(study: TraceStudy) -> list[dict[str, Any]]:
    """The trace's cells; the lens has its own rows, in `study.lens.to_frame()`."""
    return pages.records(study.trace)
