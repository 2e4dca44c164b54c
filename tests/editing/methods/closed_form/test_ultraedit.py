"""UltraEdit: its statistics against two-pass ones, its slopes against plain passes, its solve against the equation."""

from dataclasses import replace

import pytest
import torch

from editing import compute as computing
from editing.edit import Edit, remembered
from editing.merge.stack import merged
from editing.methods.closed_form import ultraedit
from editing.methods.closed_form.ultraedit import Config, Statistics
from editing.requests import target_prompts
from editing.trained import factors
from factscope.data.fact import Fact
from factscope.data.request import requests_of
from factscope.errors import EditError
from factscope.model.hooks import Patch, patched, record
from factscope.model.sites import Site
from factscope.model.weights import MLP_OUT, WeightName

FACTS = requests_of(
    (
        Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),
        Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris town"),
        Fact("c", "home", "Ze", "{} is", "Bern", "York"),
    )
)
FIRST = WeightName(0, MLP_OUT)
BOTH = Config(layers=(0, 1), strength=0.1)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edit(model, facts=FACTS, config=BOTH):
    return computing.compute("ultraedit", model, facts, config, shown=False)


def difference(one, other):
    """Largest relative distance between the changes of two edits, weight by weight."""
    return max(
        float((a.dense() - b.dense()).norm() / b.dense().norm()) for a, b in zip(one.deltas, other.deltas, strict=True)
    )


# ---- statistics ----


