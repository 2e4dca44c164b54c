"""MEMoE: what learns is what speaks, limits of its mixture, and what the paper leaves open is a setting."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import factscope as fs
from editing.bypass import Bypass, Met, join
from editing.bypasses.experts import gates, mixtures
from editing.compute import compute
from editing.edit import Edit, applied, commit, in_place, revert
from editing.evaluation.routing import consistency, groups, routing
from editing.method import MethodInputs, method
from editing.methods.bypass import memoe
from editing.pages import edit as edit_page
from editing.pages.beside import beside
from editing.requests import request, target_prompts
from editing.solve.training import Rows, Training
from factscope.data.load import load_facts
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.forward.scoring import Pair, score
from factscope.model.hooks import record
from factscope.model.sites import Site
from factscope.plots.specs import Heatmap, Table
from helpers.models import TOY

RATE = 3e-3
FACTS = (("[Oda Voss] lives in", "Vey"), ("[Mira Drey] speaks", "Norrish"))


def asked(model: Any) -> list[Any]:
    return [request(model, text, target) for text, target in FACTS]


def made(model: Any, some: Any, **settings: Any) -> Edit:
    """Larger steps than by default, and fewer."""
    settings = {"learning_rate": RATE, "steps": 20} | settings
    return compute("memoe", model, some, method("memoe").config_for(model, settings), shown=False)


def nll(model: Any, one: Any) -> float:
    """Of the request's target, nats per token."""
    prompt = target_prompts(model, one, ("{}",), "auto")[0]
    return score(model, [Pair(tuple(prompt.tokens), tuple(prompt.answer_ids))])[0].nll


@pytest.fixture(scope="module")
def both(toy: Any) -> Edit:
    """Both facts in one mixture."""
    return made(toy, asked(toy))


def test_both_facts_are_learned_and_what_was_learned_is_what_speaks(toy: Any, both: Edit) -> None:
    """The loss that training read last, of a mixture run as one product, is the loss of the model with the edit."""
    assert both.curve is not None
    with both.applied(toy):
        losses = [nll(toy, one) for one in both.requests]
    assert max(losses) < 0.1
    loose = made(toy, both.requests, noise=0.0, stop=0.0, steps=4)  # the fourth reading is after three steps
    less = made(toy, both.requests, noise=0.0, stop=0.0, steps=3)
    assert loose.curve is not None
    with less.applied(toy):
        found = [nll(toy, one) for one in less.requests]
    assert found == pytest.approx(loose.curve[3].tolist(), abs=1e-4)


def test_a_mixture_of_one_expert_is_a_change_of_the_weight_where_it_speaks(toy: Any) -> None:
    edit = made(toy, asked(toy)[:1], experts=1, steps=4)
    (part,) = edit.bypasses
    prompt = target_prompts(toy, asked(toy)[0], ("{}",), "auto")[0]
    sites = Site("mlp_hidden", part.layer), Site("mlp_write", part.layer)
    with record(toy, sites) as seen:
        toy(prompt.tensor())
    before = seen[sites[1]]
    with edit.applied(toy), record(toy, sites) as seen:
        toy(prompt.tensor())
    torch.testing.assert_close(
        seen[sites[1]], before + seen[sites[0]] @ part.tensors["experts"][0], atol=1e-5, rtol=1e-5
    )


def learner(model: Any, **settings: Any) -> tuple[memoe.Experts, Rows]:
    spec = method("memoe")
    config = replace(memoe.Config.for_model(model), **settings)
    inputs = MethodInputs(spec, model, tuple(asked(model)), ("{}",), None, "auto", 0, None, False)
    return memoe.Experts(inputs, config, [inputs.requests], None), Rows(inputs, Training(1, 1e-3, 0.0), config.layer)


def test_the_balance_is_one_where_all_experts_are_used_alike_and_grows_with_the_favourite(toy: Any) -> None:
    change, rows = learner(toy, noise=0.0, balance=0.25)
    some = torch.arange(2)
    change.parts = {name: torch.zeros_like(part) for name, part in change.parts.items()}
    rows.losses(change, change.parts, some)  # all p are 1/4, and the first expert is every argmax
    assert float(change.penalty(change.parts)) == pytest.approx(0.25)
    weight = change.weights[0]
    change.parts[weight, "router"][:, 1, -toy.cfg.d_model :] = 100 * torch.sign(change.anchors.sum(0))
    rows.losses(change, change.parts, some)
    assert 0.25 < float(change.penalty(change.parts)) <= 1.0 + 1e-6  # beta * E * P of the favourite


