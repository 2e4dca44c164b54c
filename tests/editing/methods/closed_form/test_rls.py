"""RLS: any way of cutting a sequence gives one solve over all of it; MEMIT, ENCORE and AlphaEdit are its limits."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from editing import compute as computing
from editing.edit import Edit, applied, revert
from editing.merge.stack import merged
from editing.methods.closed_form import alphaedit, memit, rls
from editing.requests import RequestPrompts
from editing.restraint import restrained
from editing.solve.closed_form import KeyMetric, guarded, matrix_of, solve
from editing.solve.values import Descent, find_keys
from factscope.data.fact import Fact
from factscope.data.request import requests_of
from helpers.moments import text_moments

FACTS = requests_of(
    (
        Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),
        Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris town"),
        Fact("c", "home", "Ze", "{} is", "Bern", "York"),
    )
)
CONTEXTS = ("{}", "I said. {}")
SHORT = Descent(steps=4, learning_rate=0.1, clamp=50.0, weight_decay=0.0)
CONFIG = rls.Config(layers=(0, 1), descent=SHORT)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def moment():
    text = drawn(200, 12, seed=9) * torch.linspace(0.1, 3, 12)
    return text.T @ text / 200


def in_batches(keys, values, weight, matrix, batches):
    """W after these batches, by the recursion of the module's text."""
    weight, past = weight.clone(), keys[:0]
    for batch in batches:
        lacking = values[batch] - keys[batch] @ weight
        weight += solve(keys[batch], lacking, KeyMetric(guarded(matrix, past)), ridge=1.0).dense()
        past = torch.cat([past, keys[batch]])
    return weight


# ---- the recursion ----


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3, 4]], [[0], [1], [2], [3], [4]], [[3, 1], [4], [0, 2]]])
def test_any_batches_in_any_order_give_the_normal_equations_of_the_whole(moment, batches):
    keys, values, before = drawn(5, 12), drawn(5, 4, seed=1), drawn(12, 4, seed=2)
    matrix = 0.3 * (moment + 0.2 * torch.eye(12))
    direct = torch.linalg.solve(matrix + keys.T @ keys, matrix @ before + keys.T @ values)
    torch.testing.assert_close(in_batches(keys, values, before, matrix, batches), direct, atol=1e-10, rtol=0)


def test_more_facts_than_dimensions_are_the_same_recursion(moment):
    keys, values, before = drawn(30, 12), drawn(30, 4, seed=1), drawn(12, 4, seed=2)
    direct = torch.linalg.solve(moment + keys.T @ keys, moment @ before + keys.T @ values)
    for batches in ([list(range(30))], [list(range(20)), list(range(20, 30))]):
        torch.testing.assert_close(in_batches(keys, values, before, moment, batches), direct, atol=1e-10, rtol=0)


def test_orthogonal_keys_leave_each_other_exact_where_nothing_else_is_held():
    keys, values, before = torch.linalg.qr(drawn(12, 3)).Q.T, drawn(3, 4, seed=1), drawn(12, 4, seed=2)
    after = in_batches(keys, values, before, 1e-13 * torch.eye(12).double(), [[0], [1], [2]])
    torch.testing.assert_close(keys @ after, values, atol=1e-10, rtol=0)


def test_the_heavier_ordinary_keys_the_smaller_the_change(moment):
    keys, values = drawn(3, 12), drawn(3, 4, seed=1)
    sizes = [float(solve(keys, values, KeyMetric(w * moment), ridge=1.0).dense().norm()) for w in (1e5, 1e7, 1e9)]
    assert sizes[0] > 90 * sizes[1] > 8000 * sizes[2] > 0  # as 1 / w


def test_with_the_identity_alone_the_change_is_in_the_span_of_the_keys():
    keys, values, before = drawn(3, 12), drawn(3, 4, seed=1), drawn(12, 4, seed=2)
    change = in_batches(keys, values, before, 0.5 * torch.eye(12).double(), [[0], [1, 2]]) - before
    outside = torch.linalg.qr(keys.T, mode="complete").Q[:, 3:]
    torch.testing.assert_close(outside.T @ change, torch.zeros(9, 4).double(), atol=1e-12, rtol=0)


def test_alphaedit_is_the_limit_in_which_loud_directions_are_held_without_end(moment):
    keys, lacking = drawn(3, 12), drawn(3, 4, seed=1)
    null = alphaedit.null_space(moment, 0.3)
    project = null @ null.T
    wanted = solve(keys @ project, lacking, KeyMetric(None), ridge=0.5).dense()
    gaps = []
    for b in (1e3, 1e5, 1e7):
        held = project + b * (torch.eye(12).double() - project)
        gaps.append(float((solve(keys, lacking, KeyMetric(held), ridge=0.5).dense() - wanted).norm()))
    assert gaps[0] > 90 * gaps[1] > 8000 * gaps[2]  # as 1 / b


