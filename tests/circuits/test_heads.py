"""What heads do: one rule for their roles, which minds the sign; curves that end where the circuit does; changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.analysis.head_changes import HeadTable, head_changes, head_table
from circuits.analysis.head_roles import AnswerReading, HeadReading, Naming, head_readings, roles
from circuits.circuit import Circuit
from circuits.engine.reference import Reference
from circuits.engine.state import State
from circuits.find import find
from circuits.graph import Graph
from circuits.scorers.eap import EAP
from circuits.task import Task
from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.model.prompts import prompt_of
from factscope.model.readout import readout
from factscope.statistics import null_p
from helpers.circuits import double, task
from helpers.models import TOY

# Start token, subject, two tokens of the relation ("official language"), the last one.
SUBJECT, RELATION = (np.array([place in some for place in range(5)]) for some in ({1}, {2, 3}))
NAMING = Naming(
    own=frozenset({7}), among=frozenset({20, 21}), relation=frozenset({"official", "language"}), expected=0.1, least=0.1
)


def head(attention: list[float], direct: list[float], top: dict[int, str]) -> HeadReading:
    return HeadReading("a0.h0", np.array(attention), np.array(direct), tuple(top), tuple(top.values()))


@pytest.mark.parametrize(
    ("attention", "direct", "top", "role"),
    [
        ([0, 0.9, 0.05, 0, 0.05], [0, 2.0, 0.1, 0, 0], {7: " French"}, "mover"),
        ([0, 0.9, 0.05, 0, 0.05], [0, -2.0, 0.1, 0, 0], {7: " French"}, "none"),  # it holds the answer back
        ([0, 0.9, 0.05, 0, 0.05], [0, 2.0, 0.1, 0, 0], {9: " Lyon"}, "none"),
        ([0, 0.5, 0.5, 0, 0], [0, 1.0, 1.0, 0, 0], {9: " Lyon"}, "mixture"),
        ([0, 0.5, 0.5, 0, 0], [0, -1.0, -1.0, 0, 0], {9: " Lyon"}, "none"),
        ([0, 0.5, 0.5, 0, 0], [0, 0.01, 0.01, 0, 0], {9: " Lyon"}, "none"),  # under the floor
        ([0, 0.1, 0.2, 0.7, 0], [0, 0.0, 0.0, 0.05, 0], {30: " Language"}, "relation"),  # the paper's L14H13
        ([0, 0.1, 0.2, 0.7, 0], [0, 0.0, 0.0, 0.05, 0], {20: " Arabic"}, "relation"),  # its L7H14
        ([0, 0.1, 0.2, 0.7, 0], [0, 0.0, 0.0, 1.05, 0], {31: " is"}, "none"),
        ([0, 0.1, 0.2, 0.7, 0], [0, 0.0, 0.0, -1.0, 0], {30: " Language"}, "none"),
    ],
)
def test_roles_follow_the_papers_rule_and_mind_the_sign(
    attention: list[float], direct: list[float], top: dict[int, str], role: str
) -> None:
    assert NAMING.role(head(attention, direct, top), SUBJECT, RELATION) == role


@pytest.fixture(scope="module")
def fact() -> Fact:
    return load_facts(TOY / "toy_town.json")[0]


@pytest.mark.parametrize("name", ["llama", "olmo2"])
def test_heads_read_together_are_heads_read_one_by_one(tmp_path: Path, name: str) -> None:
    model = double(name, tmp_path)
    state = State(Reference(model, Graph.of(model), task(model)))
    last = state.tokens.shape[1] - 1
    lenses = [AnswerReading(readout(model), state.inputs[-1][0, last], token) for token in (17, 31)]
    names = [writer for writer in state.graph.writers if writer.startswith("a")]
    together = head_readings(state, lenses, names, last)
    for lens, read in zip(lenses, together, strict=True):
        for one in read:
            ((alone,),) = head_readings(state, [lens], [one.name], last)
            np.testing.assert_allclose(alone.attention, one.attention, atol=1e-12)
            np.testing.assert_allclose(alone.direct, one.direct, atol=1e-12)
            assert alone.top == one.top
    assert head_readings(state, lenses, [], last) == [[], []]


def test_a_head_has_one_role_on_every_page(toy: Any, fact: Fact) -> None:
    """The circuit's page and the table of an edit name the heads of the same model alike, with the same answers."""
    prompt = prompt_of(toy, fact)
    answers = sorted({each.answer for each in load_facts(TOY / "toy_town.json")})
    circuit = find(toy, Task((prompt,), ablation="zero"), EAP(edges=200))
    here = {each.name: each.role for each in roles(toy, circuit, answers, shuffles=1).heads}
    tokens = prompt.answer_ids[0], prompt.foil_ids[0]
    table = head_table(toy, circuit.graph, prompt, tokens, ("a", "b"), answers)
    there = dict(zip(table.names, table.roles[0], strict=True))
    assert len(here) > 4
    assert here == {name: there[name] for name in here}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return double("llama", tmp_path_factory.mktemp("models"), "float32")


