"""Experts by hand: gates, scope by words, and the written sum, on numbers small enough for paper."""

from typing import Any

import pytest
import torch

from editing.bypass import Bypass, functions, join
from editing.bypasses.experts import Mixture, Names, Rule, gates, mixtures, scores, unit
from factscope.errors import EditError
from factscope.model.forward.ends import ending


def part(words: tuple[str, ...], value: float = 1.0, experts: int = 2, top_k: int = 1, **rule: Any) -> Bypass:
    """Experts of width 3 to 2: every entry of expert e is `value` times e + 1; the router is drawn."""
    router = torch.randn(experts, 5, generator=torch.Generator().manual_seed(experts))
    each = value * torch.arange(1.0, experts + 1)[:, None, None].expand(-1, 3, 2)
    row = Rule(experts, len(words), top_k, 1.0, **rule).row()[None]
    anchors = torch.ones(len(words), 2) * torch.arange(1.0, len(words) + 1)[:, None]
    tensors = {"experts": each.clone(), "router": router, "anchors": anchors, "edits": row}
    return Bypass("experts", 0, tensors, {}, words)


def test_k_gates_are_left_as_they_are_and_the_others_are_zero() -> None:
    p = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    for k in range(1, 6):
        kept = gates(p, k)
        assert ((kept > 0).sum(-1) == k).all()
        assert torch.equal(kept[kept > 0], p[kept > 0])
        assert (kept.sum(-1) <= 1 + 1e-6).all()
    assert torch.equal(gates(p, 5), p)


def test_both_halves_of_what_the_router_reads_are_of_one_size_and_no_anchor_is_zero() -> None:
    x, anchor = torch.randn(2, 3, 4) * 100, torch.randn(2, 5) * 0.01
    router = torch.randn(3, 9)
    whole = torch.cat([unit(x), unit(anchor)[:, None].expand(-1, 3, -1)], -1)
    torch.testing.assert_close(scores(x, anchor, router), whole @ router.T)
    each = torch.randn(2, 3, 9)  # a router for each row
    torch.testing.assert_close(scores(x, anchor, each), torch.einsum("rpd,red->rpe", whole, each))
    assert not unit(torch.zeros(2, 5)).any()


def test_what_is_added_is_the_dense_sum_whatever_the_order_of_experts() -> None:
    drawn = torch.Generator().manual_seed(1)
    x, anchor = torch.randn(2, 4, 3, generator=drawn), torch.randn(2, 2, generator=drawn)
    for k in (1, 2, 3):
        rule, experts = Rule(3, 0, k, 0.5), torch.randn(3, 3, 2, generator=drawn)
        router = torch.randn(3, 5, generator=drawn)
        one = Mixture(rule, experts, router, torch.zeros(0, 2), ())
        dense = 0.5 * torch.einsum("rpe,rpi,eio->rpo", one.gates(x, anchor), x, experts)
        torch.testing.assert_close(one.added(x, anchor), dense)
        turned = Mixture(rule, experts[[2, 0, 1]], router[[2, 0, 1]], torch.zeros(0, 2), ())
        torch.testing.assert_close(turned.added(x, anchor), dense)


def test_one_expert_has_the_gate_one() -> None:
    (one,) = mixtures(part((), experts=1))
    x = torch.randn(1, 4, 3)
    torch.testing.assert_close(one.added(x, torch.zeros(1, 2)), x @ one.experts[0])


@pytest.mark.parametrize(
    ("text", "edit", "found"),
    [
        ("Oda Voss lives in", 1, ("oda voss",)),
        ("oda voss, they say, lives in", 1, ("oda voss",)),
        ("Oda lives in", 0, ("oda",)),
        ("Odaline lives in", -1, ()),
        ("Nobody lives in", -1, ()),
        ("Oda Voss knows Oda", 1, ("oda voss", "oda")),
    ],
)
def test_the_longest_anchor_counts_as_whole_words_in_any_case(text: str, edit: int, found: tuple[str, ...]) -> None:
    scope = Names(mixtures(join([part(("Oda",)), part(("Oda Voss", "Mira"))])[0]))
    assert scope.anchors(text) == found
    assert scope.edit(scope.anchors(text)) == edit


def test_of_several_edits_in_scope_the_latest_speaks_alone() -> None:
    both = mixtures(join([part(("Oda",)), part(("Oda",), 2.0)])[0])
    assert Names(both).edit(("oda",)) == 1
    assert [float(one.experts.max()) for one in both] == [2.0, 4.0]
    everywhere = mixtures(join([part(("Oda",)), part(("Mira",), always=True)])[0])
    assert Names(everywhere).edit(()) == 1
    assert Names(mixtures(join([part(("Mira",), always=True), part(("Oda",))])[0])).edit(("oda",)) == 1


def test_several_anchors_are_their_mean_and_none_is_zero() -> None:
    (one,) = mixtures(part(("Oda", "Mira")))
    assert one.told(("oda",)).tolist() == [1, 1]
    assert one.told(("mira", "oda")).tolist() == [1.5, 1.5]
    assert one.told(()).tolist() == [0, 0]
    (other,) = mixtures(part(("Oda",), anchored=False))
    assert other.told(("oda",)).tolist() == [0, 0]


def test_a_decision_is_kept_for_the_passes_that_follow_and_parts_of_a_prompt_are_refused(toy: Any) -> None:
    own = part(("Oda",), always=False)
    hooks = functions([own], toy)
    (_, meet), (_, read), (_, write) = hooks
    ids = torch.tensor(
        [list(toy.tokenizer(text)["input_ids"])[:3] for text in ("Oda Voss lives in", "lives in lives in")]
    )
    x, y = torch.ones(2, 3, 3), torch.zeros(2, 3, 2)
    meet(ids)
    read(x)
    out = write(y)  # nobody spoke for it: the tokens that were met are the prompts
    assert out is not None
    assert out[0].any()
    assert torch.equal(out[1], y[1])
    read(x)
    with pytest.raises(EditError, match="reads whole prompts, and this runs parts"):
        write(y)
    with ending(torch.tensor([2, 2]), tokens=ids) as now:
        read(x)
        first = write(y)
        now.begun = 3
        read(x[:, :1])
        later = write(y[:, :1])  # one token more: what was decided holds
    assert first is not None
    assert later is not None
    assert torch.equal(first, out)
    torch.testing.assert_close(later, out[:, :1])
