"""Several orders of the same facts: each is a whole sequence, and what is told of all follows from what each says."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import factscope as fs
from editing.methods.fine_tuning import ft_m
from editing.pages.sequence.seeds import page, records, summary, words
from editing.sequence.result import Config, SequenceResult
from editing.sequence.run import sequence
from editing.sequence.seeds import JOURNAL, OrderRun, Orders, Point, SequenceOrders, in_order, over_seeds
from editing.sequence.yardstick import Config as YardstickConfig
from editing.sequence.yardstick import yardstick
from factscope.data.load import load_facts
from factscope.errors import EditError, UserError
from factscope.model.weights import fingerprint
from factscope.plots.page import page_html
from factscope.plots.specs import Curves, Headline
from factscope.runs.shards import Shard, merge
from helpers.commands import invoke
from helpers.models import TOY
from helpers.results import check_result

FACTS = load_facts(TOY / "toy_town.json", limit=4)
SAID = {"settings": "of this test"}
QUICK = ("--method", "ft_m", "--layer", 0, "--set", "steps=2", "--unrelated", "none", "--model", TOY)


@dataclass(frozen=True)
class Quick:
    """Two steps of fine-tuning for each fact; stops like a killed process at the seed `deadly`."""

    deadly: int | None = None

    def __call__(self, model: Any, facts: Sequence[Any], seed: int, folder: Path) -> SequenceResult:
        if seed == self.deadly:
            raise KeyboardInterrupt
        held = yardstick(model, facts, YardstickConfig("none", documents=2, tokens=8, seed=seed))
        how: dict[str, Any] = {"config": ft_m.Config(layer=0, steps=2), "shown": False, "say": lambda _: None}
        return sequence(model, facts, "ft_m", Config(every=2, seed=seed), folder, held, **how)


@pytest.fixture(scope="module")
def whole(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[SequenceOrders, Path]:
    folder = tmp_path_factory.mktemp("orders")
    made = over_seeds(toy, FACTS, Quick(), Orders((0, 1, 5)), folder, SAID, shown=False)
    assert made is not None
    return made, folder


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The journal without what the clock says."""
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line.pop("check")
        line.get("order", {}).pop("seconds", None)
    return lines


def test_each_order_is_the_sequence_of_its_facts(toy: Any, whole: tuple[SequenceOrders, Path], tmp_path: Path) -> None:
    """The same facts, all of them, in orders that differ; each as if it had been asked for alone."""
    made, folder = whole
    before = fingerprint(toy)
    assert [sorted(one.order) for one in made.runs] == 3 * [[0, 1, 2, 3]]
    assert len({one.order for one in made.runs}) == 3
    alone = Quick()(toy, [FACTS[place] for place in made.runs[2].order], 5, tmp_path)
    saved = fs.load(folder / "seed-5")
    assert made.runs[2].weights == alone.last.weights == saved.last.weights != before
    assert [point.quantities for point in made.runs[2].points] == [one.quantities for one in alone.checkpoints]
    assert [request.id for request in in_order(fs_requests(), 5)] == list(alone.facts)
    assert (folder / "seed-5" / "page.html").is_file()
    assert fingerprint(toy) == before


def fs_requests() -> Any:
    return tuple(fs.EditRequest.of(fact) for fact in FACTS)