@pytest.mark.parametrize("ablation", ["counterfactual", "mean", "zero"])
def test_the_circuits_curve_ends_where_the_circuit_does(model: Any, ablation: str) -> None:
    """A writer that the logits do not hear counts with its ablated value: the last rank is the circuit's own."""
    circuit = find(model, task(model, ablation=ablation), EAP(edges=60))
    found = roles(model, circuit, shuffles=1)
    assert float(found.curves["rank, circuit"][-1]) == pytest.approx(circuit.rank_circuit[0], rel=1e-5)
    assert float(found.curves["rank, full"][-1]) == pytest.approx(circuit.rank_full[0], rel=1e-5)


def test_curves_are_means_over_all_prompts(model: Any) -> None:
    """Two prompts together give what each gives alone, averaged: ranks as logarithms."""
    both = find(model, task(model, ablation="zero", rows=2), EAP(edges=60))
    curves = roles(model, both, shuffles=1).curves
    alone = []
    for row in range(2):
        one = replace(both, task=task_of(both, row))
        alone.append(roles(model, one, shuffles=1).curves)
    for name, values in curves.items():
        pair = torch.stack([each[name] for each in alone])
        wanted = pair.log().mean(0).exp() if name.startswith("rank") else pair.mean(0)
        torch.testing.assert_close(values, wanted, atol=1e-6, rtol=1e-3)  # float32: a rank in the hundreds may swap


def task_of(circuit: Circuit, row: int) -> Any:
    return type(circuit.task)((circuit.task.prompts[row],), circuit.task.metric, circuit.task.ablation)


# ---- changes ----


def table(direct: torch.Tensor) -> HeadTable:
    """A table of heads with these attributions, [answer, head]."""
    none, n = torch.zeros_like(direct), direct.shape[1]
    names = tuple(f"a0.h{number}" for number in range(n))
    roles = (("none",) * n,) * 2
    return HeadTable(("old", "new"), names, none[0], none[0], direct, none, none, roles, ((),) * n, none, (0.1, 0.1))


def test_a_head_whose_attribution_rises_is_not_said_to_drop() -> None:
    before = table(torch.tensor([[1.0, 2.0, 0.0, 1.0], [1.09, 0.0, 0.0, 1.0]]))
    after = table(torch.tensor([[1.0, -2.0, 0.05, 1.5], [2.56, 3.0, 0.0, 0.5]]))
    said = {change.name: change.what for change in head_changes(before, after)}
    assert said == {
        "a0.h0": "new rises",
        "a0.h1": "old falls, new rises",
        "a0.h2": "none",
        "a0.h3": "old rises, new falls",
    }


def test_heads_are_held_against_the_greatest_turn_of_any_head() -> None:
    """An edit that is one more null marks any of 50 heads in one case of twenty, and not in nearly all of them."""
    generator = torch.Generator().manual_seed(0)
    before, draws, marked, each_alone = table(torch.zeros(2, 50)), 200, 0, 0
    for _ in range(draws):
        edit, *nulls = (table(torch.randn(2, 50, generator=generator)) for _ in range(20))
        found = head_changes(before, edit, nulls)
        marked += any(change.out_of_nulls for change in found)
        assert (min(change.p or 1 for change in found) <= 0.05) is any(change.out_of_nulls for change in found)
        turn = [(each.direct[1] - each.direct[0]).abs() for each in (edit, *nulls)]
        each_alone += bool((turn[0] > torch.stack(turn[1:]).amax(0)).any())
    assert marked / draws < 0.1  # 0.05 is expected; 0.1 is three standard errors above
    assert each_alone / draws > 0.8  # what comparing each head with itself would do


def test_p_values_count_the_edit_itself() -> None:
    assert null_p(3.0, [1.0, 2.0, 3.0]) == 0.5
    assert null_p(4.0, [1.0] * 19) == 0.05
    assert null_p(4.0, []) is None
    assert null_p(4.0, [1.0, float("nan")]) == 0.5
    assert null_p(float("nan"), [1.0]) is None
