"""A page in a real browser: the only judge of whether a text was shown or obeyed, and a figure drawn."""

import re
from pathlib import Path

import numpy as np
import pytest

from factscope.plots.colours import INK, Theme
from factscope.plots.page import write_page
from factscope.plots.specs import Heatmap, Page, Section, Table
from helpers.browser import needs_chromium, open_page, with_script
from helpers.plots import DRAWN, HOSTILE, Elements, filled, html_shown, kinds

pytestmark = [pytest.mark.browser, needs_chromium]

HOVER = """
for (const area of document.querySelectorAll(".nsewdrag")) {
  const box = area.getBoundingClientRect();
  const middle = { bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
  for (const kind of ["mouseover", "mousemove"]) area.dispatchEvent(new MouseEvent(kind, middle));
}
"""


@pytest.fixture(scope="module")
def hostile_page() -> Page:
    """Every kind of spec, once for each hostile text, in every place for a text."""
    sections = (Section(text, tuple(filled(kind, text) for kind in kinds()), text) for text in HOSTILE)
    return Page(HOSTILE[0], tuple(sections), HOSTILE[0])


@pytest.mark.parametrize("light", [False, True], ids=["one file", "shared plotly"])
def test_every_figure_is_drawn_and_the_console_is_silent(hostile_page, tmp_path, light):
    seen = open_page(write_page(hostile_page, tmp_path / "page.html", light), tmp_path)
    assert seen.console == ()
    elements = Elements(seen.dom)
    drawn = [found for tag, found in elements.tags if tag == "div" and "js-plotly-plot" in (found.get("class") or "")]
    assert len(drawn) == len(DRAWN) * len(HOSTILE)
    assert sum(found.get("class") == "main-svg" for tag, found in elements.tags if tag == "svg") >= len(drawn)
    assert "drawn-all" in str(next(found for tag, found in elements.tags if tag == "body")["class"]).split()


def test_hostile_text_is_shown_and_not_obeyed(hostile_page, tmp_path):
    page = with_script(write_page(hostile_page, tmp_path / "page.html"), HOVER)
    seen = open_page(page, tmp_path, height=20000)
    assert seen.console == ()
    elements = Elements(seen.dom)
    for text in HOSTILE:
        assert html_shown(text) in texts_of(seen.dom, "ytitle"), text  # an axis title
        assert html_shown(text) in texts_of(seen.dom, "nums"), text  # a hover text
    assert not any("onerror" in found for _, found in elements.tags)
    links = {found.get("href") or "" for tag, found in elements.tags if tag == "a"}
    assert not any(link.startswith("javascript") for link in links)


def texts_of(dom: str, classes: str) -> str:
    """What stands in the SVG texts of some classes, tags taken out as the browser has parsed them."""
    found = re.findall(rf'<text[^>]*class="[^"]*(?:{classes})[^"]*"[^>]*>.*?</text>', dom, re.DOTALL)
    return "\n".join("".join(Elements(text).texts) for text in found)


@pytest.mark.parametrize(("dark", "theme"), [(False, "light"), (True, "dark")])
def test_figures_take_the_colours_of_the_theme(tmp_path: Path, dark: bool, theme: Theme) -> None:
    spec = filled(Heatmap, "word")
    path = write_page(Page("p", (Section("s", (spec,)),)), tmp_path / "page.html")
    seen = open_page(path, tmp_path, dark=dark, picture=True)
    other: Theme = "dark" if theme == "light" else "light"
    assert rgb(INK[theme].accent) in seen.dom
    assert rgb(INK[other].accent) not in seen.dom
    assert seen.png is not None
    assert seen.png.stat().st_size > 0


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))})"


def test_a_narrow_page_does_not_scroll_sideways(tmp_path):
    columns = tuple(f" token{place}" for place in range(60))
    wide = Heatmap("Long", np.ones((4, 60)), tuple("0123"), columns)
    table = Table("Table", tuple("abcdefghij"), (tuple("a long sentence" for _ in range(10)),))
    path = write_page(Page("p" * 200, (Section("s", (wide, filled(Heatmap, "word"), table)),)), tmp_path / "page.html")
    measure = "document.body.dataset.spill = document.documentElement.scrollWidth - innerWidth;"
    seen = open_page(with_script(path, measure), tmp_path, width=500)
    found = re.search(r'data-spill="(-?\d+)"', seen.dom)
    assert found is not None
    assert int(found[1]) <= 0


def test_a_click_on_a_header_sorts_numbers_as_numbers_and_leaves_gaps_last(tmp_path):
    table = Table("t", ("name", "size"), (("a", 10), ("b", 9.5), ("c", None), ("d", -1e-9), ("e", 100)))
    path = write_page(Page("p", (Section("s", (table,)),)), tmp_path / "page.html")
    sort = """const said = []; for (let click = 0; click < 2; click += 1) {
      document.querySelectorAll("th button")[1].click();
      said.push([...document.querySelectorAll("tbody tr")].map((row) => row.cells[0].textContent).join(""));
    } document.title = said.join("|");"""
    seen = open_page(with_script(path, sort), tmp_path)
    assert "<title>dbaec|eabdc</title>" in seen.dom
