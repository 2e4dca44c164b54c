"""From a spec to a piece of HTML, for a page and for a notebook.

Tables, cards, headlines and text are real HTML: they can be read aloud, copied, searched and printed without a script.
A plotly figure is a place for it, with its data beside it that `page.js` draws: JSON, compressed, for most of it is
the words that a reader sees who points at a cell, and these repeat each other. Every text passes through `html_text`
or `script_json`, or is base64.
"""

import base64
import gzip
from functools import singledispatch
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from factscope.plots import render
from factscope.plots.escape import html_text, script_json, visible
from factscope.plots.specs import Card, Cell, Headline, Heatmap, Links, Spec, Table, Text
from factscope.plots.svg import image

WIDE = 28  # columns from which a heatmap takes the whole width of the page; with words in its cells always
NARROWEST = 13  # pixels per column of such a heatmap; on a narrower screen it scrolls
NARROWEST_WITH_WORDS = 46
LONG = 16  # rows from which a table scrolls in a window of its own
PRINTED = 40  # rows of such a table on paper
SENTENCE = 28  # letters from which a column's texts are sentences, which a narrow page does not cut to a word a line


@singledispatch
def fragment(spec: Spec) -> str:
    """The HTML of one spec; register a function here to add a kind that plotly does not draw."""
    light, dark = render.as_json(spec, "light"), render.as_json(spec, "dark")
    data = {**light, "config": render.config(spec), "title": render.title(spec), "dark": differences(light, dark)}
    least = _least_width(spec)
    return (
        f'<figure class="spec drawn{" wide" if least else ""}">{_heading(spec)}<div class="frame">'
        f'<div class="plot" role="group" aria-label="{html_text(spec.title)}" '
        f'style="height:{light["layout"]["height"]}px;min-width:{least}px">'
        f"{compressed(script_json(data))}</div></div>{_caption(spec)}</figure>"
    )


@fragment.register
def _(spec: Table) -> str:
    numeric = [
        all(_is_number(row[place]) or row[place] is None for row in spec.rows) for place in range(len(spec.columns))
    ]
    texts = [max((len(str(row[place])) for row in spec.rows), default=0) > SENTENCE for place in range(len(numeric))]
    kinds = [
        f' class="{"number" if one and spec.rows else "text sentence" if text else "text"}"'
        for one, text in zip(numeric, texts, strict=True)
    ]
    head = "".join(
        f'<th scope="col"{kind}>{html_text(name)}</th>' for name, kind in zip(spec.columns, kinds, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in spec.rows
    )
    long = " long" if len(spec.rows) > LONG else ""
    cut = f'<p class="note paper">The first {PRINTED} of {len(spec.rows)} rows.</p>' if len(spec.rows) > PRINTED else ""
    heading, end = (
        (f"<details><summary>{_heading(spec)}</summary>", "</details>") if spec.folded else (_heading(spec), "")
    )
    return (
        f'<section class="spec wide">{heading}<div class="scroll{long}" tabindex="0" role="region" '
        f'aria-label="{html_text(spec.title)}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f"{cut}{_caption(spec)}{end}</section>"
    )


@fragment.register
def _(spec: Card) -> str:
    items = "".join(f"<div><dt>{html_text(name)}</dt><dd>{html_text(value)}</dd></div>" for name, value in spec.items)
    command = f'<pre class="command"><code>{html_text(spec.command)}</code></pre>' if spec.command else ""
    return f'<section class="spec card wide">{_heading(spec)}<dl>{items}</dl>{command}{_caption(spec)}</section>'


@fragment.register
def _(spec: Headline) -> str:
    numbers = "".join(
        f"<div><dt>{html_text(number.label)}</dt><dd>{html_text(number.value)}</dd></div>" for number in spec.numbers
    )
    numbers = f"<dl>{numbers}</dl>" if numbers else ""
    return f'<section class="spec headline wide">{_heading(spec)}{numbers}<p>{html_text(spec.sentence)}</p></section>'


@fragment.register
def _(spec: Text) -> str:
    return f'<section class="spec prose wide">{_heading(spec)}{paragraphs(spec.text)}</section>'


@fragment.register
def _(spec: Links) -> str:
    links = ", ".join(f'<a href="./{quote(name, safe="")}/page.html">{html_text(name)}</a>' for name in spec.folders)
    return f'<section class="spec prose wide">{_heading(spec)}<p>{links}</p></section>'


def paragraphs(text: str) -> str:
    """Plain words as paragraphs, parted at empty lines."""
    return "".join(f"<p>{html_text(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def style() -> str:
    """The style sheet, for everything under the class `factscope`."""
    return "".join(
        (files("factscope.plots") / name).read_text(encoding="utf-8") for name in ("page.css", "network.css")
    )


def compressed(text: str, name: str = "") -> str:
    """A script block that no browser runs, with a text as base64 of gzip; `unpacked` of `page.js` reads it."""
    named = f' id="{name}"' if name else ""
    packed = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()  # the same bytes each time
    return f'<script type="application/gzip"{named}>{packed}</script>'


def mimebundle(spec: Spec) -> dict[str, Any]:
    """What a notebook shows for a spec that ends a cell: the same figures and tables as a page."""
    if render.is_figure(spec):
        return render.notebook_bundle(spec)
    shown = image(spec) or fragment(spec)  # what needs our script is shown still
    content = f'<div class="factscope notebook"><style>{style()}</style>{shown}</div>'
    return {"text/html": content, "text/plain": f"{type(spec).__name__}: {spec.title}"}


def differences(one: Any, other: Any, path: tuple[str | int, ...] = ()) -> list[list[Any]]:
    """Where two JSON values differ, as paths and the other's values: what a dark figure needs beyond a light one."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in differences(one[key], other[key], (*path, key))]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [found for place in range(len(one)) for found in differences(one[place], other[place], (*path, place))]
    return [] if one == other else [[list(path), other]]


def _least_width(spec: Spec) -> int:
    """Pixels that a wide heatmap needs for its labels to be read, or what a spec asks for; 0 for what fits anywhere."""
    if not isinstance(spec, Heatmap):
        return int(getattr(spec, "least_width", 0))
    if spec.cell_labels is None and len(spec.columns) <= WIDE:
        return 0
    return 140 + len(spec.columns) * (NARROWEST if spec.cell_labels is None else NARROWEST_WITH_WORDS)


def _heading(spec: Spec) -> str:
    return f"<h3>{html_text(spec.title)}</h3>" if spec.title else ""


def _caption(spec: Spec) -> str:
    words = html_text(spec.caption())
    if not words:
        return ""
    return (
        f'<figcaption class="note">{words}</figcaption>' if render.is_figure(spec) else f'<p class="note">{words}</p>'
    )


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _cell(cell: Cell, kind: str) -> str:
    """Four digits to read (no zero below zero), as many as float32 has to sort by; a text with outer spaces drawn."""
    if cell is None or cell != cell:  # a number that is not equal to itself is NaN
        return f"<td{kind}>–</td>"
    if isinstance(cell, bool):
        return f"<td{kind}>{'yes' if cell else 'no'}</td>"
    if isinstance(cell, int | float):
        sorted_by, shown = (cell, cell) if isinstance(cell, int) else (f"{cell:.9g}", f"{cell + 0.0:.4g}")
        return f'<td{kind} data-value="{sorted_by}">{shown}</td>'
    return f"<td{kind}>{html_text(visible(cell))}</td>"
