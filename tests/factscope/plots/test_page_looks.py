"""Pages as they are looked at: wide and narrow, light and dark, and on paper nothing is cut off and no text is pale."""

from pathlib import Path

import pytest

from factscope.plots.page import write_page
from factscope.plots.specs import Cell, Heatmap, Page, Section, Table
from helpers.browser import needs_chromium
from helpers.looks import SHEET, looks
from helpers.plots import DRAWN, filled, kinds
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
        specs = (*(filled(kind, "word") for kind in chosen), *((wide,) if name == "all" else ()), table)
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


def test_a_page_is_under_three_megabytes(pages: dict[str, Path]) -> None:
    assert max(page.stat().st_size for page in pages.values()) < MOST
