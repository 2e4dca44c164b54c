"""Pages as they are looked at: wide and narrow, light and dark, and on paper nothing is cut off and no text is pale."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factscope.plots.page import write_page
from factscope.plots.specs import Cell, Curves, Heatmap, Page, Section, Series, Table
from helpers.browser import needs_chromium
from helpers.looks import SHEET, axe, looks
from helpers.plots import DRAWN, filled, kinds, random_network
from studies.explorer.page import index_html
from studies.explorer.runs import Entry

MOST = 3_000_000  # bytes of a page, plotly included


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page with every kind of spec and a table of many columns; the same without figures; and a list of runs."""
    folder = tmp_path_factory.mktemp("looks")
    names = tuple(f"a name of column {place}" for place in range(9))
    row: tuple[Cell, ...] = (
        "blocks.5.mlp.W_out",
        "The Eiffel Tower is located in the city of",
        *(12345.678 for _ in range(7)),
    )
    table = Table("Table", names, (row,) * 3)
    found = {}
    for name, chosen in (("all", kinds()), ("plain", [kind for kind in kinds() if kind not in DRAWN])):
        wide = Heatmap("Words", [[0.5] * 40], ("0",), ("word",) * 40, cell_labels=[["word"] * 40])  # type: ignore[arg-type]
        specs = (
            *(filled(kind, "word") for kind in chosen),
            *((wide, random_network(100)) if name == "all" else ()),
            table,
        )
        more = tuple(Section(f"Where the answer {place} is read, and how", ()) for place in range(9))
        parts = (Section("What was found", specs, "A sentence."), *more)
        found[name] = write_page(Page("A page", parts), folder / name / "page.html")
    entry = Entry(("runs", "a"), "a trace", ("Oda Voss lives in " * 4,), "toy", "trace x " * 9, "2026-01-01T10:00", 1.5)
    cut = Entry(("b",), "a bench", (), "", "", "", None, "cut")
    found["list"] = folder / "list" / "index.html"
    found["list"].parent.mkdir()
    found["list"].write_text(index_html("Runs", (entry, cut)), encoding="utf-8")
    return found


@pytest.mark.browser
@needs_chromium
def test_nothing_is_cut_off_and_no_text_is_pale(pages: dict[str, Path], tmp_path: Path) -> None:
    """On wide and narrow screens, light and dark, and on paper."""
    plain = [pages["plain"], pages["list"]]
    light = looks(plain, tmp_path, (1440, 800, SHEET)) | looks([pages["all"]], tmp_path, (SHEET,))
    for seen in (light, looks(plain, tmp_path, (1440, 800), dark=True)):
        for name, found in seen.items():
            assert found.pop("texts", 0), (name, found)
            assert found == {"cut": [], "pale": []}, name


@pytest.mark.browser
@needs_chromium
def test_axe_finds_nothing_to_say_and_finds_what_is_planted(pages: dict[str, Path], tmp_path: Path) -> None:
    """Names, roles, labels, headings, contrast: every kind of figure and table, and the list of runs."""
    planted = tmp_path / "planted" / "page.html"
    planted.parent.mkdir()
    faults = '<main><img src="data:,"><input><h5>a heading</h5><p style="color:#999">pale</p>'
    planted.write_text(pages["plain"].read_text(encoding="utf-8").replace("<main>", faults), encoding="utf-8")
    found = axe([pages["all"], pages["list"], planted], tmp_path, (1440,))
    found |= axe([pages["all"], pages["list"]], tmp_path, (800,), dark=True)
    said = [rule.split()[1] for rule in found.pop("planted/page at 1440")["violations"]]
    assert sorted(said) == ["color-contrast", "heading-order", "image-alt", "label"]
    for name, each in found.items():
        assert each.get("violations") == [], (name, each)
        assert not [rule for rule in each["unsure"] if "(0)" in rule], name
        assert {"color-contrast", "heading-order"} <= set(each["passed"]), name


def full_diff() -> Page:
    """What `circuit diff` draws of a model like the default one: 30 layers of 9 heads, 12 tokens, no number twice."""
    generator = np.random.default_rng(0)
    layers, columns = tuple(str(layer) for layer in range(30)), tuple(f" token{place}" for place in range(12))
    maps = tuple(
        Heatmap(
            f"{kind}, 10 layers: {when}", generator.normal(size=(30, 12)), layers, columns, scale="diverging",
            value_title="towards the new answer", unit="logits", left_out=(0,), marked=(1, 2),
        )
        for kind in ("Residual stream", "MLP outputs", "Attention outputs")
        for when in ("before", "after", "after less before", "a null less before")
    )  # fmt: skip
    sides = [random_network(4400, seed, layers=30, heads=9) for seed in range(4)]
    wiring = replace(sides[0], views=tuple(side.views[0] for side in sides))
    curves = tuple(
        Curves(
            f"Lens {number}", np.arange(31), tuple(Series(f"line {one}", generator.normal(size=31)) for one in "abcde")
        )
        for number in range(4)
    )
    tables = tuple(
        Table(f"Table {number}", tuple("abcdefghi"), tuple(
            ("a12.h3", "a role before → a role after", *generator.normal(size=7).tolist()) for _ in range(60)
        ))
        for number in range(6)
    )  # fmt: skip
    return Page("A diff", (Section("All", (*maps, wiring, *curves, *tables)),))


def test_a_page_is_under_three_megabytes(pages: dict[str, Path], tmp_path: Path) -> None:
    largest = write_page(full_diff(), tmp_path / "page.html")
    assert max(page.stat().st_size for page in (*pages.values(), largest)) < MOST
