"""A half-precision model that is widened block by block computes the numbers of its float32 copy, in less memory."""

from typing import Any

import pytest
import torch

from editing import compute as computing
from editing.compute import compute
from editing.method import method
from editing.weights.lent import in_float32
from factscope.data.load import load_facts
from factscope.model.forward.widened import most_added, parts_of, widened
from factscope.model.load import load
from factscope.model.weights import fingerprint, live_weights
from factscope.runs.counting import counted
from helpers.models import TOY, save_tiny

FACTS = load_facts(TOY / "toy_town.json", limit=2)
NAME = "blocks.1.mlp.W_out"


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3"])
def half(request: Any, tmp_path_factory: Any) -> Any:
    """Grouped queries, transposed weights and biases, and an embedding that multiplies."""
    folder = save_tiny(request.param, tmp_path_factory.mktemp("half") / request.param)
    return load(str(folder), device="cpu", dtype="bfloat16")


def descended(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits, and their slope at what block 0 hands on: backwards through every wide weight above."""
    seen: list[torch.Tensor] = []

    def leaf(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.append(inputs[0].detach().requires_grad_())
        return (seen[0], *inputs[1:])

    handle = model.blocks[1].register_forward_pre_hook(leaf)
    try:
        logits = model(tokens, use_cache=False)
        return logits.detach(), torch.autograd.grad(logits.square().sum(), seen[0])[0]
    finally:
        handle.remove()


@pytest.mark.filterwarnings("ignore:the model is in bfloat16")
def test_logits_and_slopes_are_those_of_the_float32_copy(half: Any) -> None:
    before, tokens = fingerprint(half), torch.tensor([[1, 5, 9, 3], [2, 2, 7, 4]])
    found = []
    for names in ((), (NAME,), None):
        with in_float32(half, names):
            found.append(descended(half, tokens))
            assert live_weights(half)[NAME].dtype == (torch.bfloat16 if names == () else torch.float32)
        assert fingerprint(half) == before
        assert half(tokens, use_cache=False).dtype == torch.bfloat16
    for logits, slope in found:
        assert logits.dtype == slope.dtype == torch.float32
        assert torch.equal(logits, found[-1][0])
        assert torch.equal(slope, found[-1][1])


@pytest.mark.filterwarnings("ignore:the model is in bfloat16")
@pytest.mark.parametrize("name", ["rome", "memit", "pmet"])
def test_edits_are_those_of_the_float32_copy(half: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"descent.steps": "3"} | ({} if name == "rome" else {"layers": "1,2"})
    how: Any = {"config": method(name).config_for(half, settings), "contexts": ("{}", "Look. {}")}
    one = compute(name, half, FACTS, **how)
    monkeypatch.setattr(computing, "in_float32", lambda model, _: in_float32(model))
    assert one.digest == compute(name, half, FACTS, **how).digest


def test_what_breaks_off_in_the_middle_leaves_the_model_as_it_was(half: Any) -> None:
    before, weights = fingerprint(half), {id(one) for one in half.parameters()}
    handle = half.blocks[2].register_forward_hook(lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError), widened(half, (NAME,)):
            half(torch.tensor([[1, 2]]), use_cache=False)
    finally:
        handle.remove()
    assert fingerprint(half) == before
    assert {id(one) for one in half.parameters()} == weights
    assert half.cfg.dtype == torch.bfloat16


def test_no_more_is_held_than_the_largest_part_and_what_is_written(half: Any) -> None:
    with counted() as count:
        count.begin_with([*half.parameters(), *half.buffers()])
        before = count.bytes_now
        with widened(half, (NAME,)), torch.no_grad():
            half(torch.tensor([[1, 2]]), use_cache=False)
        more = count.bytes_most - before
    largest = max(sum(one.numel() for one in part.parameters()) for part in parts_of(half))
    copied = live_weights(half)[NAME].numel() * 2  # the narrow weight is kept beside the wide one
    assert 4 * largest <= more <= most_added(half, (NAME,)) + copied + 40_000  # activations of two positions
    assert more < 4 * sum(one.numel() for one in half.parameters())
