"""The drawing of a network: which lines come first, where nodes stand, how lines run, and what a reader can do."""

import itertools
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import networkx
import numpy as np
import pytest

from factscope.plots.figures.layered import CLEAR, HIGH, WIDEST, Layout, layered
from factscope.plots.figures.network import EdgeMark, Network, NodeMark, View, first_stage, stages
from factscope.plots.figures.strongest import path_strengths, strongest
from factscope.plots.fragments import fragment
from factscope.plots.page import write_page
from factscope.plots.specs import Page, Section
from factscope.plots.svg import svg
from helpers.browser import needs_chromium, open_page, with_script
from helpers.plots import Elements, random_network, unpacked

# ---- which lines ----


@pytest.mark.parametrize("seed", range(4))
def test_the_strength_of_a_path_is_that_of_its_weakest_line_and_the_strongest_is_found(seed: int) -> None:
    """Against every path of a small network, walked one by one."""
    generator = np.random.default_rng(seed)
    pairs = [(a, b) for a, b in itertools.combinations(range(7), 2) if generator.random() < 0.6]
    sizes = generator.random(len(pairs)).tolist()
    graph = networkx.DiGraph(pairs)
    tops = [node for node in graph if graph.in_degree(node) == 0]
    ends = [node for node in graph if graph.out_degree(node) == 0]
    best = dict.fromkeys(pairs, 0.0)
    for top, end in itertools.product(tops, ends):
        for path in networkx.all_simple_paths(graph, top, end):
            steps = list(itertools.pairwise(path))
            weakest = min(sizes[pairs.index(step)] for step in steps)
            for step in steps:
                best[step] = max(best[step], weakest)
    found, _, _ = path_strengths([a for a, _ in pairs], [b for _, b in pairs], sizes)
    assert found.tolist() == [best[pair] for pair in pairs]


def test_what_is_drawn_leads_from_an_input_to_an_output_and_more_only_adds() -> None:
    spec = random_network(400)
    edges = spec.views[0].edges
    ends = [(edge.source, edge.target) for edge in edges]
    whole = networkx.DiGraph(ends)
    most = (10, 20, 40, 80, 160)
    sizes = [abs(edge.value) for edge in edges]
    found = strongest([a for a, _ in ends], [b for _, b in ends], sizes, most)
    for some, number in zip(found, most, strict=True):
        assert len(some) <= number
        drawn = networkx.DiGraph([ends[place] for place in some])
        assert {node for node in drawn if drawn.in_degree(node) == 0} <= {n for n in whole if whole.in_degree(n) == 0}
        assert {node for node in drawn if drawn.out_degree(node) == 0} <= {n for n in whole if whole.out_degree(n) == 0}
    for less, more in itertools.pairwise(found):
        assert set(less) <= set(more)
    assert len(found[-1]) > 0.8 * most[-1]


def test_the_strongest_path_is_drawn_before_a_stronger_line_on_a_weak_path() -> None:
    """0 -> 1 -> 3 of strength 2 comes before 0 -> 2 -> 3, one of whose lines has strength 9 and the other 1."""
    sources, targets, sizes = [0, 1, 0, 2], [1, 3, 2, 3], [2.0, 3.0, 9.0, 1.0]
    assert strongest(sources, targets, sizes, (1, 2, 3, 4)) == [(), (0, 1), (0, 1), (0, 1, 2, 3)]


# ---- where ----


def drawn(edges: int, level: int) -> Layout:
    return stages(random_network(edges))[level].layouts[0]


def overlaps(layout: Layout) -> list[tuple[int, int]]:
    pairs = itertools.combinations(enumerate(layout.boxes), 2)
    return [
        (i, j)
        for (i, one), (j, other) in pairs
        if abs(one.y - other.y) < HIGH and one.left < other.right and other.left < one.right
    ]


@pytest.mark.parametrize(("edges", "level"), [(50, 0), (400, 3), (5000, 3), (5000, -1)])
def test_no_two_nodes_overlap_and_all_stand_inside(edges: int, level: int) -> None:
    layout = drawn(edges, level)
    assert overlaps(layout) == []
    for box in layout.boxes:
        assert layout.left < box.left < box.right < layout.left + layout.width
        assert HIGH / 2 < box.y < layout.height - HIGH / 2
    for line in layout.lines:
        assert all(layout.left <= x <= layout.left + layout.width for x, _ in line)


@pytest.mark.parametrize(("edges", "level"), [(50, 0), (400, 3), (5000, -1)])
def test_no_line_touches_a_name_that_is_not_its_own(edges: int, level: int) -> None:
    spec = random_network(edges)
    stage = stages(spec)[level]
    layout = stage.layouts[0]
    place = {node: number for number, node in enumerate(stage.nodes)}
    for at, line in zip(stage.drawn[0], layout.lines, strict=True):
        edge = spec.views[0].edges[at]
        own = {place[edge.source], place[edge.target]}
        points = np.array(line)
        steps = np.linspace(0, 1, 60)[:, None, None]
        dense = (points[:-1] + steps * (points[1:] - points[:-1])).reshape(-1, 2)
        for number, box in enumerate(layout.boxes):
            inside = (np.abs(dense[:, 1] - box.y) < HIGH / 2 - 0.1) & (np.abs(dense[:, 0] - box.x) < box.width / 2 + 1)
            assert number in own or not inside.any()