def test_the_measure_says_how_much_a_lone_fact_closes(moment):
    """w = ridge times leverage, so the first fact closes 1 / (1 + ridge) of its gap, whatever the scale of C."""
    key, lacking = drawn(1, 12), drawn(1, 4, seed=1)
    for scale in (1.0, 1e4):
        metric = rls.measure(KeyMetric(scale * moment), key, rls.Config(ridge=0.25))
        torch.testing.assert_close(key @ solve(key, lacking, metric, ridge=1.0).dense(), lacking / 1.25)
    spared = rls.measure(KeyMetric(moment), key, rls.Config(ridge=0.25, identity=0.5)).dense(12)
    plain = rls.measure(KeyMetric(moment), key, rls.Config(ridge=0.25)).dense(12)
    share = (spared - plain).diagonal() / plain.diagonal().mean()
    torch.testing.assert_close(share, torch.full((12,), 0.5).double())
    torch.testing.assert_close(matrix_of(None, 3), torch.eye(3).double())


# ---- edits ----


MOMENTS: dict[Any, Any] = {}  # of the models before any edit


def edit(model, facts, config=CONFIG, name="rls"):
    if model not in MOMENTS:
        MOMENTS[model] = text_moments(model, [0, 1])
    return computing.compute(name, model, facts, config, moments=MOMENTS[model], contexts=CONTEXTS, shown=False)


def test_the_first_edit_of_a_sequence_is_memits(tiny):
    model = tiny("llama")
    ours = edit(model, FACTS)
    theirs = edit(model, FACTS, memit.Config(layers=(0, 1), descent=SHORT), "memit")
    for one, other in zip(ours.deltas, theirs.deltas, strict=True):
        torch.testing.assert_close(one.dense(), other.dense(), atol=1e-7, rtol=1e-4)
    assert ours.notes == ()


def test_an_edit_remembers_its_keys_as_they_were_used(tiny):
    """In the upper layer they are read after the lower layer was changed."""
    model = tiny("llama")
    made = edit(model, FACTS)
    keys = find_keys(model, RequestPrompts(FACTS, CONTEXTS), 1).halves()
    lower = replace(made, deltas=made.deltas[:1], digest="")
    with lower.applied(model):
        used = find_keys(model, RequestPrompts(FACTS, CONTEXTS), 1).halves()
    torch.testing.assert_close(made.memory["keys of blocks.1.mlp.W_out"], used, atol=1e-5, rtol=1e-5)
    assert (used - keys).norm() > 1e-3 * keys.norm()


def test_the_next_edit_is_solved_in_the_measure_that_holds_the_keys_in_place(tiny):
    model, config = tiny("gpt2"), replace(CONFIG, layers=(1,), identity=0.3)
    first = edit(model, FACTS[:1], config)
    with first.applied(model):
        second = edit(model, FACTS[1:], config)
    keys = first.memory["keys of blocks.1.mlp.W_out"].double()
    own = second.memory["keys of blocks.1.mlp.W_out"].double()
    matrix, dense = (
        rls.measure(KeyMetric(MOMENTS[model].of(1)), keys, config).dense(keys.shape[1]),
        second.deltas[0].dense(),
    )
    lacking = second.deltas[0].right.double()
    direct = torch.linalg.solve(matrix + keys.T @ keys + own.T @ own, own.T @ lacking)
    torch.testing.assert_close(dense, direct, atol=1e-6, rtol=1e-4)
    free = torch.linalg.solve(matrix + own.T @ own, own.T @ lacking)
    assert (keys @ dense).norm() < 0.7 * (keys @ free).norm()


def test_a_restart_from_saved_edits_is_bitwise_the_sequence_that_was_not_stopped(tiny, tmp_path):
    model = tiny("llama")
    first = edit(model, FACTS[:1])
    with first.applied(model):
        second = edit(model, FACTS[1:2])
        with second.applied(model):
            straight = edit(model, FACTS[2:])
    saved = [Edit.load(one.save(tmp_path / one.name)) for one in (first, second)]
    with applied(model, saved):
        resumed = edit(model, FACTS[2:])
    assert resumed.digest == straight.digest


def test_what_breaks_the_optimum_is_noted(tiny):
    model = tiny("llama")
    first = edit(model, FACTS[:1])
    with first.applied(model):
        second = edit(model, FACTS[1:2])
        assert second.notes == ()
        assert any(
            "together they solve no one" in note for note in edit(model, FACTS[1:2], replace(CONFIG, ridge=0.3)).notes
        )
        second.commit(model)
    try:
        assert any("was taken out" in note for note in edit(model, FACTS[2:]).notes)
    finally:
        revert(model, (second,))
    other = edit(model, FACTS[:1], memit.Config(layers=(0, 1), descent=SHORT), "memit")
    with other.applied(model):
        assert any("1 of the edits in place remember" in note for note in edit(model, FACTS[1:2]).notes)


def test_a_stack_and_a_restrained_stack_remember_what_its_edits_do(tiny):
    model = tiny("llama")
    first = edit(model, FACTS[:1])
    with first.applied(model):
        second = edit(model, FACTS[1:])
    for stack in (merged([first, second]), restrained(model, [first, second], "rect")):
        for name, rows in stack.memory.items():
            assert torch.equal(rows, torch.cat([first.memory[name], second.memory[name]]))


def test_an_edit_that_was_saved_before_there_were_memories_loads_under_its_digest(tiny, tmp_path):
    made = edit(tiny("llama"), FACTS[:1], memit.Config(layers=(0, 1), descent=SHORT), "memit")
    folder = made.save(tmp_path / "old")
    document = json.loads((folder / "result.json").read_text())
    assert document["result"].pop("memory") == {}
    (folder / "result.json").write_text(json.dumps(document))
    assert Edit.load(folder).digest == made.digest
