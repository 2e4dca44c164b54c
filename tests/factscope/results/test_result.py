"""Results go out: as pandas tables and files that other programs read, as pages, and as figures."""

import importlib
import re
from pathlib import Path
from typing import Any

import pandas
import pytest

import factscope as fs
from factscope.errors import UserError
from factscope.plots.show import SHOWN
from factscope.plots.specs import Bars, Heatmap
from factscope.results import figures, tables
from factscope.results.result import Result
from factscope.runs.kinds import named
from helpers.browser import needs_chromium
from helpers.results import check_result
from helpers.shown_commands import ROOT
from studies.circuit import CircuitStudy
from studies.commands.options import FIGURE_FORMATS
from studies.edit import score
from studies.saved import KINDS


@pytest.fixture(scope="module")
def prompt(toy: Any) -> fs.Prompt:
    return fs.prompt(toy, "[Oda Voss] lives in", answer="Brask")


@pytest.fixture(scope="module")
def traced(toy: Any, prompt: fs.Prompt) -> fs.TraceResult:
    return fs.trace(toy, prompt, fs.TraceConfig(samples=2, window=2, sites=("mlp", "head")))


def test_every_result_that_is_shown_has_the_same_ways_out() -> None:
    for module in set(KINDS.values()):
        importlib.import_module(module)
    for kind, pages in SHOWN.items():
        assert issubclass(kind, Result), kind
        assert importlib.import_module(pages).records.__doc__, f"{pages} does not say what a row is"


def test_traces_lenses_circuits_and_edits_keep_the_contract(
    toy: Any, prompt: fs.Prompt, traced: fs.TraceResult, tmp_path: Path
) -> None:
    edit = fs.edit(toy, fs.request(toy, "[Oda Voss] lives in", "Vey"), "ft_m", settings={"steps": 1})
    circuit = fs.find_circuit(toy, prompt, fs.EAPIG(edges=50), swap="Oda Drey")
    check_result(traced, tmp_path / "trace", "TraceResult")
    check_result(fs.lens(toy, prompt), tmp_path / "lens", "LensResult")
    check_result(circuit, tmp_path / "circuit", "Circuit")
    check_result(CircuitStudy(circuit, answers=("Brask",)), tmp_path / "study", "CircuitStudy")
    check_result(edit, tmp_path / "edit", "Edit")
    scores = score(toy, [edit])
    check_result(scores, tmp_path / "scores", "EditScores")
    check_result(scores.report, tmp_path / "report", "EditReport")


def test_every_kind_of_result_has_its_example_in_the_contract() -> None:
    """Each kind that a folder may hold is given to `check_result` by name, somewhere in the tests."""
    held = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        held |= set(re.findall(r'^ +check_result\(.*, "(\w+)"\)$', file.read_text(encoding="utf-8"), re.MULTILINE))
    tables_of_their_own = {"Moments"}  # statistics that methods use; they are saved and drawn, and are no result
    assert set(KINDS) - held == tables_of_their_own
    assert [kind for kind in KINDS if kind in named(kind)] == []  # a reader is told a noun, and no name of a class


def test_a_row_of_the_table_is_the_number_that_was_measured(toy: Any, prompt: fs.Prompt, traced: Any) -> None:
    frame = traced.to_frame()
    cell = frame[(frame.site == "mlp") & (frame.layer == 1) & (frame.pos == 2)].iloc[0]
    assert cell.effect == float(traced.grid("mlp").effect[1, 2])
    assert cell.token == prompt.labels[2]
    heads = frame[frame.site == "head"]
    assert len(heads) == traced.grid("head").effect.numel()
    assert float(heads[(heads.layer == 0) & (heads["head"] == 1) & (heads.pos == 3)].effect.iloc[0]) == float(
        traced.grid("head").effect[0, 1, 3]
    )
    seen = fs.lens(toy, prompt)
    last = seen.to_frame().iloc[-1]
    assert (last["rank"], last.top) == (int(seen.rank[-1, -1]), seen.top[-1][-1])


def test_files_are_read_back_by_their_own_library(traced: Any, tmp_path: Path) -> None:
    frame = traced.to_frame()
    pandas.testing.assert_frame_equal(pandas.read_parquet(traced.save_table(tmp_path / "a" / "t.parquet")), frame)
    again = pandas.read_csv(traced.save_table(tmp_path / "t.csv"), keep_default_na=False, na_values=[""])
    pandas.testing.assert_series_equal(again.effect, frame.effect)
    assert traced.save_table(tmp_path / "t.tex").read_text(encoding="utf-8").count("\\\\") == len(frame) + 1