def test_layers_go_up_and_lines_do() -> None:
    spec = random_network(400)
    stage = stages(spec)[3]
    layout = stage.layouts[0]
    heights: dict[float, list[float]] = {}
    for node, box in zip(stage.nodes, layout.boxes, strict=True):
        heights.setdefault(spec.nodes[node].row, []).append(box.y)
    ordered = [heights[row] for row in sorted(heights)]
    for below, above in itertools.pairwise(ordered):
        assert min(below) > max(above)  # y grows downward
    for line in layout.lines:
        assert all(later < earlier for (_, earlier), (_, later) in itertools.pairwise(line))


def test_the_same_network_gives_the_same_picture() -> None:
    one = random_network(400)
    assert fragment(one) == fragment(replace(one))


def test_a_row_that_is_too_wide_is_broken_into_lines() -> None:
    rows = [0.0, *[1.0] * 60, 2.0]
    links = [(0, node) for node in range(1, 61)] + [(node, 61) for node in range(1, 61)]
    layout = layered(rows, [60.0] * 62, links, [1.0] * len(links))
    assert overlaps(layout) == []
    assert len({box.y for box in layout.boxes[1:61]}) > 1
    assert max(box.right for box in layout.boxes) - min(box.left for box in layout.boxes) <= WIDEST


def test_crossings_that_need_not_be_are_undone() -> None:
    """Two rows joined crosswise: exchanging the upper nodes leaves no crossing."""
    layout = layered([0.0, 0.0, 1.0, 1.0], [50.0] * 4, [(0, 3), (1, 2)], [1.0, 1.0])
    left, right = layout.boxes[0].x < layout.boxes[1].x, layout.boxes[3].x < layout.boxes[2].x
    assert left == right


def test_a_line_that_has_a_node_in_its_way_goes_around_it() -> None:
    layout = layered([0.0, 1.0, 2.0], [50.0] * 3, [(0, 1), (1, 2), (0, 2)], [1.0] * 3)
    box, long = layout.boxes[1], layout.lines[2]
    assert [len(line) for line in layout.lines] == [2, 2, 4]
    assert all(abs(x - box.x) >= box.width / 2 + CLEAR for x, y in long[1:3])


def test_a_line_that_does_not_go_up_is_refused() -> None:
    with pytest.raises(ValueError, match="must go up"):
        layered([0.0, 0.0], [10.0, 10.0], [(0, 1)], [1.0])
    nodes = (NodeMark("a", 0.0, "red"), NodeMark("b", 0.0, "red"))
    with pytest.raises(ValueError, match="does not go up"):
        Network("x", nodes, (View("v", (EdgeMark(0, 1, 1.0),)),))
    with pytest.raises(ValueError, match="joins"):
        Network("x", nodes, (View("v", (EdgeMark(0, 2, 1.0),)),))
    with pytest.raises(ValueError, match="no view"):
        Network("x", nodes, ())


# ---- what a reader sees ----


def test_a_small_network_is_drawn_whole_at_first_and_a_large_one_in_part() -> None:
    small, large = random_network(30), random_network(5000)
    assert stages(small)[first_stage(small)].lines() == len(small.views[0].edges)
    assert stages(large)[first_stage(large)].lines() <= 60
    assert max(stage.lines() for stage in stages(large)) <= 300


def test_a_network_without_lines_says_so() -> None:
    empty = Network("x", (), (View("v", ()),))
    assert "There is no line to draw." in fragment(empty)
    assert svg(empty) is None


def test_two_views_stand_on_one_layout_and_one_of_changes_needs_no_whole_path() -> None:
    spec = random_network(60)
    changed = (EdgeMark(5, 40, -1.0, fate="lost"), EdgeMark(6, 41, 0.5, fate="gained"))
    both = Network("x", spec.nodes, (*spec.views, View("difference", changed, by_path=False)))
    for stage in stages(both):
        first, second = stage.layouts
        assert first.boxes == second.boxes
        assert {5, 6, 40, 41} <= set(stage.nodes)
        assert len(second.lines) == 2
    assert unpacked(fragment(both)).count('class="edge lost down"') >= 1


