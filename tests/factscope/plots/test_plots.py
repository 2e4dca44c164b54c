"""True of every picture: hostile text stays text, places stay apart, files are whole, pages stay at home."""

import base64
import gzip
import itertools
import json
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factscope import files
from factscope.errors import StoreError
from factscope.files import write_text_atomically
from factscope.plots import render, specs
from factscope.plots.colours import FROM_CONES, FROM_OKLAB, INK, colour_at, colour_scale
from factscope.plots.escape import script_json, visible
from factscope.plots.figures.intervals import Group, Intervals
from factscope.plots.figures.slides import Slides
from factscope.plots.fragments import differences, fragment, mimebundle
from factscope.plots.labels import numbers_in_words, settings_in_words
from factscope.plots.page import page_html, write_page
from factscope.plots.specs import Bars, Curves, Heatmap, Page, Section, Series, Table, Text, state_labels, state_name
from factscope.plots.svg import has_still, image, svg
from helpers.plots import DRAWN, HOSTILE, Elements, filled, html_shown, kinds, unpacked


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("text", HOSTILE)
def test_text_never_becomes_markup(kind, text):
    seen = Elements(unpacked(fragment(filled(kind, text))))
    harmless = Elements(unpacked(fragment(filled(kind, "word"))))

    assert [tag for tag, _ in seen.tags] == [tag for tag, _ in harmless.tags]
    assert [set(found) for _, found in seen.tags] == [set(found) for _, found in harmless.tags]  # no new attribute
    assert visible(text) in "".join(seen.texts) or html_shown(text) in "".join(seen.texts)
    assert [found["href"] for _, found in seen.tags if not (found.get("href") or "./").startswith("./")] == []


@pytest.mark.parametrize("kind", DRAWN, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("text", HOSTILE)
def test_no_string_of_a_figure_holds_a_foreign_tag_template_or_formula(kind, text):
    ours = re.compile(r'</?b>|<b style="color:#\w{6}">|<br>|</?i>|<span style="color:#\w{6}">|</span>')
    for titled, theme in itertools.product((True, False), INK):
        figure = render.figure(filled(kind, text), theme, titled)
        for string in strings(json.loads(figure.to_json())):
            bare = re.sub(r"%\{(customdata|text|x|y:\.4g)\}|<extra></extra>", "", ours.sub("", string))
            assert not re.search(r"[<>$]|%\{", bare), string


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from strings(inside)


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_json_is_the_same_json_and_cannot_leave_its_block(text):
    block = script_json({text: [text]})
    assert json.loads(block) == {text: [text]}
    assert not set(block) & set("<>&\u2028\u2029")


def test_every_invisible_character_is_drawn_and_words_keep_their_spaces():
    assert visible(" a b ") == "␣a b␣"
    assert visible("\n") == "↵"
    assert visible("  ") == "␣␣"
    assert visible("\u202eab") == "⟨U+202E⟩ab"
    shown = {visible(token) for token in ("", " ", "\n", "\t", "\u200b", "\u00a0", "\x00", "\ud800")}
    assert len(shown) == 8
    assert all(word.strip() for word in shown)


def heatmap(**changes: Any) -> Heatmap:
    values: dict[str, Any] = {"values": np.arange(6.0).reshape(2, 3), "rows": ("0", "1")}
    return Heatmap("Effect", **{**values, "columns": ("<s>", " the", " the"), **changes})


def test_equal_tokens_stay_two_columns():
    figure = render.figure(heatmap())
    assert list(figure.data[0].x) == [0, 1, 2]
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2]
    assert figure.layout.xaxis.ticktext[1] == figure.layout.xaxis.ticktext[2]


def test_layer_0_is_at_the_bottom():
    low, high = render.figure(heatmap()).layout.yaxis.range
    assert low < high


@pytest.mark.parametrize("scale", ["sequential", "diverging"])
def test_left_out_columns_have_no_say_in_the_colours(scale):
    quiet, loud = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3)
    loud[:, 0] = 1e6
    limits = [heatmap(values=values, left_out=(0,), scale=scale).colour_limits() for values in (quiet, loud)]
    assert limits[0] == limits[1]
    assert heatmap(values=loud, scale=scale).colour_limits() != limits[1]


def test_left_out_columns_are_still_shown_in_grey_and_the_caption_says_so():
    spec = heatmap(left_out=(0,))
    coloured, grey = render.figure(spec).data
    assert np.isnan(coloured.z[:, 0]).all()
    assert (grey.z[:, 0] == spec.values[:, 0]).all()
    assert len({colour[1:3] == colour[3:5] == colour[5:7] for _, colour in grey.colorscale}) == 1
    assert "<s> (0)" in spec.caption()