def test_a_spreadsheet_computes_no_text(tmp_path: Path) -> None:
    """Text of prompts and models that would be a formula has an apostrophe before it; numbers are as they were."""
    said = ["=1+1", "+cmd|' /C calc'!A0", "-x", "@SUM(A1)", "\t=1", "a=1", "-0.5", "+3", "-"]
    records = [{"said": text, "n": -1.5, "k": -2} for text in said]
    again = pandas.read_csv(tables.write(records, tmp_path / "t.csv"), dtype={"said": str})
    assert again.said.tolist() == [f"'{text}" for text in said[:5]] + ["a=1", "-0.5", "+3", "'-"]
    assert (again.n == -1.5).all()
    assert (again.k == -2).all()
    assert pandas.read_parquet(tables.write(records, tmp_path / "t.parquet")).said.tolist() == said
    assert "'" not in tables.latex(tables.frame([{"said": "=1+1"}]))


def test_a_tables_text_is_harmless_in_latex() -> None:
    text = tables.latex(tables.frame([{"a_b": "50 % & $x$ \\input{y} #1 ~^{", "n": 1 / 3}, {"a_b": None}]))
    assert "a\\_b" in text
    assert "50 \\% \\& \\$x\\$ \\textbackslash input\\{y\\} \\#1" in text
    assert "a b" in tables.latex(tables.frame([{"said": "a\n\nb"}]))  # an empty line would end a paragraph
    assert "0.3333" in text
    assert "0.33333" not in text


@pytest.mark.parametrize("name", ["t.xlsx", "table"])
def test_a_table_of_another_kind_is_refused_before_anything_is_written(traced: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"a table is one of \.csv, \.parquet, \.tex"):
        traced.save_table(tmp_path / "new" / name)
    assert not (tmp_path / "new").exists()


def test_figures_of_one_title_do_not_write_over_each_other(tmp_path: Path) -> None:
    one = Bars("The same", ("a",), [1.0])  # type: ignore[arg-type]
    made = figures.write([one, one], tmp_path)
    assert [place.name for place in made] == ["the-same.svg", "the-same-2.svg"]


def test_the_command_names_the_formats_that_there_are() -> None:
    assert FIGURE_FORMATS == figures.FORMS


def test_a_format_that_cannot_be_made_is_told_in_one_sentence(monkeypatch: Any, tmp_path: Path, traced: Any) -> None:
    with pytest.raises(UserError, match="there is no figure format 'gif'; choose one of svg, pdf, png"):
        traced.save_figures(tmp_path / "new", "gif")
    monkeypatch.setattr(figures, "BROWSERS", ("no-such-browser",))
    with pytest.raises(UserError, match="made by Chromium or Chrome, and none is installed; svg needs neither"):
        traced.save_figures(tmp_path / "new", "pdf")
    assert not (tmp_path / "new").exists()


@needs_chromium
@pytest.mark.browser
def test_a_browser_draws_a_pdf_of_the_drawings_size_and_a_sharp_png(tmp_path: Path) -> None:
    spec = Heatmap("A map", [[0.0, 1.0], [2.0, 3.0]], ("0", "1"), ("a", "<b>"))  # type: ignore[arg-type]
    (drawing,) = figures.write([spec], tmp_path)
    width, height = map(int, re.search(r'width="(\d+)" height="(\d+)"', drawing.read_text()).groups())  # type: ignore[union-attr]
    (pdf,) = figures.write([spec], tmp_path, "pdf")
    body = pdf.read_bytes()
    assert body.startswith(b"%PDF")
    assert body.count(b"/Type /Page\n") + body.count(b"/Type /Page>") + body.count(b"/Type /Page ") == 1
    box = [float(number) for number in re.search(rb"/MediaBox \[([^\]]+)\]", body)[1].split()]  # type: ignore[index]
    assert box[2:] == pytest.approx([0.75 * width, 0.75 * height], abs=1.5)  # points of a pixel, 72 to 96
    (png,) = figures.write([spec], tmp_path, "png")
    head = png.read_bytes()[:24]
    size = [int.from_bytes(head[at : at + 4], "big") for at in (16, 20)]
    assert size == [figures.SHARP * width, figures.SHARP * height]
