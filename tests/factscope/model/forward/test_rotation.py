"""Where a text's length decides how its positions are turned, a row beside a longer row is read as alone."""

from collections.abc import Mapping
from math import inf
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from editing.solve.moments import keys_of_text
from factscope.errors import ModelError
from factscope.model.forward import batched, generate
from factscope.model.forward.rotation import switch
from factscope.model.load import load
from helpers.models import TOY, configs

KINDS: dict[str, dict[str, Any]] = {
    "longrope": {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 9, "factor": 8.0,
        "short_factor": [1.0] * 4, "long_factor": [9.0, 0.2, 5.0, 0.1],
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0},
}  # fmt: skip
BEGIN = list(range(5, 15))  # ten tokens: enough to be run once for all rows
ROWS = ([20, 21, 22, 23, 24, 25], [*BEGIN, 30, 31], [*BEGIN, 40, 41, 42, 43])
PROMPTS = (BEGIN[:8], BEGIN[:5])


def turned(told: Mapping[str, Any]) -> Any:
    """A random Llama of two layers whose positions are turned by the text's length beyond nine tokens."""
    tokenizer = AutoTokenizer.from_pretrained(TOY)
    plain = configs(len(tokenizer))["llama"].to_dict() | {"num_hidden_layers": 2, "rope_parameters": dict(told)}
    if told["rope_type"] == "dynamic":
        plain["max_position_embeddings"] = 9
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**plain), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return load(model, tokenizer=tokenizer)


@pytest.mark.parametrize("name", KINDS)
def test_rows_beyond_the_switch_are_read_and_written_on_as_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = turned(KINDS[name])
    assert switch(model) == 9
    alone = [generate.sample(model, torch.tensor([row]), len(row) + 5, None)[0, len(row) :].tolist() for row in PROMPTS]
    assert generate.generate(model, PROMPTS, 5) == alone
    places = [[0, len(row) - 1] for row in ROWS]
    with torch.no_grad():
        own = [model.original_model(torch.tensor([row]), use_cache=False).logits[0] for row in ROWS]
    found = batched.logits_at(model, ROWS, places)
    for logits, wanted, place in zip(found, own, places, strict=True):
        torch.testing.assert_close(logits, wanted[place], atol=1e-4, rtol=1e-4)  # float32
    monkeypatch.setattr(batched, "switch", lambda _: inf)
    mixed = batched.logits_at(model, ROWS, places)
    assert any(float((one - other).abs().max()) > 1e-2 for one, other in zip(mixed, found, strict=True))


def test_other_models_never_switch(tiny: Any) -> None:
    assert [switch(tiny(name)) for name in ("gpt2", "llama", "neox", "gemma3")] == [inf] * 4


def test_whoever_runs_rows_beside_longer_ones_is_refused_beyond_the_switch() -> None:
    model, short = turned(KINDS["longrope"]), [BEGIN[:4], BEGIN[:9]]
    assert batched.padded(model, short).shape == (2, 9)
    assert batched.padded(model, [BEGIN, BEGIN]).shape == (2, 10), "rows of one length are read as alone"
    for rows, to in ([BEGIN[:4], BEGIN], 0), ([BEGIN[:4], BEGIN[:4]], 10):
        with pytest.raises(ModelError, match="beyond 9 tokens, and a text of 4 would be read beside 10 otherwise"):
            batched.padded(model, rows, to)
    with pytest.raises(ModelError, match="use shorter texts"):  # one of its callers
        keys_of_text(model, [0], [BEGIN[:4], BEGIN])
