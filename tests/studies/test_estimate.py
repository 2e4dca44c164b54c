"""What is counted on a model without numbers is what it takes with numbers, as its tensors and as the kernel say."""

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from editing import method as methods
from factscope.errors import ModelError, UserError
from factscope.model.bridge import without_gradients
from factscope.model.load import load
from factscope.model.weightless import weightless
from factscope.runs.counting import counted
from factscope.runs.memory import watched
from helpers.models import TOY
from studies import estimate as counting
from studies.estimate import Cost, Machine, Setting, Work, checked, costs, described, estimate, machine_of
from tracing.causal import Config as TraceConfig

SMALL = Setting(facts=2, trace=TraceConfig(sites=("mlp",), samples=3), descent=("descent.steps=3", "contexts=1"))

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def config_of(tokenizer: Any, **sizes: int) -> LlamaConfig:
    """A small Llama."""
    common = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    return LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **common, **sizes)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(TOY))


def counts(*given: Any, **named: Any) -> dict[str, Cost]:
    """What is counted, by kind of work."""
    return {one.work: one for one in estimate(*given, **named) if isinstance(one, Cost)}


def test_every_kind_takes_on_real_numbers_what_was_counted_without(tokenizer: Any) -> None:
    config, kinds = config_of(tokenizer, hidden_size=32, intermediate_size=64, num_hidden_layers=2), checked(())
    foreseen = counts(config, tokenizer, kinds, SMALL)
    torch.manual_seed(0)
    model = load(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval(), tokenizer=tokenizer)
    with counted() as count:
        count.begin_with(model.parameters())
        for cost in costs(Work(model, count, SMALL), kinds):
            assert cost.bytes_most == pytest.approx(foreseen[cost.work].bytes_most, rel=0.1), cost.work
            assert cost.operations == pytest.approx(foreseen[cost.work].operations, rel=0.1), cost.work


def test_steps_and_facts_that_are_not_run_are_multiplied(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "CHUNK", 2)
    monkeypatch.setattr(methods, "CHUNK", 2)
    config = config_of(tokenizer, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    model = load(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval(), tokenizer=tokenizer)
    setting = Setting(facts=4, descent=("descent.steps=5", "descent.stop=0", "contexts=1"))
    with counted() as count:  # what is proven of a model is proven once: the second time counts
        _, foreseen = costs(Work(model, count, setting), ("memit", "memit"))
    spec: Any = methods.method("memit")
    own = spec.config_for(model, setting.descent)
    contexts = ("{}", f"{counting.WORDS} 0. {{}}")
    moments = counting._stand_in(model, own.layers)
    inputs = methods.MethodInputs(spec, model, counting._asked(4), contexts, moments, "auto", 0, None, False)
    with without_gradients(model), counted() as count:
        spec.compute(inputs, own)
    assert foreseen.operations == pytest.approx(count.operations, rel=0.1)  # of rows that are filled up


@pytest.fixture
def exact_heap() -> Iterator[None]:
    """What the C library frees goes back to the system at once, so that the kernel sees what is held."""
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(MMAP_THRESHOLD, 2**16)
    except (OSError, AttributeError):
        pytest.skip("another C library")
    yield
    library.mallopt(MMAP_THRESHOLD, 2**25)  # where it settles by itself
    library.mallopt(TRIM_THRESHOLD, 2**26)


@pytest.mark.default_model
@pytest.mark.usefixtures("exact_heap")
def test_the_kernel_sees_the_bytes_that_are_counted() -> None:
    setting = Setting(trace=TraceConfig(sites=("mlp",), samples=2), descent=("contexts=1",))
    load(str(TOY), device="cpu")  # the libraries are there from now on
    with counted() as count:
        with watched() as grown:
            model = load("smollm2", device="cpu")
        sizes = {"load": (count.bytes_most, 0, grown())}
        for kind in ("trace", "moments", "rome"):
            tuple(costs(Work(model, count, setting), (kind,)))  # oneDNN keeps what it compiled, which is no tensor
            before = count.bytes_now
            with watched() as grown:
                (cost,) = costs(Work(model, count, setting), (kind,))
            sizes[kind] = (cost.bytes_most, before, grown())
    for kind, (most, before, megabytes) in sizes.items():
        if megabytes is None:
            pytest.skip("this system does not say how much memory a process holds")
        assert most / 1e6 == pytest.approx(before / 1e6 + megabytes, rel=0.1), kind


def test_a_model_without_numbers_takes_no_memory_and_gives_shapes(tokenizer: Any) -> None:
    config = config_of(tokenizer, hidden_size=4096, intermediate_size=14336, num_hidden_layers=2)
    with watched() as most, weightless(config, tokenizer) as model:
        assert model(torch.tensor([[1, 2, 3]]), use_cache=False).shape == (1, 3, len(tokenizer))
        weights = sum(one.numel() for one in model.parameters())
    assert weights > 4e8
    assert (most() or 0) < 100  # MB, of 1.7 GB


def test_a_shape_is_a_llama_and_a_narrow_dtype_halves_its_weights() -> None:
    config, tokenizer = described("64,2,4,2,128,60000")
    wide = counts(config, tokenizer, ("load",))["load"]
    narrow = counts(config, tokenizer, ("load",), dtype=torch.bfloat16)["load"]
    weights = 2 * 60000 * 64 + 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64) + 64
    assert 4 * weights < wide.bytes_most
    assert wide.bytes_most - narrow.bytes_most >= 2 * weights


@pytest.mark.parametrize("vocabulary", [252, 300, 32000, 128256])
def test_a_tokenizer_of_any_size_stands_in_and_spells_every_text(vocabulary: int, tmp_path: Any) -> None:
    config, tokenizer = described(f"64,2,4,2,128,{vocabulary}")
    text = "The Eiffel Tower, \u2116 7: \u4e2d\u6587 \U0001f600"
    ids = tokenizer(text).input_ids
    assert len(tokenizer) == config.vocab_size == vocabulary
    assert max(ids) < vocabulary
    assert tokenizer.decode(ids) == text
    config.save_pretrained(tmp_path)  # a config.json alone, with no tokenizer beside it
    assert len(described(str(tmp_path))[1]) == vocabulary


def test_a_small_vocabulary_and_another_machine_are_counted() -> None:
    config, tokenizer = described("64,2,4,2,128,300")
    cuda = Machine("cuda", 1e9)
    here, there, little = (
        counts(config, tokenizer, ("trace",), SMALL, machine=one)["trace"] for one in (None, cuda, Machine("cuda", 1.0))
    )
    assert here.operations >= there.operations, "oneDNN's rows are filled up, and a GPU's are not"
    assert little.operations > there.operations, "one cell at a time shares no work with others, and is not refused"
    assert machine_of("cuda", torch.float32, 8e10, 4e14).kind == "cuda"


def test_what_is_not_counted_and_what_is_no_model_is_said(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="'bench' is not counted; choose among load, trace"):
        checked(("bench",))
    with pytest.raises(ModelError, match="there is no configuration of a model at"):
        described(str(tmp_path))
    with pytest.raises(UserError, match="a shape is six numbers, width,layers"):
        described("4096,32,32")
    with pytest.raises(UserError, match="the heads do not divide the width"):
        described("65,2,4,2,128,300")
    with pytest.raises(UserError, match=r"with a vocabulary of 200 no text can be spelt by the tokenizer .* of 252 or"):
        described("64,2,4,2,128,200")
