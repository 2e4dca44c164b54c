"""Averages over facts: by role as on paper, and the same numbers whether or not the work was interrupted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from factscope.data.load import load_facts
from factscope.errors import StoreError, UserError
from factscope.model.prompts import ROLES, make_prompt, prompt_of
from factscope.plots.page import page_html
from factscope.runs.store import load, same, save
from helpers.models import TOY
from helpers.results import check_result
from tracing.average import average, by_role
from tracing.causal import Config, trace
from tracing.pages.average import page, words
from tracing.sweep import Sweep

CONFIG = Config(sites=("resid", "mlp"), samples=2)


def _numbers(result: Any) -> tuple[Any, ...]:
    return (result.facts, result.skipped, result.per_fact, result.mean, result.low, result.high, result.total)


def test_roles_are_means_over_their_tokens(toy: Any) -> None:
    prompt = make_prompt(toy, "In Vey [Mira Hallin Voss] lives in")
    effect = torch.arange(2.0 * len(prompt.tokens)).reshape(2, -1)
    reduced = dict(zip(ROLES, by_role(effect, prompt).T, strict=True))
    first, after = prompt.subject_span
    assert torch.equal(reduced["first subject"], effect[:, first])
    assert torch.equal(reduced["middle subject"], effect[:, first + 1 : after - 1].mean(1))
    assert torch.equal(reduced["last subject"], effect[:, after - 1])
    assert torch.equal(reduced["last token"], effect[:, -1])
    assert torch.all(reduced["further"].isnan())  # only one token between the subject and the last


def test_an_average_is_the_mean_of_its_traces(toy: Any, tmp_path: Path) -> None:
    facts = load_facts(TOY / "toy_town.json", limit=5)
    result = average(toy, facts, CONFIG, journal=tmp_path / "j", shown=False)
    traces = [trace(toy, prompt_of(toy, fact), CONFIG) for fact in facts]
    single = torch.stack([torch.stack([by_role(t.grid(k).effect, t.prompt) for k in CONFIG.sites]) for t in traces])
    torch.testing.assert_close(result.per_fact, single, equal_nan=True)
    torch.testing.assert_close(result.mean, single.mean(0), equal_nan=True)
    check_result(result, tmp_path / "out", "AverageResult")
    seen = ~result.mean.isnan()
    assert torch.all((result.low <= result.mean + 1e-6)[seen])
    assert torch.all((result.mean <= result.high + 1e-6)[seen])
    assert result.subjects == tuple(fact.subject for fact in facts)
    (line,) = [line for line in words(result) if line.startswith("Peaks")]
    column = result.mean[1, :, ROLES.index("last subject")]
    peak = int(column.argmax())
    assert f"MLP output at the last subject token: {column[peak]:+.3f} at layer {peak} (in 95 % of" in line
    save(result, tmp_path / "run")
    again = load(tmp_path / "run", type(result))
    torch.testing.assert_close(again.mean, result.mean, equal_nan=True)


def test_four_subjects_say_nothing_of_how_sure_their_average_is(toy: Any, tmp_path: Path) -> None:
    facts = load_facts(TOY / "toy_town.json", limit=4)
    twice = [*facts, *(replace(fact, id=f"{fact.id}/again") for fact in facts)]
    result = average(toy, twice, CONFIG, journal=tmp_path / "j", shown=False)
    assert len(result.facts) == 8
    assert torch.all(result.low.isnan())
    assert torch.all(result.high.isnan())
    assert "4 subjects are too few" in words(result)[1]
    assert "resamples" not in words(result)[1]
    page_html(page(result), light=True)  # is drawn all the same


def test_an_interrupted_average_ends_with_the_same_numbers(toy: Any, tmp_path: Path) -> None:
    facts = load_facts(TOY / "toy_trade.json", limit=5)
    whole = average(toy, facts, CONFIG, journal=tmp_path / "whole", shown=False)
    traced = []

    def stop_at_third(result: Any) -> None:
        traced.append(result.prompt.text)
        if len(traced) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        average(toy, facts, CONFIG, journal=tmp_path / "j", shown=False, traced=stop_at_third)
    with (tmp_path / "j").open("ab") as file:
        file.write(b'{"id": "toy_trade/torn')  # as a kill in the middle of a line would leave it
    done = len(traced)
    resumed = average(
        toy, facts, CONFIG, journal=tmp_path / "j", shown=False, traced=lambda r: traced.append(r.prompt.text)
    )
    assert traced[done:] == [fact.prompt for fact in facts[2:]], "the two finished facts are not traced again"
    for one, two in zip(_numbers(whole), _numbers(resumed), strict=True):
        assert str(one) == str(two) if not torch.is_tensor(one) else torch.equal(one.nan_to_num(9), two.nan_to_num(9))


def test_facts_that_are_not_known_or_have_no_gap_are_skipped_with_a_reason(toy: Any, tmp_path: Path) -> None:
    facts = load_facts(TOY / "toy_town.json", limit=2) + load_facts("country_capital", limit=2)
    result = average(toy, facts, CONFIG, Sweep(known=True), journal=tmp_path / "j", shown=False)
    assert len(result.facts) == 2
    assert len(result.skipped) == 2
    assert all("not known" in why for why in result.skipped.values())


def test_no_fact_to_trace_is_an_error(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no fact"):
        average(toy, [], CONFIG, journal=tmp_path / "j")
    facts = load_facts("country_capital", limit=1)
    with pytest.raises(UserError, match="none of the 1 facts"):
        average(toy, facts, CONFIG, Sweep(known=True), journal=tmp_path / "k", shown=False)
    with pytest.raises(UserError, match="heads"):
        average(toy, load_facts(TOY / "toy_town.json"), Config(sites=("head",)), journal=tmp_path / "l")


def test_the_same_journal_finished_twice_gives_the_same_result(toy: Any, tmp_path: Path) -> None:
    facts = load_facts(TOY / "toy_town.json", limit=2)
    one = average(toy, facts, CONFIG, journal=tmp_path / "j", shown=False)
    again = average(
        toy, facts, CONFIG, journal=tmp_path / "j", shown=False, traced=lambda _: pytest.fail("traced again")
    )
    assert same(one.facts, again.facts)
    assert torch.equal(one.mean.nan_to_num(), again.mean.nan_to_num())


@pytest.mark.parametrize("change", [{"answer": "Vey", "foil": None}, {"foil": "Keltic"}, {"subject": "Mira Voss"}])
def test_facts_that_changed_under_their_ids_are_not_answered_from_before(
    change: dict[str, Any], toy: Any, tmp_path: Path
) -> None:
    first, *others = load_facts(TOY / "toy_town.json", limit=3)
    average(toy, [first, *others], CONFIG, journal=tmp_path / "j", shown=False)
    with pytest.raises(StoreError, match="other settings"):
        average(toy, [replace(first, **change), *others], CONFIG, journal=tmp_path / "j", shown=False)
    moved = replace(first, source="another file")
    average(toy, [moved, *others], CONFIG, journal=tmp_path / "j", shown=False)  # where it was read from is no content