def test_statistics_of_parts_are_those_of_the_whole():
    rows = drawn(50, 7) * torch.logspace(-3, 3, 7).double() + 10
    joined = Statistics.of(rows[:1]).joined(Statistics.of(rows[1:20])).joined(Statistics.of(rows[20:]))
    assert joined.count == 50
    torch.testing.assert_close(joined.mean, rows.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(joined.squares / 50, rows.var(0, correction=0), rtol=1e-12, atol=0)


def test_what_was_met_has_mean_0_and_deviation_1_and_a_constant_coordinate_is_0():
    rows = drawn(50, 7) * 5 + 3
    rows[:, 2] = 4.0
    usual = Statistics.of(rows).standardised(rows)
    assert not usual[:, 2].any()
    varied = usual[:, [0, 1, 3, 4, 5, 6]]
    torch.testing.assert_close(varied.mean(0), torch.zeros(6).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(varied.var(0, correction=0), torch.ones(6).double(), atol=1e-12, rtol=0)


def test_an_edit_remembers_statistics_exactly():
    own = Statistics.of(drawn(5, 6))
    back = Statistics.from_row(own.row()[0])
    assert (back.count, back.mean.tolist(), back.squares.tolist()) == (5.0, own.mean.tolist(), own.squares.tolist())


# ---- values ----


def test_the_scale_of_the_loss_does_not_matter():
    keys, slopes = drawn(9, 6), drawn(9, 4, seed=1)
    one, other = (
        ultraedit.values(keys, c * slopes, Statistics.of(torch.cat([keys, c * slopes], 1)), 0.1) for c in (1.0, 1e-4)
    )
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_strength_is_a_factor_and_points_down_the_slope():
    keys, slopes = drawn(9, 6), drawn(9, 4, seed=1)
    known = Statistics.of(torch.cat([keys, slopes], 1))
    once, twice = (ultraedit.values(keys, slopes, known, strength) for strength in (0.1, 0.2))
    torch.testing.assert_close(2 * once, twice)
    assert (once * (slopes - slopes.mean(0)) <= 0).all()


# ---- edits ----


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma3"])
def test_slopes_are_those_of_plain_passes(tiny, kind):
    """A small change of what is written moves the loss of a plain forward pass by slope times change."""
    model = tiny(kind)
    owner, found = _slopes(model)
    for number, fact in enumerate(FACTS):
        (prompt,) = target_prompts(model, fact, ("{}",), "auto")
        tokens = torch.tensor([[*prompt.tokens, *prompt.answer_ids[:-1]]])
        first = len(prompt.tokens) - 1
        site, hidden = Site("mlp_write", 0), Site("mlp_hidden", 0)
        with record(model, [hidden]) as seen:
            assert _loss(model, tokens, first, prompt.answer_ids) == pytest.approx(
                float(found.losses[number]) * len(prompt.answer_ids), rel=1e-5
            )
        own = found.at(owner == number)
        torch.testing.assert_close(own.read[FIRST].float(), seen[hidden][0, first:], atol=1e-5, rtol=1e-5)
        for place in range(len(prompt.answer_ids)):
            slope = own.slope[FIRST][place].float()
            step = 0.02 * slope / slope.norm()
            ends = []
            for change in (step, -step):
                with patched(model, [Patch(site, change, positions=[first + place], add=True)]):
                    ends.append(_loss(model, tokens, first, prompt.answer_ids))
            assert ends[0] - ends[1] == pytest.approx(float(0.04 * slope.norm()), rel=0.05, abs=2e-5)


def _slopes(model):
    from editing.method import MethodInputs, method

    spec = method("ultraedit")
    return ultraedit._read(MethodInputs(spec, model, FACTS, ("{}",), None, "auto", 0, None, False), BOTH)


def _loss(model, tokens, first, answers):
    logp = model(tokens, use_cache=False)[0].double().log_softmax(-1)
    return float(-sum(logp[first + t, token] for t, token in enumerate(answers)))


def test_the_change_solves_the_equation_of_the_authors(tiny):
    """(H'H + I) dW = H'V with H and V as rows, made here from slopes, two-pass statistics and no solver of ours."""
    model = tiny("llama")
    (_, found), made = _slopes(model), edit(tiny("llama"))
    rows = torch.cat([torch.cat([found.read[name], found.slope[name]], 1) for name in found.read])
    for (name, keys), delta in zip(found.read.items(), made.deltas, strict=True):
        both = (torch.cat([keys, found.slope[name]], 1) - rows.mean(0)) / rows.std(0, correction=0)
        width = keys.shape[1]
        wanted = -0.1 / width * both[:, :width].square().sum(1, keepdim=True) * both[:, width:]
        system = keys.T @ keys + torch.eye(width).double()
        torch.testing.assert_close(system @ delta.dense(), keys.T @ wanted, atol=1e-6, rtol=1e-4)
        assert torch.linalg.matrix_rank(delta.dense(), rtol=1e-5) <= len(keys)


def test_neither_the_order_of_facts_nor_the_size_of_a_pass_matters(tiny, monkeypatch):
    model = tiny("gpt2")
    whole = edit(model)
    assert difference(edit(model, FACTS[::-1]), whole) < 1e-4  # float32 passes
    monkeypatch.setattr(factors, "TOGETHER", 1)
    assert difference(edit(model), whole) < 1e-4


def test_no_strength_is_no_change(tiny):
    assert not any(delta.dense().any() for delta in edit(tiny("llama"), config=replace(BOTH, strength=0.0)).deltas)


def test_the_next_edit_knows_what_those_in_place_have_met_and_forgets_what_is_undone(tiny, tmp_path):
    model = tiny("llama")
    first, alone = edit(model, FACTS[:1]), edit(model, FACTS[1:])
    (name,) = first.memory
    with first.applied(model):
        second = edit(model, FACTS[1:])
        again = Edit.load(first.save(tmp_path / "edit"))
    with again.applied(model):
        resumed = edit(model, FACTS[1:])
    assert torch.equal(again.memory[name], first.memory[name])
    assert resumed.digest == second.digest
    assert difference(second, alone) > 0.01
    assert edit(model, FACTS[1:]).digest == alone.digest
    stack, both = merged([first, second]), remembered([first, second], name)
    assert both is not None
    assert torch.equal(stack.memory[name], both)
    assert len(both) == 2


def test_each_matrix_may_have_statistics_of_its_own(tiny):
    made = edit(tiny("llama"), config=replace(BOTH, pooled=False))
    assert len(made.memory) == 2
    assert difference(made, edit(tiny("llama"))) > 0.01


def test_a_single_token_has_no_spread(tiny, monkeypatch):
    model = tiny("llama")
    whole = factors.bare_prompt
    monkeypatch.setattr(
        factors, "bare_prompt", lambda *how: replace(whole(*how), answer_ids=whole(*how).answer_ids[:1])
    )
    with pytest.raises(EditError, match="at least two target tokens"):
        edit(model, FACTS[:1], replace(BOTH, layers=(1,)))
