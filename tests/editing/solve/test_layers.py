"""Values spread over layers, against the slow loop: keys and what lacks read apart, every matrix factored anew."""

from dataclasses import asdict
from typing import Any

import pytest
import torch

from editing import compute as computing
from editing.methods.closed_form import memit, rls
from editing.requests import BARE, RequestPrompts
from editing.solve.values import Descent, find_keys, find_values, read_subjects
from editing.weights.lent import borrowed
from factscope.data.fact import Fact
from factscope.data.request import requests_of
from factscope.model.sites import Site
from factscope.model.weights import down_projection
from helpers.moments import text_moments

FACTS = requests_of(
    (
        Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),
        Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris"),
    )
)
CONTEXTS = ("{}", "I said. {}", "Now then. {}")
SHORT = Descent(steps=4, learning_rate=0.1, clamp=50.0, weight_decay=0.0)
LAYERS = (0, 1, 2)


def slowly(model: Any, moments: Any, fact: Any, ridge: float) -> list[torch.Tensor]:
    """MEMIT of one fact by its equations: (lambda C + k'k)^-1 k' r, layer after layer; d_in by d_out, float64."""
    prompts = RequestPrompts((fact,), CONTEXTS, "auto")
    values = find_values(model, prompts, LAYERS[-1], SHORT, place="hidden")
    top, changes = Site("resid", LAYERS[-1]), []
    with borrowed(model, [down_projection(layer) for layer in LAYERS]) as weights, torch.no_grad():
        for number, layer in enumerate(LAYERS):
            key = find_keys(model, prompts, layer).halves().double()
            now = read_subjects(model, RequestPrompts((fact,), BARE, "auto"), [top])[top][:, 0]
            lacking = (values.target - now).double() / (len(LAYERS) - number)
            moment = moments.of(layer)
            usual = ridge * float(key @ torch.linalg.solve(moment, key.T))
            changes.append(torch.linalg.solve(usual * moment + key.T @ key, key.T @ lacking))
            weights[down_projection(layer)].copy_(weights[down_projection(layer)].double() + changes[-1])
    return changes


@pytest.mark.parametrize("name", ["memit", "rls"])
def test_edits_side_by_side_are_the_slow_loop_s_and_so_are_their_reports(tiny: Any, name: str) -> None:
    """The first edit of `rls` is MEMIT's."""
    model = tiny("llama")
    moments = text_moments(model, list(LAYERS))
    config = {"memit": memit, "rls": rls}[name].Config(layers=LAYERS, descent=SHORT)
    how = {"moments": moments, "contexts": CONTEXTS, "shown": False}
    for fact, edit in zip(FACTS, computing.compute_each(name, model, FACTS, config, **how), strict=True):
        for delta, wanted in zip(edit.deltas, slowly(model, moments, fact, config.ridge), strict=True):
            torch.testing.assert_close(delta.dense(), wanted, rtol=1e-3, atol=1e-5)  # float32, and a batch of two
        alone = computing.compute(name, model, [fact], config, **how)
        for one, other in zip(edit.reports, alone.reports, strict=True):
            numbers = {key: value for key, value in asdict(one).items() if isinstance(value, float)}
            assert numbers == pytest.approx({key: asdict(other)[key] for key in numbers}, rel=1e-3, abs=1e-9)