def test_zero_is_the_middle_of_a_diverging_scale():
    low, high = heatmap(values=np.array([[-1.0, 0, 5], [0, 0, np.nan]]), scale="diverging").colour_limits()
    assert low == -high == -5


@pytest.mark.parametrize("values", [np.zeros((2, 3)), np.full((2, 3), np.nan), np.full((2, 3), np.inf)])
def test_a_map_without_differences_can_be_drawn(values):
    low, high = heatmap(values=values).colour_limits()
    assert low < high
    assert fragment(heatmap(values=values))  # JSON without NaN or infinity, else it raises


def test_a_named_place_has_its_name_on_the_axis_and_in_the_hover_text():
    """A lens of 31 states: at the tick 29 the hover says layer 29, though it is the thirty-first point."""
    names = state_labels(31)
    drawn = render.figure(Curves("c", np.arange(31), (Series("s", np.arange(31)),), x_labels=names))
    axis = drawn.layout.xaxis
    assert (axis.type, axis.unifiedhovertitle.text) == ("category", "layer %{x}")
    assert tuple(drawn.data[0].x) == names == axis.categoryarray
    assert axis.tickvals == axis.ticktext
    assert [state_name(state) for state in (0, 30, None)] == ["the embedding", f"layer {names[30]}", "nowhere"]


def test_numbers_are_listed_as_a_person_would():
    assert numbers_in_words([7, 0, 1, 3, 4, 5]) == "0, 1, 3 to 5, 7"
    assert numbers_in_words([]) == ""


