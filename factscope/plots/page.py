"""A page of specs as one HTML file that opens anywhere, offline, years from now.

Plotly, the style sheet and the data are inside the file; plotly and the data are compressed (gzip, undone by the
browser's own DecompressionStream), which makes 2 megabytes of 5 for plotly and a tenth for a figure's data; a page
without plotly's figures does without plotly.
`light=True` writes plotly once, beside the pages that share it, and refers to it by name; such a page is small and
travels with its folder. The page forbids itself every
network request and every script but its own two (Content-Security-Policy, by hash), so a text that slipped through our
escaping would still find nobody to obey it.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path

from factscope.files import write_text_atomically
from factscope.plots.escape import html_text, slug
from factscope.plots.fragments import compressed, fragment, paragraphs, style
from factscope.plots.render import plotly_script
from factscope.plots.specs import Page, Section

SHARED_SCRIPT = "plotly.min.js"
FIGURE = '<div class="plot"'  # what plotly draws into


def write_page(page: Page, path: str | Path, light: bool = False) -> Path:
    """Write the page whole or not at all and give its path; a light one brings its shared plotly into the folder."""
    path = Path(path)
    if light:
        shared, script = path.parent / SHARED_SCRIPT, plotly_script()
        if not shared.is_file() or shared.read_bytes() != script.encode():
            write_text_atomically(shared, script)
    return write_text_atomically(path, page_html(page, light))


def page_html(page: Page, light: bool = False) -> str:
    """The whole document as text; a light one expects `plotly.min.js` beside it."""
    ours = "".join((files("factscope.plots") / name).read_text(encoding="utf-8") for name in ("page.js", "network.js"))
    library = plotly_script()
    names = _anchors(page.sections)
    links = "".join(
        f'<a href="#{name}">{html_text(section.heading)}</a>'
        for name, section in zip(names, page.sections, strict=True)
    )
    sections = "".join(_section(section, name) for section, name in zip(page.sections, names, strict=True))
    subtitle = f'<p class="subtitle">{html_text(page.subtitle)}</p>' if page.subtitle else ""
    loaded = f'<script src="{SHARED_SCRIPT}"></script>' if light else _library()
    loaded = loaded if FIGURE in sections else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(library, ours, light)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html_text(page.title)}</title>
<style>{style()}</style>
</head>
<body class="factscope">
<header><h1>{html_text(page.title)}</h1>{subtitle}</header>
<nav aria-label="Sections">{links}</nav>
<main>
<noscript><p>The figures need JavaScript; tables and text do not.</p></noscript>
{sections}</main>
{loaded}
<script>{ours}</script>
</body>
</html>
"""


@cache
def _library() -> str:
    return compressed(plotly_script(), "plotly")


def _section(section: Section, name: str) -> str:
    specs = "\n".join(fragment(spec) for spec in section.specs)
    return (
        f'<section class="part" id="{name}"><h2>{html_text(section.heading)}</h2>{paragraphs(section.explanation)}'
        f'<div class="grid">\n{specs}\n</div></section>\n'
    )


def _anchors(sections: tuple[Section, ...]) -> list[str]:
    """One name per section, from its heading; a number parts equal ones."""
    return [f"{slug(section.heading, 'section')}-{place}" for place, section in enumerate(sections, start=1)]


def _policy(library: str, ours: str, light: bool) -> str:
    """Nothing but what is in the file: our scripts by their hash, styles, and the pictures that plotly draws itself."""
    allowed = ["'self'", "file:", script_hash(ours)] if light else [script_hash(library), script_hash(ours)]
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(allowed)}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def script_hash(script: str) -> str:
    """What a Content-Security-Policy calls a script by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
