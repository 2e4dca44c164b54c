"""Every picture there is, filled with hostile text."""

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Mapping
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
