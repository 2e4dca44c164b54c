"""Weights: seen as the matrices that they multiply with, reached without copies, and told apart by every byte."""

import hashlib
from typing import Any

import pytest
import torch

from factscope.model import weights as weights_module
from factscope.model.hooks import record
from factscope.model.sites import Site
from factscope.model.weights import PROJECTIONS, WeightName, as_matrix, fingerprint, from_matrix, live_weights

TOKENS = torch.tensor([[0, 5, 9, 12, 40, 7]])


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "qwen3", "olmo2", "gemma2", "phi", "falcon 40b", "llama biased"])
def test_a_projection_writes_what_it_reads_times_its_matrix(family: Any, name: str) -> None:
    """But for a bias, which the differences between positions do not have."""
    model = family(name)
    weights, met = live_weights(model), 0
    for part, kinds in PROJECTIONS.items():
        weight = WeightName(1, part)
        if str(weight) not in weights:
            continue
        met += 1
        sites = [Site(kind, 1) for kind in kinds]
        with record(model, sites) as seen:
            model(TOKENS, use_cache=False)
        read, wrote = (seen[site].flatten(2)[0] for site in sites)
        product = read @ as_matrix(str(weight), weights[str(weight)])
        torch.testing.assert_close(product - product[:1], wrote - wrote[:1], atol=1e-5, rtol=1e-4)
    assert met >= 6  # attention's four and an MLP's two


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_matrix_becomes_the_weight_again(tiny: Any, kind: str) -> None:
    for name, weight in live_weights(tiny(kind)).items():
        matrix = as_matrix(name, weight)
        assert torch.equal(from_matrix(name, matrix, weight), weight)
        if any(name.endswith(part) for part in PROJECTIONS):
            assert matrix.ndim == 2


def _hashed(model: Any) -> str:
    """The fingerprint as it is defined, of every byte."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights_module._running(model).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_fingerprint_is_of_every_byte_however_weights_are_written(tiny: Any, kind: str) -> None:
    model = tiny(kind)
    parameter = model.blocks[1].mlp.out.original_component.weight
    clean, before = parameter.detach().clone(), fingerprint(model)
    assert before == _hashed(model)
    one, other = clean[1, 2].clone(), clean[3, 4].clone()

    def swap_rows(weight: Any) -> None:
        weight[[0, 1]] = weight[[1, 0]].clone()

    def swap_numbers(weight: Any) -> None:  # the sum of all is as it was
        weight[1, 2], weight[3, 4] = other, one

    def least(weight: Any) -> None:
        weight[-1, -1] = torch.nextafter(weight[-1, -1], torch.tensor(torch.inf))

    for change in (swap_rows, swap_numbers, least):
        change(parameter.data)  # which torch does not count as a write
        assert fingerprint(model) == _hashed(model) != before
        parameter.data.copy_(clean)
        assert fingerprint(model) == before


def test_weights_are_hashed_once_and_keys_and_values_repeated_once(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, first = tiny("llama"), live_weights(tiny("llama"))
    before = fingerprint(model)
    monkeypatch.setattr(type(model), "tl_named_parameters", lambda _: pytest.fail("the whole list is made again"))
    monkeypatch.setattr(torch.Tensor, "numpy", _of_sums(torch.Tensor.numpy))
    assert fingerprint(model) == before
    again = live_weights(model)
    assert list(again) == list(first)
    for name, weight in first.items():
        assert torch.equal(again[name], weight)
        assert again[name].data_ptr() == weight.data_ptr()


def _of_sums(real: Any) -> Any:
    """Tensor.numpy, which the fingerprint asks for bytes with, for whole numbers alone: sums, and no weights."""

    def numpy(tensor: Any) -> Any:
        assert tensor.dtype == torch.int64, "a whole weight is hashed"
        return real(tensor)

    return numpy


def test_names_are_made_anew_only_where_other_parameters_stand_in_the_model(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, made = tiny("llama"), []
    before, named = weights_module._running(model), weights_module._named

    def watched(*arguments: Any) -> dict[str, int]:
        made.append("names")
        return named(*arguments)

    monkeypatch.setattr(weights_module, "_named", watched)
    written = next(iter(before.values())).data
    clean = written.clone()
    written.add_(1.0)
    assert [id(each) for each in weights_module._running(model).values()] == [id(each) for each in before.values()]
    assert not made
    written.copy_(clean)
    norm = model.ln_final.original_component
    own = norm.weight
    norm.weight = torch.nn.Parameter(norm.weight.detach().clone())
    after = weights_module._running(model)
    assert made == ["names"]
    assert list(after) == list(before)
    assert any(each is norm.weight for each in after.values())
    assert all(each is dict(model.named_parameters())[name] for name, each in after.items())
    norm.weight = own
