"""A page as the output of a notebook's cell: the same sections, with still figures and short tables.

The first sections are open, the rest are folded. A long table keeps its first rows, because a saved notebook is read on
screens and code hosts; the page has all of them.
"""

from dataclasses import replace

from factscope.plots.escape import html_text
from factscope.plots.fragments import fragment, paragraphs, style
from factscope.plots.render import is_figure
from factscope.plots.specs import Page, Section, Spec, Table
from factscope.plots.svg import image

OPEN = 2  # sections: what was found, and its picture
ROWS = 12  # of a table


def page_in_notebook(page: Page) -> str:
    """The HTML of a cell's output; no script in it, and nothing that is fetched."""
    parts = [_section(section, place < OPEN) for place, section in enumerate(page.sections)]
    heading = f"<h3>{html_text(page.title)}</h3><p>{html_text(page.subtitle)}</p>"
    return f'<div class="factscope notebook"><style>{style()}</style>{heading}{"".join(parts)}</div>'


def _section(section: Section, is_open: bool) -> str:
    inside = paragraphs(section.explanation) + "".join(_shown(spec) for spec in section.specs)
    summary = f"<summary><b>{html_text(section.heading)}</b></summary>"
    return f"<details{' open' if is_open else ''}>{summary}{inside}</details>"


def _shown(spec: Spec) -> str:
    if isinstance(spec, Table) and len(spec.rows) > ROWS:
        note = f"{spec.note} The first {ROWS} of {len(spec.rows)} rows; the page has all.".strip()
        return fragment(replace(spec, rows=spec.rows[:ROWS], note=note))
    still = image(spec)
    if still is None and not is_figure(spec):
        return fragment(spec)
    words = f"<p><b>{html_text(spec.title)}</b></p>"
    still = still or "<p><i>Drawn on the page alone: it needs clicks.</i></p>"
    caption = f'<p class="note">{html_text(spec.caption())}</p>' if spec.caption() else ""
    return f"<figure>{words}{still}{caption}</figure>"
