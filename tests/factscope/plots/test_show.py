"""Results show themselves: the page's figures in a notebook, the command's words in a terminal."""

import base64
import importlib
import io
import pkgutil
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from factscope.data.load import load_facts
from factscope.model.prompts import prompt_of
from factscope.plots.show import SHOWN, in_words, page_of, pictures
from factscope.plots.specs import Bars, Card, Curves, Heatmap, Series
from factscope.plots.svg import image, svg
from helpers.models import TOY
from tracing.causal import Config, trace
from tracing.logit_lens import lens
from tracing.results import LensResult, TraceResult

PACKAGES = ("tracing", "circuits", "editing", "studies")
FACT = load_facts(TOY / "toy_town.json")[0]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def results(toy: Any) -> tuple[TraceResult, LensResult]:
    result = trace(toy, prompt_of(toy, FACT), Config(samples=2, window=2, sites=("mlp",)))
    return result, lens(toy, result.prompt)


def test_every_view_that_is_named_is_there() -> None:
    for package in PACKAGES:
        for found in pkgutil.walk_packages([str(Path(__file__).parents[3] / package)], f"{package}."):
            importlib.import_module(found.name)
    names = {cls.__name__ for cls in SHOWN}
    assert {"TraceResult", "LensResult", "AverageResult", "TraceStudy", "Circuit", "CircuitStudy", "Edit", "EditReport",
            "EditStudy", "SequenceResult"} <= names  # fmt: skip
    for pages in SHOWN.values():
        there = importlib.import_module(pages)
        assert callable(there.page), pages
        assert callable(there.words), pages
        assert callable(there.summary), pages


def test_a_terminal_shows_the_words_of_the_command(results: Any) -> None:
    for result in results:
        assert repr(result) == in_words(result)
        told = io.StringIO()
        Console(file=told, width=500, color_system=None).print(result)
        assert told.getvalue().split() == in_words(result).split()


def test_a_notebook_shows_every_section_and_figure_of_the_page(results: Any) -> None:
    for result in results:
        shown, page = result._repr_mimebundle_(), page_of(result)
        assert shown["text/plain"] == in_words(result)
        assert all(section.heading in shown["text/html"] for section in page.sections)
        assert shown["text/html"].count("<img") == len(pictures(result)) > 0
        assert "<script" not in shown["text/html"]
        assert len(shown["text/html"]) < 150_000


def test_a_still_map_has_the_colour_of_each_cell_where_it_is() -> None:
    """The largest cell, and it alone, has the strongest colour; places left out have a grey."""
    values = np.array([[0.0, 1.0, 9.0], [0.2, 0.3, 0.1]])
    spec = Heatmap("A map", values, ("0", "1"), ("a", "b", "c"), left_out=(2,), palette="red")
    drawn = ET.fromstring(str(svg(spec)))
    cells = {path.get("d"): path.get("fill") for path in drawn.iter(f"{SVG}path")}
    places = {place: colour for d, colour in cells.items() for place in re.findall(r"M[^z]*z", str(d))}
    assert len(places) == values.size
    columns = sorted({float(re.match(r"M([\d.]+)", place)[1]) for place in places})  # type: ignore[index]
    strongest = min(places, key=lambda place: sum(bytes.fromhex(str(places[place])[1:])))
    assert strongest.startswith(f"M{columns[1]:.1f} ")
    grey = [colour for place, colour in places.items() if place.startswith(f"M{columns[2]:.1f} ")]
    assert all(max(bytes.fromhex(str(c)[1:])) - min(bytes.fromhex(str(c)[1:])) < 8 for c in grey)


def test_a_still_curve_goes_through_its_points() -> None:
    spec = Curves("A curve", np.arange(3), (Series("y", np.array([0.0, 2.0, np.nan])),))
    line = next(path for path in ET.fromstring(str(svg(spec))).iter(f"{SVG}path") if path.get("stroke-width"))
    points = re.findall(r"[ML]([\d.]+) ([\d.]+)", str(line.get("d")))
    assert len(points) == 2  # no point where there is no number
    assert float(points[0][1]) > float(points[1][1])  # larger is higher


def test_a_logarithmic_axis_puts_equal_ratios_at_equal_distances() -> None:
    spec = Curves("Ranks", np.arange(3), (Series("rank", np.array([1.0, 10.0, 100.0])),), log_y=True)
    line = next(path for path in ET.fromstring(str(svg(spec))).iter(f"{SVG}path") if path.get("stroke-width"))
    heights = [float(y) for _, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", str(line.get("d")))]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)  # coordinates have one digit


def test_bars_are_as_long_as_their_values() -> None:
    drawn = ET.fromstring(str(svg(Bars("Bars", ("one", "two"), np.array([1.0, -2.0])))))
    widths = [float(str(bar.get("width"))) for bar in drawn.iter(f"{SVG}rect") if bar.get("height") == "14"]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)


def test_other_peoples_text_stays_text() -> None:
    evil = '<script>alert(1)</script>"'
    spec = Heatmap(evil, np.zeros((1, 1)), (evil,), (evil,), value_title=evil)
    ET.fromstring(str(svg(spec)))  # still well-formed
    shown = str(image(spec))
    assert "<script" not in shown
    data = base64.b64decode(shown.partition("base64,")[2].partition('"')[0]).decode()
    assert "<script" not in data


def test_what_is_not_drawn_still_is_none() -> None:
    assert svg(Card("A card", ())) is None
    assert image(Card("A card", ())) is None


def test_a_value_without_a_page_says_so() -> None:
    with pytest.raises(TypeError, match="int has no page"):
        page_of(3)
