"""What fine-tuning learns, against torch's own Adam on plain transformers, and the identities of each method."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from editing import compute as computing
from editing.edit import Edit
from editing.merge.stack import merged
from editing.method import MethodInputs, method
from editing.methods.fine_tuning import adalora, ft_bf, ft_m, lora
from editing.requests import target_prompts
from editing.solve.training import Parts, Rows, Training
from factscope.data.fact import Fact
from factscope.data.request import requests_of
from factscope.errors import EditError
from factscope.model.bridge import info
from factscope.model.weights import MLP_OUT, WeightName, as_matrix, fingerprint, live_weights
from helpers.architectures import plain

FACTS = requests_of(
    (
        Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo"),
        Fact("b", "home", "Quux", "The home of {} is the city", "Rome", "Paris"),
        Fact("c", "home", "Ze", "{} is", "Bern", "York"),
    )
)
OUT = WeightName(1, MLP_OUT)
LORA = lora.Config(layers=(0, 1), rank=3, steps=8, stop=0.0)
ADALORA = adalora.Config(layers=(0, 1), alpha=32.0, rank=3, start_rank=3, steps=8, stop=0.0, orthogonality=0.0)


def made(model: Any, name: str, config: Any, facts: Sequence[Any] = FACTS, **how: Any) -> Edit:
    return computing.compute(name, model, facts, config, shown=False, **how)


def inputs_of(model: Any, name: str, facts: Sequence[Any] = FACTS) -> MethodInputs:
    return MethodInputs(method(name), model, tuple(facts), ("{}",), None, "auto", 0, None, False)


# ---- two implementations ----


Named = dict[str, Tensor]


def naive_losses(
    model: Any,
    parts: Named,
    added: Callable[[Named, int, Tensor], Tensor],
    penalty: Callable[[Named], Any],
    config: Any,
    module: str = "mlp.down_proj",
) -> list[float]:
    """torch's Adam on plain transformers, fact by fact, with the change hung onto two layers of tiny Llama."""
    network = plain(info(model).source)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for layer in (0, 1):
        network.model.layers[layer].get_submodule(module).register_forward_hook(
            lambda _, given, out, layer=layer: out + added(parts, layer, given[0])
        )
    adam, losses = torch.optim.Adam(parts.values(), lr=config.learning_rate), []
    for _ in range(config.steps):
        each = []
        for fact in FACTS:
            (prompt,) = target_prompts(model, fact, ("{}",), "auto")
            tokens = torch.tensor([[*prompt.tokens, *prompt.answer_ids]])
            logp = network(tokens).logits[0, len(prompt.tokens) - 1 : -1].log_softmax(-1)
            each.append(-logp.gather(1, torch.tensor(prompt.answer_ids)[:, None]).mean())
        loss = torch.stack(each).mean()
        losses.append(float(loss.detach()))
        adam.zero_grad()
        (loss + penalty(parts)).backward()
        adam.step()
    return losses


def leaves(parts: Parts) -> Named:
    return {f"{name}{weight.layer}": part[0].clone().requires_grad_() for (weight, name), part in parts.items()}