def test_experts_of_zero_say_nothing_and_the_model_has_no_gradient(toy: Any) -> None:
    change, rows = learner(toy)
    leaves = {name: part.requires_grad_() for name, part in change.parts.items()}
    losses, _ = rows.losses(change, leaves, torch.arange(2))
    assert losses.tolist() == pytest.approx([nll(toy, one) for one in asked(toy)], abs=1e-5)
    losses.sum().backward()
    assert change.parts[change.weights[0], "experts"].grad is not None
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_an_edit_on_top_speaks_alone_in_its_own_scope_and_goes_out_without_a_trace(toy: Any, both: Edit) -> None:
    with both.applied(toy):
        again = made(toy, [request(toy, "[Oda Voss] lives in", "Lunholm", answer="Vey")])
        assert in_place(toy) == (both,)
    alone = made(toy, again.requests)
    assert all(
        torch.equal(tensor, alone.bypasses[0].tensors[name]) for name, tensor in again.bypasses[0].tensors.items()
    )
    with applied(toy, [both, again]):
        assert nll(toy, again.requests[0]) < 0.1
        assert nll(toy, both.requests[1]) < 0.1
        revert(toy, [again])
        assert nll(toy, both.requests[0]) < 0.1
        commit(toy, [again])


def test_a_sequence_in_the_papers_way_goes_on_from_the_experts_in_place(toy: Any) -> None:
    one, two = asked(toy)
    first = made(toy, [one])
    with first.applied(toy):
        second = made(toy, [two], sequence="continue")
        still = made(toy, [two], sequence="continue", steps=1)
        with pytest.raises(EditError, match="4 experts and top_k 1, so one of 2 and 1 cannot go on"):
            made(toy, [two], sequence="continue", experts=2)
    assert second.bypasses[0].words == ("Oda Voss", "Mira Drey")
    assert mixtures(second.bypasses[0])[0].rule.anchors == 2
    before, after = first.bypasses[0].tensors["experts"], still.bypasses[0].tensors["experts"]
    assert float((before - after).abs().max()) <= 1.1 * RATE  # Adam's first step
    with applied(toy, [first, second]):
        assert nll(toy, two) < 0.1


def test_in_scope_everywhere_it_changes_what_names_no_subject(toy: Any) -> None:
    row = tuple(target_prompts(toy, asked(toy)[1], ("{}",), "auto")[0].tokens)
    (before,) = score(toy, [Pair(row, (5,))])
    for scope in ("anchor", "always"):
        with made(toy, asked(toy)[:1], scope=scope, steps=2).applied(toy):
            (after,) = score(toy, [Pair(row, (5,))])
        assert torch.equal(after.logp, before.logp) == (scope == "anchor")


def test_what_cannot_work_is_refused_before_any_work(toy: Any) -> None:
    with pytest.raises(EditError, match="top_k is 3, and there are 2 experts"):
        made(toy, asked(toy)[:1], experts=2, top_k=3)
    with pytest.raises(EditError, match="strength is 0, and must be above 0"):
        made(toy, asked(toy)[:1], strength=0.0)
    with pytest.raises(EditError, match="would open nearly everywhere: mark a longer subject"):
        made(toy, [request(toy, "[the] town of Vey is", "Vey", answer="Brask")])


def test_the_page_says_what_the_gate_met_and_which_expert_answered(toy: Any, both: Edit, tmp_path: Path) -> None:
    fact = load_facts(TOY / "toy_town.json")[0]
    edit = made(toy, [EditRequest.of(replace(fact, foil="Vey")), asked(toy)[1]], steps=2)
    assert [one.about for one in edit.met].count("edit") == 2
    assert all(one.opened == (one.about != "neighbour") for one in edit.met)
    assert all(sum(one.load) == pytest.approx(float(one.opened)) for one in edit.met)
    specs = {spec.title: spec for spec in beside([edit])}
    gate, load, routes = (
        specs[name] for name in ("What the gate met", "Load of the experts", "Which expert each prompt met")
    )
    assert isinstance(gate, Table)
    assert [row[3] for row in gate.rows] == [1.0, 1.0, 0.0][: len(gate.rows)]
    assert isinstance(load, Heatmap)
    assert load.values.sum(1) == pytest.approx(1.0)
    assert {"toy_town", "prompt"} <= set(load.rows)  # one row a relation
    use = specs["How the experts are used"]
    assert isinstance(use, Table)
    assert use.rows[0][1:4] == (4, 1, 2)
    assert isinstance(routes, Table)
    first = next(one for one in edit.met if one.about == "edit")
    assert routes.rows[0][2] == max(range(4), key=lambda number: first.load[number])
    assert Edit.load(both.save(tmp_path / "edit")).met == both.met


