"""The survey's tables on the toy: each number is the one that the bench of its set gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import factscope as fs
from editing.evaluation.protocol import protocol
from editing.evaluation.tasks import Tasks
from factscope.data.load import load_cases
from factscope.errors import UserError
from factscope.plots.page import page_html
from factscope.runs import store
from helpers.models import TOY
from helpers.results import check_result
from studies.bench.bench import bench
from studies.pages.survey import page, records, summary, words
from studies.tables.survey import POOLED, WORDS, survey

HOW: dict[str, Any] = {"settings": {"ft_m": {"layer": "0", "steps": "5"}}, "moments": "identity", "shown": False}


def test_every_table_is_what_its_bench_says(toy: Any, tmp_path: Path) -> None:
    town, trade = (load_cases(TOY / f"toy_{name}.json", limit=2) for name in ("town", "trade"))
    tasks = Tasks.of(toy, ["repeat"], limit=3)
    made = survey(toy, {"town": town, "trade": trade}, ["ft_m"], tmp_path / "run", tasks=tasks, edits=2, **HOW)
    alone = bench(toy, trade, ["ft_m"], protocol("easyedit", words=WORDS), tmp_path / "alone", source="x", **HOW)
    for name in POOLED:
        for when in ("before", "after"):
            mine = made.sets[1].score("ft_m", name, when)
            other = [score for score in alone.scores if (score.metric, score.when) == (name, when)]
            assert ([] if mine is None else [mine.value]) == [one.value for one in other]
    row = alone.trials[0].rows[0]
    assert row.after is not None
    assert made.sets[1].wrote == {"unedited": row.before.said, "ft_m": row.after.said}
    assert made.before == {"repeat": tasks(toy)["task/repeat"]}
    assert set(made.after["ft_m"]) == {"repeat"}
    assert "trade" in words(made)[1]
    assert "After 2 edits in sequence by ft_m" in words(made)[2]
    check_result(made, tmp_path, "Survey")
    again = store.load(tmp_path / "saved", type(made))
    assert (str(again.sets), again.after) == (str(made.sets), made.after)
    html = page_html(page(again))
    assert all(
        title in html for title in ("Methods by sets (Table 4)", "General tasks (Table 5)", "One case (Table 7)")
    )
    assert "Trained elsewhere" not in html  # no method here is trained
    assert {one["table"] for one in records(made)} == {4, 5}
    assert summary(made)["tasks"]["unedited"] == made.before
    assert isinstance(fs.load(tmp_path / "saved"), type(made))
    with pytest.raises(UserError, match="after 3 edits, and the first set has 2 cases"):
        fs.survey(toy, {"town": town}, ["ft_m"], tmp_path / "other", tasks=["repeat"], edits=3, **HOW)
    with pytest.raises(UserError, match="there is nothing to tabulate"):
        fs.survey(toy, {}, ["ft_m"], tmp_path / "other")


def test_two_sets_of_one_name_and_a_strange_method_are_refused(run_command: Callable[..., Any]) -> None:
    found = run_command("edit", "survey", TOY / "toy_town.json", TOY / "toy_town.json", "--model", TOY, "--limit", "2")
    assert found.exit_code == 2
    assert "two sets are called toy_town" in found.stderr
    found = run_command("edit", "survey", TOY / "toy_town.json", "--methods", "romeo", "--model", TOY)
    assert found.exit_code == 2
    assert "no method 'romeo'" in found.stderr