@pytest.mark.parametrize(
    ("matrix", "module"), [("W_out", "mlp.down_proj"), ("W_V", "self_attn.v_proj"), ("W_O", "self_attn.o_proj")]
)
def test_lora_is_adam_on_two_factors(tiny: Any, matrix: str, module: str) -> None:
    """Tiny Llama has two key and value heads for four query heads."""
    model, config = tiny("llama"), replace(LORA, matrices=(matrix,), alpha=96.0)
    begin = lora.Factors(model, config, 1, 0)

    def added(parts: Named, layer: int, read: Tensor) -> Tensor:
        return 32 * read @ (parts[f"A{layer}"] @ parts[f"B{layer}"])

    wanted = naive_losses(model, leaves(begin.parts), added, lambda _: 0.0, config, module)
    curve = made(model, "lora", config).curve
    assert curve is not None
    assert curve.mean(1).tolist() == pytest.approx(wanted, rel=1e-3)  # float32, and Adam divides by small numbers
    assert wanted[-1] < 0.9 * wanted[0]


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_adalora_whose_ranks_stay_is_adam_on_three_factors(tiny: Any, weight: float) -> None:
    model, config = tiny("llama"), replace(ADALORA, orthogonality=weight, learning_rate=0.05)
    begin = adalora.Triplets(model, config, 1, 0)

    def added(parts: Named, layer: int, read: Tensor) -> Tensor:
        return 32 / 3 * read @ (parts[f"P{layer}"] @ parts[f"l{layer}"].diag() @ parts[f"Q{layer}"])

    def penalty(parts: Named) -> Tensor:
        frames = [parts[f"P{layer}"] for layer in (0, 1)] + [parts[f"Q{layer}"].T for layer in (0, 1)]
        return weight * torch.stack([(one.T @ one - torch.eye(3)).norm() for one in frames]).mean()

    wanted = naive_losses(model, leaves(begin.parts), added, penalty, config)
    curve = made(model, "adalora", config).curve
    assert curve is not None
    assert curve.mean(1).tolist() == pytest.approx(wanted, rel=1e-3)


# ---- identities ----


@pytest.mark.parametrize(("name", "config"), [("lora", LORA), ("adalora", ADALORA)])
def test_nothing_is_changed_before_the_first_step(tiny: Any, name: str, config: Any) -> None:
    model, tokens = tiny("gpt2"), torch.tensor([[0, 5, 9, 12, 40]])
    before = model(tokens)
    with made(model, name, replace(config, learning_rate=0.0)).applied(model):
        assert torch.equal(model(tokens), before)


@pytest.mark.parametrize(("name", "config"), [("lora", LORA), ("adalora", ADALORA)])
def test_the_change_is_as_thin_as_asked_for_and_does_what_was_learned(tiny: Any, name: str, config: Any) -> None:
    model = tiny("neox")
    edit, shorter = made(model, name, config), made(model, name, replace(config, steps=7))
    for delta in edit.deltas:
        assert delta.low_rank
        assert int(torch.linalg.matrix_rank(delta.dense())) <= 3
    assert edit.curve is not None
    with shorter.applied(model):  # the merged weights lose what the unmerged factors lost
        rows, nothing = Rows(inputs_of(model, name), Training(1, 0.0, 0.0), 0), lora.Factors(model, LORA, 1, 0)
        loss, _ = rows.losses(nothing, nothing.parts, torch.arange(3))
    torch.testing.assert_close(loss, edit.curve[7], rtol=1e-4, atol=1e-5)
    assert (loss - edit.curve[0]).abs().min() > 0.01


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma3"])
def test_a_change_of_attention_does_what_was_learned(tiny: Any, kind: str) -> None:
    """All projections at once: fused ones, grouped queries, norms between a projection and its use."""
    model, names = tiny(kind), ("W_Q", "W_K", "W_V", "W_O")
    config = replace(LORA, matrices=names, learning_rate=0.02)
    before, tokens = fingerprint(model), torch.tensor([[0, 5, 9, 12, 40]])
    edit, shorter = made(model, "lora", config), made(model, "lora", replace(config, steps=7))
    assert {delta.weight for delta in edit.deltas} == {f"blocks.{i}.attn.{name}" for i in (0, 1) for name in names}
    clean, clean_weights = model(tokens), {name: w.clone() for name, w in live_weights(model).items()}
    with shorter.applied(model):
        rows, nothing = Rows(inputs_of(model, "lora"), Training(1, 0.0, 0.0), 0), lora.Factors(model, LORA, 1, 0)
        loss, _ = rows.losses(nothing, nothing.parts, torch.arange(3))
        for delta in shorter.deltas:
            moved = as_matrix(delta.weight, live_weights(model)[delta.weight] - clean_weights[delta.weight])
            torch.testing.assert_close(moved, delta.dense(torch.float32), atol=1e-6, rtol=1e-4)
    assert edit.curve is not None
    torch.testing.assert_close(loss, edit.curve[7], rtol=1e-4, atol=1e-5)
    assert (loss - edit.curve[0]).abs().min() > 0.01
    assert torch.equal(model(tokens), clean)
    assert fingerprint(model) == before