def test_consistency_is_one_for_a_fact_with_itself_and_the_favourites_share_otherwise() -> None:
    one, other = Met(0, "edit", "a", (1.0, 0.0)), Met(0, "paraphrase", "b", (0.25, 0.75))
    assert consistency([one, one]) == 1.0
    assert consistency([one, other]) == pytest.approx(0.625)


def test_specialised_experts_are_apart_by_group_and_balanced_ones_are_used_alike(both: Edit) -> None:
    met = (Met(0, "edit", "a", (1.0, 0.0)), Met(0, "paraphrase", "b", (1.0, 0.0)), Met(1, "edit", "c", (0.0, 1.0)))
    found = routing(replace(both, met=(*met, Met(1, "neighbour", "d", (1.0, 0.0)))), {0: "one", 1: "other"})
    assert found is not None
    assert (found.same, found.similar) == (1.0, 1.0)
    assert found.load == pytest.approx((2 / 3, 1 / 3))
    assert found.specialisation == pytest.approx((1 / 3 + 2 / 3) / 2)
    alike = routing(replace(both, met=(replace(met[0], load=(0.5, 0.5)), replace(met[2], load=(0.5, 0.5)))))
    assert alike is not None
    assert (alike.specialisation, alike.balance, alike.same) == (0.0, 1.0, 0.5)
    assert routing(replace(both, met=(Met(0, "edit", "a", (0.0, 0.0)),))) is None


def test_groups_are_what_points_the_same_way_however_long() -> None:
    ways = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    noise = 0.05 * torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    found = groups(ways.repeat_interleave(10, 0) + noise, 3)
    assert sorted(map(len, map(set, found.view(3, 10).tolist()))) == [1, 1, 1]
    assert len(set(found.tolist())) == 3
    assert groups(ways[:2], 5).tolist() in ([0, 1], [1, 0])


def test_a_trace_needs_parts_of_prompts_and_says_that_it_cannot_have_them(toy: Any, both: Edit) -> None:
    prompt = fs.prompt(toy, FACTS[0][0], answer="Vey")
    with both.applied(toy), pytest.raises(EditError, match="reads whole prompts, and this runs parts"):
        fs.trace(toy, prompt, fs.TraceConfig(sites=("mlp",), samples=1))


def test_without_anchors_the_router_reads_the_token_alone(toy: Any) -> None:
    part: Bypass = made(toy, asked(toy)[:1], anchored=False, steps=1).bypasses[0]
    (one,) = mixtures(part)
    assert not one.rule.anchored
    assert not one.told(("oda voss",)).any()


def test_what_the_paper_leaves_open_is_said_of_each_edit_on_its_page(both: Edit) -> None:
    table = next(spec for part in edit_page.page(both).sections for spec in part.specs if "leaves open" in spec.title)
    assert isinstance(table, Table)
    assert len(table.rows) == 13
    assert {row[2] for row in table.rows} - {""} <= {field.name for field in fields(memoe.Config)}
    assert (
        next(row[1] for row in table.rows if row[0] == "which W_0") == f"the down-projection of layer {both.layers[0]}"
    )


def test_renormalised_gates_are_those_of_the_best_scaled_up_to_one(toy: Any) -> None:
    p = torch.tensor([[[0.5, 0.3, 0.2]]])
    assert gates(p, 2).tolist()[0][0] == pytest.approx([0.5, 0.3, 0.0])
    assert gates(p, 2, renormalised=True).tolist()[0][0] == pytest.approx([0.625, 0.375, 0.0])
    with pytest.raises(EditError, match="with top_k 1 a renormalised gate is always 1"):
        made(toy, asked(toy)[:1], renormalised=True)
    edit = made(toy, asked(toy)[:1], top_k=2, renormalised=True, steps=6)
    (part,) = edit.bypasses
    earlier = replace(part, tensors=part.tensors | {"edits": part.tensors["edits"][:, :6]})  # saved before the switch
    first, second = mixtures(join([earlier, part])[0])
    assert (first.rule.renormalised, second.rule.renormalised) == (False, True)