def test_orders_that_were_stopped_go_on_to_the_same_result(
    toy: Any, whole: tuple[SequenceOrders, Path], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        over_seeds(toy, FACTS, Quick(deadly=1), Orders((0, 1, 5)), tmp_path, SAID, shown=False)
    assert len(timeless(tmp_path)) == 2
    again = over_seeds(toy, FACTS, Quick(deadly=0), Orders((0, 1, 5)), tmp_path, SAID, shown=False)
    assert timeless(tmp_path) == timeless(whole[1])
    assert again is not None
    assert [replace(one, seconds=0) for one in again.runs] == [replace(one, seconds=0) for one in whole[0].runs]


def test_shards_of_the_orders_are_the_whole(toy: Any, whole: tuple[SequenceOrders, Path], tmp_path: Path) -> None:
    for number in (1, 2):
        orders, place = Orders((0, 1, 5), shard=Shard(number, 2)), tmp_path / str(number)
        assert over_seeds(toy, FACTS, Quick(), orders, place, SAID, shown=False) is None
    merge([tmp_path / "1" / JOURNAL, tmp_path / "2" / JOURNAL], tmp_path / JOURNAL, lambda *_: False)
    assert timeless(tmp_path) == timeless(whole[1])


def of_runs(*curves: Sequence[float | None], **settings: Any) -> SequenceOrders:
    """Orders whose retention at 0, 2, 4 ... facts is given; None is not a number."""
    runs = tuple(
        OrderRun(
            seed, tuple(range(2 * len(curve) - 2)), "retention<0.5" if len(curve) < 3 else "", f"weights{seed}", 1.0,
            tuple(
                Point(2 * place, False, "", {"retention": value}, ("retention<0.8",) if value and value < 0.8 else ())
                for place, value in enumerate(curve)
            ),
        )
        for seed, curve in enumerate(curves)
    )  # fmt: skip
    return SequenceOrders("rome", {}, settings, "toy", ("a", "b", "c", "d"), runs, "identity")


def test_the_spread_by_hand() -> None:
    """At 4 facts .5 and .9: mean .7, deviation .4 / sqrt(2). The third order ended at 2, with .4: the ends have .6."""
    made = of_runs([1.0, 0.9, 0.5], [1.0, 1.0, 0.9], [1.0, 0.4])
    assert [place.facts for place in made.places] == [0, 2, 4]
    at_four, at_two = (made.spread("retention", place) for place in made.places[:0:-1])
    ends = made.at_end("retention")
    assert at_four is not None
    assert at_two is not None
    assert ends is not None
    assert (at_four.values, at_four.low, at_four.high) == ((0.5, 0.9), 0.5, 0.9)
    assert (at_four.mean, at_four.sd) == pytest.approx((0.7, 0.4 / math.sqrt(2)))
    assert at_two.values == (0.9, 1.0, 0.4)
    assert ends.values == (0.5, 0.9, 0.4)
    assert ends.mean == pytest.approx(0.6)
    assert made.at_end("kl") is None
    said = " ".join(words(made))
    assert "read where each order ended, after 2 to 4 facts" in said
    assert "Seed 2 stopped after 2 facts: retention<0.5." in said
    assert "2 of 3 showed signs of collapse." in said
    told = summary(made)
    assert told["checkpoints"][2]["retention"]["highest"] == 0.9
    assert told["ends"]["retention"]["low"] == 0.4
    assert told["orders"][2]["first signs of collapse"] == {"retention<0.8": 2}
    assert len(records(made)) == 8


def test_an_order_whose_model_is_broken_is_not_averaged_away() -> None:
    made = of_runs([1.0, 0.9, None], [1.0, 1.0, 0.9])
    end = made.at_end("retention")
    assert end is not None
    assert all(math.isnan(one) for one in end[1:])
    assert summary(made)["checkpoints"][2]["retention"]["mean"] is None
    assert "nan" not in " ".join(words(made))
    (told,) = [spec for section in page(made).sections for spec in section.specs if isinstance(spec, Headline)]
    assert "nan" not in told.sentence


def test_one_order_has_no_deviation() -> None:
    made = of_runs([1.0, 0.9, 0.8])
    end = made.at_end("retention")
    assert end is not None
    assert end.mean == 0.8
    assert math.isnan(end.sd)
    assert "1 order of 4 facts" in " ".join(words(made))
    assert "nan" not in " ".join(words(made))


def test_it_goes_out_as_every_result_does(whole: tuple[SequenceOrders, Path], tmp_path: Path) -> None:
    check_result(whole[0], tmp_path, "SequenceOrders")
    drawn = page_html(page(whole[0]))
    assert "4 facts edited in 3 orders" in drawn
    assert "seed-N" in drawn


def test_restrained_copies_beside_are_lines_of_their_own_and_not_the_end(tmp_path: Path) -> None:
    out = invoke(
        "edit", "sequence", "--facts", TOY / "toy_town.json", "--limit", 2, *QUICK, "--seeds", 2, "--restrain", "rect",
        "--restrain-at", "beside", "--tasks", "repeat", "--task-limit", 2, "--out", tmp_path / "run",
    )  # fmt: skip
    assert out.exit_code == 0, out.stderr
    made = fs.load(tmp_path / "run")
    assert {place.restrained for place in made.places} == {False, True}
    assert not any(end.restrained for end in made.ends)
    assert "Restrained, " in out.stdout
    assert "task/repeat" in made.quantities
    drawn = [one for section in page(made).sections for one in section.specs if isinstance(one, Curves)]
    assert {len(one.series) for one in drawn if one.title == "Condition"} == {2}


def test_the_call_is_the_sequence_s(toy: Any, tmp_path: Path) -> None:
    how: Any = {"settings": {"layer": 0, "steps": 2}}
    few, orders, held = fs.SequenceConfig(every=4), fs.Orders((3,)), YardstickConfig("none", documents=2, tokens=8)
    with pytest.warns(UserWarning, match="the model begins to break"):
        made = fs.sequences(toy, FACTS, "ft_m", few, orders, folder=tmp_path / "many", yardstick=held, **how)
    facts = [FACTS[place] for place in made.runs[0].order]
    stick = fs.yardstick(toy, facts, replace(held, seed=3))
    with pytest.warns(UserWarning, match="the model begins to break"):
        alone = fs.sequence(toy, facts, "ft_m", replace(few, seed=3), folder=tmp_path / "one", yardstick=stick, **how)
    assert made.runs[0].weights == alone.last.weights
    with pytest.raises(UserError, match="shard 1 of 2 of the orders has no result of its own"):
        fs.sequences(toy, FACTS, "ft_m", few, fs.Orders((3, 4), shard=Shard(1, 2)), folder=tmp_path / "two")


def test_the_command_makes_shards_and_merges_them(tmp_path: Path) -> None:
    line = ("edit", "sequence", "--facts", TOY / "toy_town.json", "--limit", 2, *QUICK, "--seeds", 2)
    whole = invoke(*line, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.stderr
    assert "2 orders of 2 facts, edited by ft_m" in whole.stdout
    for number in (1, 2):
        part = invoke(*line, "--shard", f"{number}/2", "--out", tmp_path / f"some-{number}of2")
        assert part.exit_code == 0, part.stderr
        assert f"Shard {number} of 2 is done" in part.stdout
    joined = invoke("factscope", "merge", tmp_path / "some-1of2", tmp_path / "some-2of2")
    assert joined.exit_code == 0, joined.stderr
    assert timeless(tmp_path / "some") == timeless(tmp_path / "whole")


def test_what_cannot_be_ordered_is_refused(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(EditError, match="need at least one seed"):
        Orders(())
    with pytest.raises(EditError, match="the seed 1 is there twice"):
        Orders((1, 2, 1))
    with pytest.raises(EditError, match="2 facts have 2 orders, and 3 are asked for"):
        over_seeds(toy, FACTS[:2], Quick(), Orders((0, 1, 2)), tmp_path, SAID)
    with pytest.raises(EditError, match="one fact has one order: give several facts"):
        over_seeds(toy, FACTS[:1], Quick(), Orders((0,)), tmp_path, SAID)


@pytest.mark.parametrize("flag", [("--workers", 2), ("--shard", "1/2"), ("--ray", "there:1")])
def test_one_sequence_cannot_be_shared(flag: tuple[str, Any]) -> None:
    out = invoke("edit", "sequence", "--facts", TOY / "toy_town.json", *QUICK, *flag)
    assert out.exit_code == 2
    assert "give --seeds for several orders" in out.stderr