def test_what_a_model_does_not_have_as_a_matrix_is_refused(tiny: Any) -> None:
    for kind, matrices, said in (
        ("llama", ("W_X",), "there is no matrix 'W_X': give some of W_Q"),
        ("llama", (), "no matrix is named"),
        ("gpt2", ("W_gate",), "no blocks.0.mlp.W_gate as a matrix of its own"),
    ):
        with pytest.raises(EditError, match=said):
            made(tiny(kind), "lora", replace(LORA, matrices=matrices))
    with pytest.raises(EditError, match=r"rank 20 is more than blocks\.0\.attn\.W_K, a matrix of 32 by 16, can have"):
        made(tiny("llama"), "lora", replace(LORA, matrices=("W_Q", "W_K"), rank=20))


def test_a_gradient_step_on_the_right_of_an_orthogonal_square_is_one_on_the_matrix(tiny: Any) -> None:
    """LoRA of full rank: B moves by -A'G, so W moves by -A A' G, which is -G."""
    model = tiny("llama")
    rows = Rows(inputs_of(model, "lora"), Training(1, 0.0, 0.0), 1)
    whole, thin = ft_m.Matrix(model, 1, 1, None), lora.Factors(model, replace(LORA, layers=(1,), alpha=3.0), 1, 0)
    width = whole.parts[OUT, "change"].shape[1]
    square = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(1))).Q[None]
    leaf = whole.parts[OUT, "change"].requires_grad_()
    right = torch.zeros_like(leaf).requires_grad_()
    with torch.enable_grad():
        one = rows.losses(whole, {(OUT, "change"): leaf}, torch.arange(3))[0].mean()
        other = rows.losses(thin, {(OUT, "A"): square, (OUT, "B"): right}, torch.arange(3))[0].mean()
    slope, thin_slope = torch.autograd.grad(one, leaf)[0], torch.autograd.grad(other, right)[0]
    torch.testing.assert_close(square @ thin_slope, slope, rtol=1e-4, atol=1e-6)


def test_a_stack_of_thin_edits_is_one_edit_of_the_ranks_together(tiny: Any) -> None:
    model, config = tiny("llama"), replace(LORA, layers=(1,))
    one, other = (made(model, "lora", config, [fact]) for fact in FACTS[:2])
    (delta,) = merged([one, other]).deltas
    assert delta.left is not None
    assert delta.left.shape[1] == 6
    torch.testing.assert_close(delta.dense(), one.deltas[0].dense() + other.deltas[0].dense())


# ---- where AdaLoRA's ranks go ----


def test_ranks_fall_to_the_budget_of_all_layers_together(tiny: Any) -> None:
    config = replace(ADALORA, start_rank=6, rank=2, allocate=5)
    edit = made(tiny("llama"), "adalora", config)
    assert sum(len(delta.right) for delta in edit.deltas) == 4
    change, seen = adalora.Triplets(tiny("llama"), config, 1, 0), []
    for step in range(7):
        change.steps = step
        seen.append((change.budget(), change.may_end()))
    assert [budget for budget, _ in seen] == [12, 8, 5, 4, 4, 4, 4]  # 4 + 8 (1 - t/5)^3, rounded down
    assert [may for _, may in seen] == [False] * 5 + [True] * 2


def test_a_triplet_at_zero_takes_exactly_its_own_product_away(tiny: Any) -> None:
    change = adalora.Triplets(tiny("llama"), replace(ADALORA, layers=(1,)), 1, 0)
    change.parts[OUT, "l"] = torch.tensor([[0.5, -2.0, 0.25]])
    (before,) = change.output(0).deltas
    gone = change.scale * -2.0 * change.parts[OUT, "P"][0, :, 1:2].double() @ change.parts[OUT, "Q"][0, 1:2].double()
    change.parts[OUT, "l"] = torch.tensor([[0.5, 0.0, 0.25]])
    (after,) = change.output(0).deltas
    assert len(after.right) == 2
    torch.testing.assert_close(before.dense() - after.dense(), gone, atol=1e-7, rtol=1e-5)


