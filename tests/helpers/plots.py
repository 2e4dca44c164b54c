"""Every picture there is, filled with hostile text."""

import base64
import dataclasses
import gzip
import importlib
import itertools
import pkgutil
import re
import typing
from collections.abc import Mapping
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np

from factscope import plots
from factscope.plots import render
from factscope.plots.escape import html_text
from factscope.plots.figures.network import EdgeMark, Network, NodeMark, View
from factscope.plots.specs import Heatmap, Spec, Text

HOSTILE = (
    "<script>alert(1)</script>",
    '<a href="javascript:alert(1)">x</a>',
    "\"'><img src=x onerror=alert(1)>",
    "<b>x</b><br>&lt;&amp;",
    "%{z}%{customdata}",
    "$x^2$",
    "</script><!-- \u2028\u2029",
)


def kinds() -> list[type[Spec]]:
    """Every spec there is, those of other files included."""
    for module in pkgutil.walk_packages(plots.__path__, "factscope.plots."):
        importlib.import_module(module.name)
    found = [Spec]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if dataclasses.is_dataclass(kind)]


def filled(kind: Any, text: str) -> Any:
    """A value of any spec with this text in every place for a text, made from the types of its fields alone."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return _made(kind, text)
    values = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        values[field.name] = _made(hints[field.name], text)
    return kind(**_fitting(kind, values, text))


def _made(hint: Any, text: str) -> Any:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return filled(hint, text)
    if hint is str:
        return text
    if origin is typing.Literal:
        return inside[0]
    if origin is tuple:
        return (_made(inside[0], text),) if inside[-1] is Ellipsis else tuple(_made(one, text) for one in inside)
    if origin is Mapping:
        return {text: np.array([[text]], dtype=object)}
    if inside:  # a union: a text if it may be one, else its first kind
        return text if str in inside else _made(inside[0], text)
    return {int: 0, float: 0.0, bool: False, np.ndarray: np.zeros(1), Spec: Text(text)}[hint]


def _fitting(kind: type, values: dict[str, Any], text: str) -> dict[str, Any]:
    """Arrays of one cell in the shape that a kind asks for."""
    if kind is Network:  # an arrow goes up, so there are two nodes
        low, high = filled(NodeMark, text), dataclasses.replace(filled(NodeMark, text), row=1.0)
        values |= {
            "nodes": (low, high),
            "views": (View(text, (dataclasses.replace(filled(EdgeMark, text), target=1, value=1.0),)),),
        }
    if kind is Heatmap:
        values |= {"values": np.zeros((1, 1)), "cell_labels": np.array([[text]], dtype=object), "limits": (0.0, 1.0)}
    return values


@cache
def random_network(edges: int, seed: int = 0, layers: int = 12, heads: int = 12) -> Network:
    """A network like a circuit, with so many lines: layers of heads and an MLP, all on paths from input to output."""
    generator = np.random.default_rng(seed)
    nodes = [NodeMark("embed", -1.0, "purple")]
    for layer in range(layers):
        nodes += [NodeMark(f"a{layer}.h{head}", float(layer), "red") for head in range(heads)]
        nodes.append(NodeMark(f"m{layer}", layer + 0.5, "green", "said of it"))
    nodes.append(NodeMark("logits", float(layers), "purple"))
    last = len(nodes) - 1
    lines: dict[tuple[int, int], None] = {}
    while len(lines) < edges:
        inner = sorted(generator.choice(np.arange(1, last), generator.integers(1, 6), replace=False).tolist())
        path = [0, *(b for a, b in itertools.pairwise([0, *inner]) if nodes[a].row < nodes[b].row), last]
        more = [(a, b) for a, b in itertools.pairwise(path) if nodes[a].row < nodes[b].row and (a, b) not in lines]
        if len(path) == 2 + len(inner) and len(lines) + len(more) <= edges:
            lines |= dict.fromkeys(more)
    values = generator.standard_t(2, edges) * 0.1
    marks = tuple(EdgeMark(a, b, float(value), "into q") for (a, b), value in zip(sorted(lines), values, strict=True))
    rows = tuple((layer + half, f"layer {layer}") for layer in range(layers) for half in (0.0, 0.5))
    kinds: Any = (("red", "head"), ("green", "MLP"), ("purple", "embedding and logits"))
    return Network("Wiring", tuple(nodes), (View("all", marks),), kinds, rows, "effect", "nats")


def unpacked(html: str) -> str:
    """HTML with what stands compressed in it in the place of its block, as the page's script reads it."""
    block = r'<script type="application/gzip">([^<]*)</script>'
    return re.sub(block, lambda found: gzip.decompress(base64.b64decode(found[1])).decode(), html)


class Elements(HTMLParser):
    """What an HTML parser sees: tags with their attributes, texts, and the contents of JSON blocks."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


DRAWN = [kind for kind in kinds() if render.is_figure(filled(kind, "word"))]


def html_shown(text: str) -> str:
    return Elements(html_text(text)).texts[0]
