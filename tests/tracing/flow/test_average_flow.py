"""Averages of the flow over facts: means of single flows, and a journal that goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch

from factscope.data.load import load_facts
from factscope.errors import UserError
from factscope.model.prompts import prompt_of
from factscope.plots.show import in_words, page_of, summary_of
from factscope.runs.store import load, same, save
from helpers.models import TOY
from helpers.results import check_result
from tracing.flow import average as averaging
from tracing.flow.average import average_flow
from tracing.flow.knockout import FlowConfig, flow
from tracing.flow.results import FlowAverage
from tracing.sweep import Sweep

FACTS = load_facts(TOY / "toy_town.json")[:6]
CONFIG = FlowConfig(window=2, nulls=2)


def test_an_average_is_the_mean_of_single_flows_and_goes_on(toy: Any, tmp_path: Path, monkeypatch: Any) -> None:
    plain, asked = averaging.flow, []

    def counting(*given: Any, **named: Any) -> Any:
        asked.append(given[1].subject)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return plain(*given, **named)

    monkeypatch.setattr(averaging, "flow", counting)
    with pytest.raises(KeyboardInterrupt):
        average_flow(toy, FACTS, CONFIG, journal=tmp_path / "one", shown=False)
    found = average_flow(toy, FACTS, CONFIG, journal=tmp_path / "one", shown=False)
    assert len(asked) == 7, "three, the one that was stopped, and the last three"
    assert found.facts == tuple(fact.id for fact in FACTS)
    for number, fact in enumerate(FACTS[:2]):
        alone = flow(toy, prompt_of(toy, fact), CONFIG, pool=FACTS)
        for row, key in enumerate(found.knockouts):
            if key in {(one.target, one.source) for one in alone.knockouts}:
                own = alone.change[alone.number(*key)]
                torch.testing.assert_close(found.per_fact[number, row], own, atol=1e-6, rtol=1e-5)
            else:
                assert found.per_fact[number, row].isnan().all()
        assert found.extracts[number].bool().equal(alone.extraction.extracts)
    subject = found.knockouts.index(("last token", "subject"))
    torch.testing.assert_close(found.mean[subject], found.per_fact[:, subject].mean(0))
    assert torch.all(found.low[subject] <= found.mean[subject] + 1e-6)
    assert torch.all(found.mean[subject] <= found.high[subject] + 1e-6)
    assert found.mean[subject].min() < -0.3, "the trained toy reads its subject"


def test_an_average_is_saved_and_drawn_again(toy: Any, tmp_path: Path) -> None:
    found = average_flow(
        toy, FACTS[:2], FlowConfig(nulls=0), Sweep(source="towns"), journal=tmp_path / "j", shown=False
    )
    again = load(save(found, tmp_path / "run"), FlowAverage)
    assert same(again, found)
    assert in_words(again) == in_words(found)
    assert page_of(again).title == "Average flow: towns"
    assert summary_of(again)["facts"] == 2
    check_result(found, tmp_path / "out", "FlowAverage")
    assert found.low.isnan().all(), "two subjects give no interval"


def test_facts_that_cannot_be_followed_are_named(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no fact"):
        average_flow(toy, [], CONFIG, journal=tmp_path / "j", shown=False)
    with pytest.raises(UserError, match="window of 9 layers is larger than the model"):
        average_flow(toy, FACTS, FlowConfig(window=9), journal=tmp_path / "j", shown=False)
    config = FlowConfig(sources=("start token",))
    with pytest.raises(UserError, match=r"none of the 6 facts could be traced.*nothing to knock out"):
        average_flow(toy, FACTS, config, Sweep(start="none"), journal=tmp_path / "k", shown=False)