def test_the_triplet_that_the_loss_does_not_feel_goes_first_in_each_group(tiny: Any) -> None:
    config = replace(ADALORA, layers=(1,), start_rank=3, rank=2, allocate=1)
    change = adalora.Triplets(tiny("llama"), config, 2, 0)
    change.parts[OUT, "l"] = torch.ones(2, 3)
    slopes = {name: torch.ones_like(part) for name, part in change.parts.items()}
    for group, dull in enumerate((2, 0)):
        slopes[OUT, "l"][group, dull] = 0
        slopes[OUT, "P"][group, :, dull] = 0
        slopes[OUT, "Q"][group, dull] = 0
    assert change.settled(change.parts, slopes)[OUT, "l"].tolist() == [[1, 1, 0], [0, 1, 1]]


# ---- breadth first ----

FT_BF = ft_bf.Config(layer=1, steps=4, stop=0.0)


def test_one_batch_without_an_end_is_ft_m(tiny: Any) -> None:
    model = tiny("llama")
    ours = made(model, "ft_bf", replace(FT_BF, batch=3, end=False))
    theirs = made(model, "ft_m", ft_m.Config(layer=1, steps=4, stop=0.0))
    assert ours.curve is not None
    assert theirs.curve is not None
    assert torch.equal(ours.curve, theirs.curve)
    assert torch.equal(ours.deltas[0].right, theirs.deltas[0].right)


def test_the_seed_orders_small_batches_and_nothing_else(tiny: Any) -> None:
    model = tiny("llama")

    def right(batch: int, seed: int) -> Tensor:
        return made(model, "ft_bf", replace(FT_BF, batch=batch), seed=seed).deltas[0].right

    assert torch.equal(right(3, 0), right(3, 1))
    assert torch.equal(right(1, 0), right(1, 0))
    assert not torch.equal(right(1, 0), right(1, 1))


def test_a_batch_below_the_stop_takes_no_step(tiny: Any) -> None:
    edit = made(tiny("llama"), "ft_bf", replace(FT_BF, batch=1, stop=1e9))
    assert edit.curve is not None
    assert len(edit.curve) == 1
    assert not edit.deltas[0].dense().any()


def test_the_end_of_the_text_is_asked_for_after_the_target(tiny: Any) -> None:
    model = tiny("llama")
    curve, network, wanted = made(model, "ft_bf", FT_BF).curve, plain(info(model).source), []
    assert curve is not None
    for fact in FACTS:
        (prompt,) = target_prompts(model, fact, ("{}",), "auto")
        asked = [*prompt.answer_ids, model.tokenizer.eos_token_id]
        with torch.no_grad():
            logp = network(torch.tensor([[*prompt.tokens, *asked]])).logits[0].log_softmax(-1)
        wanted.append(float(-logp[len(prompt.tokens) - 1 : -1].gather(1, torch.tensor(asked)[:, None]).mean()))
    assert curve[0].tolist() == pytest.approx(wanted, rel=1e-4)


# ---- what cannot work ----


def test_what_cannot_be_trained_is_refused_in_a_sentence(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    with pytest.raises(EditError, match="alpha 0 leave nothing to learn"):
        method("lora").config_for(model, ["alpha=0"])
    with pytest.raises(EditError, match="ranks cannot fall from 3 to 8"):
        method("adalora").config_for(model, ["start_rank=3"])
    with pytest.raises(EditError, match=r"rank 33 is more than blocks\.0\.mlp\.W_out, a matrix of 128 by 32, can have"):
        made(model, "lora", replace(LORA, rank=33))
    monkeypatch.setattr(type(model.tokenizer), "eos_token_id", None, raising=False)
    with pytest.raises(EditError, match="no token that ends a text; give --set end=false"):
        made(model, "ft_bf", FT_BF)
