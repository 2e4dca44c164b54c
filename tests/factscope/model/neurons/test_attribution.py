"""Attributions to neurons: against plain transformers with hooks, and what integrated gradients must satisfy."""

from typing import Any

import pytest
import torch
from torch import Tensor

from editing.compute import compute
from editing.requests import request
from factscope.errors import ModelError, UserError
from factscope.model.forward.partial import Frame
from factscope.model.forward.scoring import Pair
from factscope.model.forward.subject import Suffix
from factscope.model.neurons import attribution
from factscope.model.neurons.attribution import Attribution, Path, attribute, check_neurons
from factscope.model.weights import live_weights

PAIRS = (Pair((3, 17, 40, 9), (21, 5)), Pair((8, 30, 11, 12, 55, 60, 7), (33,)), Pair((4, 90), (21,)))
LOOSE = 10.0  # a tolerance that no gap exceeds: one round of points
_DOWN = {
    "gpt2": lambda bare, layer: bare.transformer.h[layer].mlp.c_proj,
    "llama": lambda bare, layer: bare.model.layers[layer].mlp.down_proj,
    "gemma3": lambda bare, layer: bare.model.layers[layer].mlp.down_proj,
}


def plainly(model: Any, kind: str, pair: Pair, layer: int, points: int) -> tuple[Tensor, float]:
    """The definition on the bare Hugging Face modules, whole passes, a token at a time: attributions, and P(0)."""
    down, nothing = _DOWN[kind](model.original_model, layer), 0.0
    total = torch.zeros(1)
    for place, token in enumerate(pair.answer):
        tokens = torch.tensor([[*pair.prompt, *pair.answer[:place]]])
        own: list[Tensor] = []
        handle = down.register_forward_pre_hook(lambda _, given, own=own: own.append(given[0][0, -1].detach().clone()))
        model.original_model(tokens)
        handle.remove()

        def at(vector: Tensor, tokens: Tensor = tokens, token: int = token) -> Tensor:
            def put(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                return (torch.cat([given[0][:, :-1], vector[None, None]], 1),)

            handle = down.register_forward_pre_hook(put)
            try:
                said: Tensor = model.original_model(tokens).logits[0, -1].softmax(-1)[token]
                return said
            finally:
                handle.remove()

        slope = torch.zeros_like(own[0])
        for j in range(points):
            moved = ((j + 0.5) / points * own[0]).requires_grad_()
            slope += torch.autograd.grad(at(moved), moved)[0] / points
        total = total + own[0] * slope
        nothing += float(at(torch.zeros_like(own[0])))
    return total, nothing


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3"])
def test_attributions_are_those_of_plain_transformers_with_hooks(tiny: Any, kind: str) -> None:
    model = tiny(kind)
    found = attribute(model, PAIRS, (1, 3), Path(points=3, tolerance=LOOSE))
    for place, layer in enumerate((1, 3)):
        for number, pair in enumerate(PAIRS[:2]):
            value, nothing = plainly(model, kind, pair, layer, 3)
            scale = float(value.abs().max())
            torch.testing.assert_close(found.value[number, place, : len(value)], value, atol=1e-4 * scale, rtol=1e-3)
            assert float(found.without[number, place]) == pytest.approx(nothing, rel=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("of", ["probability", "logit"])
def test_a_layer_s_attributions_add_up_to_what_its_neurons_give_together(tiny: Any, kind: str, of: Any) -> None:
    """The midpoint rule's error falls fourfold with twice the points, so sixteenfold with four times as many."""
    few, many = (attribute(tiny(kind), PAIRS, path=Path(points=m, tolerance=LOOSE, of=of)) for m in (8, 32))
    large = few.gap > 1e-5 * float(few.whole.abs().max())  # above float32's rounding
    assert bool(large.any())
    assert bool((many.gap[large] < few.gap[large] / 8).all())
    assert float(many.gap.max()) < 0.01 * float((many.whole[:, None] - many.without).abs().max())


def test_where_the_answer_is_linear_in_the_neurons_one_point_is_exact(tiny: Any, monkeypatch: Any) -> None:
    model = tiny("llama")
    matrix = torch.randn(32, 100, generator=torch.Generator().manual_seed(0))
    check_neurons(model, (3,))
    monkeypatch.setattr(Frame, "logits", lambda _, last, __=None: last @ matrix)
    monkeypatch.setattr(Suffix, "check", lambda _: None)
    found = attribute(model, PAIRS[1:], (3,), Path(points=1, tolerance=LOOSE, of="logit"))
    assert float(found.gap.max()) < 1e-4 * float(found.value.abs().sum(-1).max())
    weight = live_weights(model)["blocks.3.mlp.W_out"]
    for number, pair in enumerate(PAIRS[1:]):
        slope = weight @ (matrix[:, pair.answer[0]] - matrix.mean(1))
        torch.testing.assert_close(found.value[number, 0], found.activation[number, 0] * slope, atol=1e-5, rtol=1e-4)


def test_how_points_and_prompts_are_batched_changes_nothing(tiny: Any, monkeypatch: Any) -> None:
    model, path = tiny("neox"), Path(points=4, tolerance=LOOSE)
    whole = attribute(model, PAIRS, (0, 2), path)
    monkeypatch.setattr(attribution, "CHUNK", 3)
    apart = attribute(model, PAIRS, (0, 2), path)
    alone = [attribute(model, [pair], (0, 2), path) for pair in PAIRS]
    for other in (apart.value, torch.cat([one.value for one in alone])):
        torch.testing.assert_close(whole.value, other, atol=1e-6, rtol=1e-3)


def test_a_neuron_that_does_not_fire_carries_nothing(family: Any) -> None:
    found = attribute(family("opt"), PAIRS[1:], path=Path(points=2, tolerance=LOOSE))
    silent = found.activation == 0
    assert 0.1 < float(silent.float().mean()) < 0.9  # a ReLU
    assert not found.value[silent].any()
    assert found.value[~silent].any()


def test_only_where_the_gap_is_above_the_tolerance_it_is_done_again(tiny: Any) -> None:
    model = tiny("gpt2")
    coarse = attribute(model, PAIRS, path=Path(points=2, tolerance=LOOSE))
    tolerance = float(coarse.gap.median())
    fine = attribute(model, PAIRS, path=Path(points=2, tolerance=tolerance))
    assert torch.equal(fine.points > 2, coarse.gap > tolerance)
    assert float(fine.gap.max()) <= tolerance
    again = coarse.gap > tolerance
    assert torch.equal(fine.value[~again], coarse.value[~again])
    number, place = (int(each[0]) for each in again.nonzero(as_tuple=True))
    m = int(fine.points[number, place])
    alone = attribute(model, [PAIRS[number]], (place,), Path(points=m, tolerance=LOOSE))
    torch.testing.assert_close(fine.value[number, place], alone.value[0, 0], atol=1e-6, rtol=1e-3)
    stopped = attribute(model, PAIRS, path=Path(points=2, tolerance=1e-9, doublings=1))
    assert stopped.points.tolist() == [[4] * 4] * 3


def test_the_first_token_alone_is_the_whole_of_an_answer_of_one(tiny: Any) -> None:
    model = tiny("llama")
    first = attribute(model, PAIRS, (2,), Path(points=2, tolerance=LOOSE, tokens="first"))
    every = attribute(model, PAIRS, (2,), Path(points=2, tolerance=LOOSE))
    torch.testing.assert_close(first.value[1:], every.value[1:])
    assert not torch.allclose(first.value[0], every.value[0])
    assert float(first.whole[0]) < float(every.whole[0])


def test_what_cannot_be_attributed_is_refused(family: Any, toy: Any) -> None:
    with pytest.raises(ModelError, match=r"experts|run in parts|cannot be"):
        attribute(family("mixtral"), PAIRS)
    with pytest.raises(ModelError, match="layers 0 to"):
        attribute(toy, PAIRS, (99,))
    edit = compute("grace", toy, [request(toy, "[Oda Voss] lives in", "Vey")], shown=False)
    with edit.applied(toy), pytest.raises(ModelError, match="beside the weights"):
        attribute(toy, PAIRS)


@pytest.mark.parametrize("wrong", [{"points": 0}, {"tolerance": 0.0}, {"of": "nats"}, {"tokens": "last"}])
def test_a_path_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Path(**wrong)


def test_shapes_are_those_of_the_layers_asked_for(tiny: Any) -> None:
    found = attribute(tiny("llama"), PAIRS, (3, 0), Path(points=1, tolerance=LOOSE))
    assert isinstance(found, Attribution)
    assert found.layers == (0, 3)
    assert found.value.shape == (3, 2, 48)