def test_a_still_network_has_its_colours_with_it_and_is_well_formed() -> None:
    spec = random_network(50)
    drawing = ET.fromstring(str(svg(spec)))
    names = {text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")}
    stage = stages(spec)[first_stage(spec)]
    assert {spec.nodes[node].name for node in stage.nodes} <= names
    assert "stroke" in str(next(drawing.iter("{http://www.w3.org/2000/svg}style")).text)


LOOK = """
const box = (element) => {
  const { left, right, top, bottom, width, height } = element.getBoundingClientRect();
  return { left, right, top, bottom, width, height };
};
const inside = (one, other) =>
  one.left >= other.left - 0.5 && one.right <= other.right + 0.5 && one.top >= other.top && one.bottom <= other.bottom;
const read = (figure) => {
  const stage = figure.querySelector(".stage:not([hidden])");
  const marks = [...stage.querySelectorAll(".node")];
  const boxes = marks.map((mark) => box(mark.querySelector("rect")));
  const cut = marks.filter((mark, i) => !inside(box(mark.querySelector("text")), boxes[i])).length;
  const overlap = (i, j) => boxes[i].left < boxes[j].right && boxes[j].left < boxes[i].right &&
    boxes[i].top < boxes[j].bottom && boxes[j].top < boxes[i].bottom;
  const shown = (mark) => getComputedStyle(mark).visibility === "visible";
  const ends = (edge) => [Number(edge.dataset.from), Number(edge.dataset.to)];
  const seen = () => [...stage.querySelectorAll(".edge")].filter(shown).map(ends);
  const chosen = marks[Math.floor(marks.length / 2)];
  const all = seen();
  chosen.dispatchEvent(new MouseEvent("mouseenter"));
  const pointed = seen();
  chosen.dispatchEvent(new MouseEvent("mouseleave"));
  const left = seen();
  chosen.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  const alone = seen();
  const told = figure.querySelector(".told").textContent;
  chosen.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  const after = seen();
  const slider = figure.querySelector("input[type=range]");
  slider.value = slider.max;
  slider.dispatchEvent(new Event("input"));
  const most = figure.querySelector(".stage:not([hidden])").querySelectorAll(".edge").length;
  return {
    names: marks.map((mark) => [Number(mark.dataset.node), mark.querySelector("text").textContent]),
    small: marks.filter((mark) => parseFloat(getComputedStyle(mark.querySelector("text")).fontSize) < 11).length,
    cut,
    overlaps: boxes.flatMap((_, i) => boxes.map((_, j) => [i, j])).filter(([i, j]) => i < j && overlap(i, j)).length,
    chosen: Number(chosen.dataset.node), all, pointed, left, alone, after, told, most,
    said: figure.querySelector("output").textContent,
  };
};
document.body.dataset.seen = JSON.stringify([...document.querySelectorAll(".network")].map(read));
document.body.dataset.spill = document.documentElement.scrollWidth - innerWidth;
"""
SIZES = (50, 400, 5000)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a reader sees of three networks on one page, and what happens when a node is pointed at and chosen."""
    folder = tmp_path_factory.mktemp("networks")
    sections = tuple(Section(f"{size} lines", (random_network(size),)) for size in SIZES)
    path = write_page(Page("Networks", sections), folder / "page.html")
    opened = open_page(with_script(path, LOOK), folder, width=1440)
    assert opened.console == ()
    body = next(found for tag, found in Elements(opened.dom).tags if tag == "body")
    assert int(str(body["data-spill"])) <= 0
    return json.loads(str(body["data-seen"]))


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("place", range(len(SIZES)), ids=[str(size) for size in SIZES])
def test_every_drawn_node_has_a_name_that_can_be_read(seen: Any, place: int) -> None:
    found, spec = seen[place], random_network(SIZES[place])
    stage = stages(spec)[first_stage(spec)]
    assert found["names"] == [[node, spec.nodes[node].name] for node in stage.nodes]
    assert (found["small"], found["cut"], found["overlaps"]) == (0, 0, 0)
    assert len(found["all"]) == stage.lines()
    assert found["most"] == stages(spec)[-1].lines()


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("place", range(len(SIZES)), ids=[str(size) for size in SIZES])
def test_a_chosen_node_shows_its_paths_alone(seen: Any, place: int) -> None:
    """Against networkx: what leads to the node and what it leads to; and then all again."""
    found, spec = seen[place], random_network(SIZES[place])
    graph, node = networkx.DiGraph([tuple(edge) for edge in found["all"]]), found["chosen"]
    above, below = networkx.descendants(graph, node) | {node}, networkx.ancestors(graph, node) | {node}
    wanted = [[a, b] for a, b in found["all"] if {a, b} <= above or {a, b} <= below]
    assert 0 < len(wanted) < len(found["all"])
    assert sorted(found["alone"]) == sorted(found["pointed"]) == sorted(wanted)
    assert sorted(found["after"]) == sorted(found["left"]) == sorted(found["all"])
    every = spec.views[0].edges
    assert f"reads from: {sum(edge.target == node for edge in every)}" in found["told"]
    assert f"is read by: {sum(edge.source == node for edge in every)}" in found["told"]
