"""What is counted on a model without numbers is what the same model takes with numbers, tensor by tensor."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from factscope.errors import ModelError, UserError
from factscope.model.load import load
from factscope.model.weightless import weightless
from factscope.runs.counting import counted
from factscope.runs.memory import watched
from helpers.models import TOY
from studies import estimate as counting
from studies.estimate import checked, costs, described, estimate
from tracing.causal import Config as TraceConfig


def config_of(tokenizer: Any, **sizes: int) -> LlamaConfig:
    """A small Llama, deep enough for the layers that MEMIT writes to."""
    common = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    return LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **common, **sizes)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(TOY))


def test_every_verb_takes_on_real_numbers_what_was_counted_without(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "TRACE", TraceConfig(sites=("mlp",), samples=3))
    monkeypatch.setattr(counting, "DESCENT", {"descent.stop": 0.0, "descent.steps": "3", "contexts": "1"})
    monkeypatch.setattr(counting, "FACTS", 2)
    config = config_of(tokenizer, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    verbs = checked(())
    _, (_, *foreseen) = estimate(config, tokenizer, verbs)
    model = load(AutoModelForCausalLM.from_config(config, dtype=torch.float32), tokenizer=tokenizer)
    with counted() as count:
        count.begin_with(model.parameters())
        for cost, wanted in zip(costs(model, verbs, count), foreseen, strict=True):
            assert cost.verb == wanted.verb
            assert cost.bytes_most == pytest.approx(wanted.bytes_most, rel=0.1), cost.verb
            assert cost.operations == pytest.approx(wanted.operations, rel=0.1), cost.verb


def test_bytes_count_once_while_they_are_held_and_products_as_they_are_written() -> None:
    with counted() as count:
        one = torch.zeros(100, 50)
        view = one.T[3:]
        assert count.bytes_now == 20_000
        product = one @ torch.zeros(50, 20)  # the second is freed again
        assert (count.bytes_now, count.bytes_most) == (28_000, 32_000)
        assert count.operations == 2 * 100 * 50 * 20
        del one
        assert count.bytes_now == 28_000, "the view holds it"
        del view, product
        assert count.bytes_now == 0


def test_a_model_without_numbers_takes_no_memory_and_gives_shapes(tokenizer: Any) -> None:
    config = config_of(tokenizer, hidden_size=4096, intermediate_size=14336, num_hidden_layers=2)
    with watched() as most, weightless(config, tokenizer) as model:
        assert model(torch.tensor([[1, 2, 3]]), use_cache=False).shape == (1, 3, len(tokenizer))
        weights = sum(one.numel() for one in model.parameters())
    assert weights > 4e8
    assert (most() or 0) < 100  # MB, of 1.7 GB


def test_what_is_not_counted_and_what_is_no_model_is_said(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="'acdc' is not counted; choose among load, trace"):
        checked(("acdc",))
    with pytest.raises(ModelError, match="there is no configuration of a model at"):
        described(str(tmp_path))