def test_a_gap_has_a_bracket_on_either_side():
    spec = heatmap(values=np.zeros((1, 5)), rows=("0",), columns=tuple("abcde"), marked=(0, 1, 4))
    assert len(render.figure(spec).layout.shapes) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: heatmap(values=np.zeros((3, 2))),
        lambda: heatmap(hover={"error": np.zeros(2)}),
        lambda: heatmap(marked=(3,)),
        lambda: Curves("c", np.arange(3), (Series("s", np.arange(4)),)),
        lambda: Curves("c", np.arange(3), (), x_labels=("a",)),
        lambda: Curves("c", np.arange(3), (), x_labels=("a", "b", "b")),
        lambda: Series("s", np.arange(3), low=np.arange(3)),
        lambda: Bars("b", ("x",), np.zeros(2)),
        lambda: Table("t", ("a", "b"), ((1,),)),
        lambda: Intervals("i", ("a", "b"), (Group("g", np.zeros(2), np.zeros(2), np.zeros(1)),)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(make):
    with pytest.raises(ValueError, match=r"shape|column|labels|band|rows"):
        make()


@pytest.mark.parametrize("theme", INK)
@pytest.mark.parametrize("palette", ["purple", "green", "red", "blue"])
def test_equal_steps_of_a_value_are_equal_steps_of_lightness(theme, palette):
    steps = np.diff([lightness(colour) for _, colour in colour_scale("sequential", palette, theme)])
    assert np.ptp(steps) < 0.01  # eight bits per channel, and channels cut at the edge of the gamut


@pytest.mark.parametrize("theme", INK)
def test_a_diverging_scale_is_as_light_on_either_side_of_zero(theme):
    light = np.array([lightness(colour) for _, colour in colour_scale("diverging", "purple", theme)])
    assert np.abs(light - light[::-1]).max() < 0.01


def lightness(colour: str) -> float:
    """OKLab's L, by the way back from sRGB: solve for the cones, take roots, solve for the coordinates."""
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(np.linalg.solve(FROM_OKLAB, np.cbrt(np.linalg.solve(FROM_CONES, linear)))[0])


@pytest.mark.parametrize("values", [[0.0, 0.2, -0.3], [0.0, 0.0, 0.0], [3.0, 3.1, 3.2]])
def test_next_to_nothing_is_not_drawn_large(values: list[float]) -> None:
    """An axis with a least span has it, around what is seen, whether a browser draws it or we; more is as it is."""
    spec = Curves("c", np.arange(3), (Series("s", np.array(values)),), least=10.0)
    low, high = render.figure(spec).layout.yaxis.range
    assert high - low == pytest.approx(10)
    assert low == pytest.approx(-0.4 if min(values) >= 0 else (min(values) + max(values)) / 2 - 5)
    drawn = re.findall(r' d="(M[^"]*)"', str(svg(spec)))[-1]
    heights = [float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", drawn)]
    assert np.ptp(heights) == pytest.approx(22 * np.ptp(values), abs=0.2), "of 220 units of height"
    wide = replace(spec, series=(Series("s", 10 * np.array([-1.0, 0.0, 1.0])),))
    assert wide.widened() is None
    assert render.figure(wide).layout.yaxis.range is None


def test_a_logarithmic_axis_has_a_least_ratio() -> None:
    spec = Curves("c", np.arange(2), (Series("s", np.array([40.881, 40.875])),), log_y=True, least=1.25)
    low, high = spec.widened() or (0.0, 0.0)
    assert high / low == pytest.approx(1.25)
    assert low < 40.875 < 40.881 < high
    assert render.figure(spec).layout.yaxis.range == pytest.approx((np.log10(low), np.log10(high)))
    assert replace(spec, least=0.0).widened() is None
    assert replace(spec, series=(Series("s", np.array([1.0, 2.0])),)).widened() is None
    assert replace(spec, series=(Series("s", np.array([0.0, np.nan])),)).widened() is None


def test_a_dark_figure_is_the_light_one_with_its_differences():
    spec = filled(Heatmap, "word")
    light, dark = render.as_json(spec, "light"), render.as_json(spec, "dark")
    for path, value in differences(light, dark):
        inside = light
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = value
    assert light == dark


def test_points_without_a_logarithm_are_left_out_not_moved():
    spec = Curves("c", np.arange(3), (Series("s", np.array([0.0, 1.0, 10.0])),), log_y=True)
    y = render.figure(spec).data[0].y
    assert np.isnan(y[0])
    assert list(y[1:]) == [1, 10]


def test_a_band_below_zero_ends_at_the_lowest_value_seen_on_a_logarithmic_axis():
    series = Series("s", np.array([1.0, 10.0]), low=np.array([-1.0, 5.0]), high=np.array([2.0, 20.0]))
    low, high, _ = render.figure(Curves("c", np.arange(2), (series,), log_y=True)).data
    assert list(low.y) == [1, 5]
    assert list(high.y) == [2, 20]


def test_a_line_under_another_is_wider_and_a_single_interval_is_a_bar():
    """Else the lower of two equal lines cannot be seen, nor a band of no breadth."""
    one = Series("now", np.array([np.nan, 1.0]), low=np.array([np.nan, 0.5]), high=np.array([np.nan, 1.0]))
    over, apart = Series("so far", np.array([0.2, 1.0])), Series("apart", np.array([0.1, 0.9]))
    drawn = render.figure(Curves("C", np.arange(2), (one, over, apart)), "light").data
    assert [(line.name, line.marker.size) for line in drawn] == [("now", 10), ("so far", 5), ("apart", 5)]
    assert (drawn[0].error_y.arrayminus[1], drawn[0].error_y.array[1]) == (0.5, 0.0)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_on_any_colour_of_any_map_are_read(theme):
    """WCAG's contrast, computed from the two colours here once more, is that of text (4.5 to 1)."""

    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        straight = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * straight[0] + 0.7152 * straight[1] + 0.0722 * straight[2]

    values = np.linspace(-1, 1, 41)[None]
    maps: list[tuple[specs.Scale, specs.Palette]] = [
        ("diverging", "purple"),
        ("sequential", "blue"),
        ("sequential", "green"),
    ]
    for scale, palette in maps:
        names = tuple(map(str, range(41)))
        spec = Heatmap("M", values, ("0",), names, scale=scale, palette=palette, cell_labels=np.array([names]))
        words = render.figure(spec, theme).data[-1]
        assert words.text == names
        (low, high), drawn = spec.colour_limits(), colour_scale(scale, palette, theme)
        for value, ink in zip(values[0], words.textfont.color, strict=True):
            pair = sorted((luminance(ink), luminance(colour_at(drawn, (value - low) / (high - low)))))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5


def test_a_colour_bar_of_ranks_counts_ranks():
    ranks = np.array([[1.0, 30.0, 20_000.0]])
    spec = Heatmap("Rank", -np.log10(ranks), ("0",), ("a", "b", "c"), ranks=True, hover={"rank": ranks})
    bar = render.figure(spec, "light").data[0].colorbar
    assert dict(zip(bar.tickvals, bar.ticktext, strict=True)) == {
        0: "1", -1: "10", -2: "100", -3: "1,000", -4: "10,000"
    }  # fmt: skip
    assert ">20,000</text>" in (svg(spec) or "")


def test_the_slider_of_a_logarithmic_axis_has_whole_numbers():
    """Over one decade or two plotly would write 20 as a small 2."""
    states = tuple(Curves("S", np.arange(3), (Series("s", np.array(y)),), log_y=True) for y in ([1, 5, 22], [2, 3, 9]))
    axis = render.figure(Slides("S", ("0", "1"), states), "light").layout.yaxis
    assert axis.ticktext == ("1", "2", "5", "10", "20")


def test_settings_are_listed_in_words():
    settings = {
        "window": None,
        "targets": ("a", "b"),
        "sources": (),
        "descent": {"steps": 40, "stop": 0.5},
        "own": True,
    }
    assert settings_in_words(settings) == "window=none, targets=a + b, sources=none, steps=40, stop=0.5, own=yes"


def test_a_table_shows_four_digits_and_sorts_by_more():
    html = fragment(Table("t", ("p", "word"), ((0.123456789, " a"), (None, "b"))))
    assert 'data-value="0.123456789">0.1235<' in html
    assert "␣a" in html


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_kind_shows_itself_in_a_notebook(kind):
    spec = filled(kind, "word")
    bundle = spec._repr_mimebundle_()
    if render.is_figure(spec):
        assert render.figure(spec).layout.title.text == "word"
    elif has_still(spec):  # a network: its script does not run there
        assert str(image(spec)) in bundle["text/html"]
        assert "<script" not in bundle["text/html"]
    else:
        assert fragment(spec) in bundle["text/html"]
    assert set(mimebundle(spec)) == set(bundle)


def whole_page(text: str = "word") -> Page:
    """A page with every kind of spec, two sections of the same name, and the text everywhere."""
    every = tuple(filled(kind, text) for kind in kinds())
    return Page(text, (Section(text, every, text), Section(text, (Text("end"),))), text)


@pytest.mark.parametrize("light", [False, True])
def test_a_page_refers_to_nothing_outside(light):
    tags = Elements(page_html(whole_page(HOSTILE[1]), light)).tags
    targets = [value for _, found in tags for name, value in found.items() if name in ("src", "href") and value]
    beside = re.compile(r"#|\./[^/:]+/page\.html$")  # a place in the page, or the page of a folder beside it
    assert {target for target in targets if not beside.match(target)} == ({"plotly.min.js"} if light else set())
    anchors = [target[1:] for target in targets if target.startswith("#")]
    assert len(set(anchors)) == 2  # equal headings, two places
    assert set(anchors) <= {found.get("id") for _, found in tags}
    (policy,) = [found["content"] for _, found in tags if found.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


def test_figures_do_not_offer_to_upload_themselves():
    assert render.config(filled(Heatmap, "word"))["showSendToCloud"] is False


def test_a_full_page_has_plotly_once_and_a_light_one_shares_it(tmp_path):
    full = write_page(whole_page(), tmp_path / "full.html")
    (inside,) = re.findall(r'<script type="application/gzip" id="plotly">([^<]*)</script>', full.read_text("utf-8"))
    assert gzip.decompress(base64.b64decode(inside)).decode() == render.plotly_script()
    assert full.stat().st_size < 3e6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full.html"]

    first = write_page(whole_page(), tmp_path / "first.html", light=True)
    shared = tmp_path / "plotly.min.js"
    written = shared.stat().st_mtime_ns
    write_page(whole_page(), tmp_path / "second.html", light=True)
    assert shared.stat().st_mtime_ns == written
    assert shared.read_text(encoding="utf-8") == render.plotly_script()
    assert first.stat().st_size < full.stat().st_size / 10


def test_the_same_page_is_the_same_file():
    assert page_html(whole_page()) == page_html(whole_page())


def test_a_page_without_plotlys_figures_is_small():
    assert len(page_html(Page("p", (Section("s", (Text("words"),)),)))) < 50_000


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing, error):
    target = write_text_atomically(tmp_path / "page.html", "old")

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(files.os, failing, fail)
    with pytest.raises(StoreError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write_text_atomically(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    if caught.type is StoreError:
        assert str(target) in str(caught.value)
        assert "no space left on device" in str(caught.value)


def test_a_folder_that_is_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(StoreError, match="runs"):
        write_text_atomically(tmp_path / "runs" / "page.html", "x")


def test_a_written_file_can_be_read_by_whoever_could_read_any_other(tmp_path):
    (tmp_path / "usual").write_text("")
    written = write_text_atomically(tmp_path / "deeper" / "ours", "one\r\ntwo\n")
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert Path(written).read_bytes() == b"one\r\ntwo\n"


def test_specs_know_neither_plotly_nor_torch():
    source = Path(specs.__file__).read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) (plotly|torch)", source, re.MULTILINE)


@pytest.mark.parametrize(
    ("ranks", "labels"), [((1, 3, 28), "1 2 5 10 20"), ((25, 60, 40), "30 40 50 60"), ((7, 7, 7), "")]
)
def test_a_short_logarithmic_axis_is_labelled_by_whole_numbers(ranks: tuple[int, ...], labels: str) -> None:
    spec = Curves("c", np.arange(3), (Series("s", np.array(ranks, dtype=float)),), log_y=True)
    axis = render.figure(spec).layout.yaxis
    assert " ".join(axis.ticktext or ()) == labels
    assert [f"{value:g}" for value in axis.tickvals or ()] == labels.split()
