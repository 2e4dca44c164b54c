"""A model that is in memory already: the same numbers as from its folder, one sentence where it cannot be used."""

import warnings
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import factscope as fs
from factscope.errors import ModelError
from factscope.model.source import own
from helpers.models import TOY

TEXT = "[Oda Voss] lives in"


def hugging() -> Any:
    return AutoModelForCausalLM.from_pretrained(TOY)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TOY)


@pytest.fixture
def bridge(tokenizer: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_transformers(str(TOY), hf_model=hugging(), tokenizer=tokenizer, device="cpu")


def test_a_model_in_memory_gives_the_numbers_of_its_folder(toy: Any, tokenizer: Any) -> None:
    """Its weights are shared and not copied; start token, prompt, trace and edit are those of the folder."""
    given = hugging()
    model = fs.load_model(given, tokenizer=tokenizer)
    assert model.original_model is given
    assert not any(parameter.requires_grad for parameter in given.parameters())
    assert fs.fingerprint(model) == fs.fingerprint(toy)
    assert fs.info(model) == fs.info(toy)
    prompt, config = fs.prompt(model, TEXT), fs.TraceConfig(samples=1, sites=("mlp",))
    assert prompt == fs.prompt(toy, TEXT)
    assert fs.trace(model, prompt, config).grid("mlp").effect.equal(fs.trace(toy, prompt, config).grid("mlp").effect)


def test_a_bridge_of_ones_own_is_taken_as_it_is_and_asks_for_no_gradient(toy: Any, bridge: Any) -> None:
    """Also where it was not given to `load_model`: an edit works, and its weights ask for gradients as before."""
    how: dict[str, Any] = {"settings": {"layer": 0, "steps": 5}, "moments": "identity"}
    asking = [parameter.requires_grad for parameter in bridge.parameters()]
    assert any(asking)
    edit = fs.edit(bridge, fs.request(bridge, TEXT, "Vey"), **how)
    assert [parameter.requires_grad for parameter in bridge.parameters()] == asking
    assert edit.digest == fs.edit(toy, fs.request(toy, TEXT, "Vey"), **how).digest
    model = fs.load_model(bridge)
    assert model is bridge
    assert fs.load_model(model) is model
    assert not any(parameter.requires_grad for parameter in bridge.parameters())
    assert isinstance(model, TransformerBridge)


def test_a_model_given_again_is_the_bridge_that_it_was(tokenizer: Any) -> None:
    """As a notebook's cell that is run twice gives it; with another tokenizer, or in training mode, it is refused."""
    given = hugging()
    model = fs.load_model(given, tokenizer=tokenizer)
    given.requires_grad_(True)  # somebody has trained it since
    assert fs.load_model(given, tokenizer=tokenizer) is model
    assert fs.load_model(given, tokenizer=AutoTokenizer.from_pretrained(TOY)) is model
    assert not any(parameter.requires_grad for parameter in given.parameters())
    other = AutoTokenizer.from_pretrained(TOY)
    other.chat_template = "{{ messages }}"
    with pytest.raises(ModelError, match="is loaded already, with another tokenizer"):
        fs.load_model(given, tokenizer=other)
    given.train()
    with pytest.raises(ModelError, match="is in training mode"):
        fs.load_model(given, tokenizer=tokenizer)
    assert fs.load_model(hugging(), tokenizer=tokenizer) is not model


def test_a_model_is_inside_one_bridge(tokenizer: Any) -> None:
    """TransformerLens would wrap it again, and the hooks of the first bridge would not fire any more."""
    given = hugging()
    model = fs.load_model(given, tokenizer=tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second = TransformerBridge.boot_transformers(str(TOY), hf_model=given, tokenizer=tokenizer, device="cpu")
    with pytest.raises(ModelError, match="a model is inside one bridge: use what load_model gave"):
        fs.load_model(second)
    assert model.original_model is second.original_model


def test_a_models_repr_is_one_line_that_says_what_begins_a_text(toy: Any) -> None:
    said = repr(toy)
    assert len(said) < 200
    assert "a text begins with <|endoftext|>" in said
    assert "LlamaForCausalLM" in said
    assert str(toy) == said, "print(model) says the same"


class PeftModel:
    """What PEFT's class does here: it holds a model, and merges a copy."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def merge_and_unload(self, safe_merge: bool) -> Any:
        assert safe_merge
        with torch.no_grad():
            self.model.model.layers[0].mlp.down_proj.weight[0, 0] += 1
        return self.model


def test_adapters_are_merged_into_a_copy(tokenizer: Any) -> None:
    given = hugging()
    before = given.model.layers[0].mlp.down_proj.weight.clone()
    model = fs.load_model(PeftModel(given), tokenizer=tokenizer)
    assert given.model.layers[0].mlp.down_proj.weight.equal(before)
    assert float((own_weight(model) - before).detach()[0, 0]) == pytest.approx(1)


def own_weight(model: Any) -> Any:
    """The first layer's down projection, wherever the bridge keeps it."""
    return next(tensor for name, tensor in model.original_model.state_dict().items() if "down_proj" in name)


class HookedTransformer(torch.nn.Module):
    """TransformerLens's older class, by its name."""


def test_what_is_no_model_or_no_raw_one_is_told_in_one_sentence(tokenizer: Any, bridge: Any) -> None:
    plain = hugging()
    for given, said in (
        (torch.nn.Linear(2, 2), "a Linear is no model that can be loaded: give a name, a folder"),
        (HookedTransformer(), "a HookedTransformer has folded, centred weights of its own"),
        (bridge.original_model, "is inside a bridge already"),
    ):
        with pytest.raises(ModelError, match=said):
            fs.load_model(given, tokenizer=tokenizer)
    with pytest.raises(ModelError, match="has no tokenizer with it"):
        fs.load_model(plain)
    with pytest.raises(ModelError, match="a model in memory stays where and as it is"):
        fs.load_model(plain, tokenizer=tokenizer, dtype="float16")
    with pytest.raises(ModelError, match="a tokenizer is given with a model in memory"):
        fs.load_model(str(TOY), tokenizer=tokenizer)
    with pytest.raises(ModelError, match="this bridge has a tokenizer already"):
        fs.load_model(bridge, tokenizer=tokenizer)
    with pytest.raises(ModelError, match=r"a LlamaForCausalLM is not ready to be asked: give it to fs\.load_model"):
        fs.prompt(plain, TEXT)
    with pytest.raises(ModelError, match="a LlamaForCausalLM is not ready to be asked"):
        fs.trace(plain, fs.prompt(bridge, TEXT))
    plain._hf_peft_config_loaded = True
    with pytest.raises(ModelError, match="has adapters between its weights"):
        fs.load_model(plain, tokenizer=tokenizer)
    bridge.compatibility_mode = True
    with pytest.raises(ModelError, match="compatibility mode, whose weights are folded"):
        fs.load_model(bridge)


def test_a_model_in_training_mode_is_not_asked(bridge: Any) -> None:
    """Nor is it put into another mode without a word: whose it is may be in the middle of a training."""
    prompt = fs.prompt(bridge, TEXT)
    for parts in (bridge, bridge.original_model):
        parts.train()
    for call in (lambda: fs.prompt(bridge, TEXT), lambda: fs.trace(bridge, prompt), lambda: fs.lens(bridge, prompt)):
        with pytest.raises(ModelError, match="the model is in training mode"):
            call()
    with pytest.raises(ModelError, match=r"in training mode, .*: call its eval\(\)"):
        fs.load_model(bridge)
    given = hugging().train()
    asking = [parameter.requires_grad for parameter in given.parameters()]
    with pytest.raises(ModelError, match=r"in training mode, .*: call its eval\(\)"):
        fs.load_model(given, tokenizer=bridge.tokenizer)
    assert all(part.training for part in given.modules())
    assert [parameter.requires_grad for parameter in given.parameters()] == asking
    assert fs.prompt(fs.load_model(bridge.eval()), TEXT) == prompt


def test_another_models_tokenizer_devices_and_weights_are_refused(tokenizer: Any) -> None:
    config = AutoConfig.from_pretrained(TOY)
    for size in (len(tokenizer) - 1, 2 * len(tokenizer)):
        config.vocab_size = size
        with pytest.raises(ModelError, match=f"the tokenizer has {len(tokenizer)} tokens and .* has {size}"):
            own.check(AutoModelForCausalLM.from_config(config).eval(), tokenizer)
    config.vocab_size = len(tokenizer) + 3  # padded, as many models are
    own.check(AutoModelForCausalLM.from_config(config).eval(), tokenizer)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ModelError, match="has no weights in memory yet"):
        own.check(empty, tokenizer)
    parted = hugging()
    parted.lm_head.to("meta")
    with pytest.raises(ModelError, match="is on cpu and meta; move it to one device first"):
        own.check(parted, tokenizer)
    quantised = hugging()
    quantised.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ModelError, match=r"is quantised \(bitsandbytes\)"):
        own.check(quantised, tokenizer)


class Packed(torch.nn.Module):
    """A layer as torch's dynamic quantisation leaves it: its weight is a function."""

    def weight(self) -> Any:
        return None


def test_weights_that_a_quantiser_has_packed_away_are_refused(tokenizer: Any) -> None:
    """Behind a function, or as integers; no configuration says so."""
    behind, integers = hugging(), hugging()
    behind.lm_head = Packed()
    weight = integers.model.layers[0].mlp.up_proj.weight
    integers.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(weight.data.to(torch.int8), requires_grad=False)
    for model, where in ((behind.eval(), "lm_head"), (integers, r"model\.layers\.0\.mlp\.up_proj")):
        with pytest.raises(ModelError, match=rf"is quantised \({where} has no weights of floating point\)"):
            own.check(model, tokenizer)


@pytest.mark.parametrize("given", ["a name of one", b"bytes", object()])
def test_a_tokenizer_is_one_of_transformers(given: Any) -> None:
    with pytest.raises(ModelError, match=rf"the tokenizer is a {type(given).__name__}, where one of transformers is"):
        own.check(hugging(), given)
