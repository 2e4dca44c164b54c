"""Cells run together as far as the free memory goes; their effects do not depend on it, and too little is told."""

from typing import Any

import pytest
import torch

from factscope.errors import ModelError
from factscope.model.forward import at_once
from factscope.model.forward.batched import logits_at
from factscope.model.forward.generate import generate
from factscope.model.forward.onednn import suits
from factscope.model.forward.scoring import Pair
from factscope.model.neurons import attribution
from factscope.model.neurons.attribution import Path, attribute
from factscope.model.prompts import make_prompt
from factscope.model.source.room import as_on
from factscope.runs.counting import counted
from tracing.causal import Config, trace
from tracing.states import clean as states
from tracing.states import jacobian
from tracing.states.clean import CleanRun
from tracing.states.jacobian import jacobians


def test_no_more_than_is_fast_and_no_more_than_finds_room(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_once, "free", lambda _: 1e12)
    assert at_once.cells_at_once(toy, 10, 8, 0) == 2048 // 80
    assert at_once.cells_at_once(toy, 10, 8, 0, asked=400) == 5
    assert at_once.cells_at_once(toy, 1, 4001, 1) == 1, "a cell is not parted"
    monkeypatch.setattr(at_once, "free", lambda _: 3.5 * at_once.bytes_of(toy, 10, 8, 0) / at_once.SHARE)
    assert at_once.cells_at_once(toy, 10, 8, 0) == 3
    monkeypatch.setattr(at_once, "free", lambda _: 0.45 * at_once.bytes_of(toy, 10, 8, 0) / at_once.SHARE)
    with pytest.raises(ModelError, match=r"10 rows of 8 tokens need .* --samples 4 would do"):
        at_once.cells_at_once(toy, 10, 8, 0)
    monkeypatch.setattr(at_once, "free", lambda _: 1.0)
    with pytest.raises(ModelError, match="use --dtype bfloat16 or a smaller model"):
        at_once.cells_at_once(toy, 10, 8, 0)
    monkeypatch.setattr(at_once, "free", lambda _: None)
    assert at_once.cells_at_once(toy, 10, 8, 0) == 2048 // 80, "where the system does not say"


@pytest.mark.parametrize("kind", ["resid", "mlp", "head"])
def test_a_trace_in_little_memory_gives_the_same_effects_and_holds_less(
    toy: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    prompt, config = make_prompt(toy, "[Oda Voss] lives in"), Config(sites=(kind,), samples=8)
    length, begin = len(prompt.tokens), prompt.subject_span[0]
    each = at_once.bytes_of(toy, 8, length, begin)
    found, held = [], []
    trace(toy, prompt, config)  # what is proven of a model is proven once
    for cells in (1000, 1):
        monkeypatch.setattr(at_once, "free", lambda _, cells=cells: cells * 1.01 * each / at_once.SHARE)
        with counted() as count:
            found.append(trace(toy, prompt, config))
        held.append(count.bytes_most)
    for one, other in zip(found[0].grids, found[1].grids, strict=True):
        torch.testing.assert_close(one.effect, other.effect, atol=1e-6, rtol=0)
    together = toy.cfg.n_layers * (toy.cfg.n_heads if kind == "head" else 1)
    together = min(together, at_once.FAST["cpu"] // (8 * (length - begin)))
    assert 0 < held[0] - held[1] <= (together - 1) * each


def test_rows_of_texts_run_together_as_far_as_there_is_room(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[1 + (3 * i + j) % 50 for j in range(4 + i % 9)] for i in range(40)]
    wanted = [(len(row) - 2, len(row) - 1) for row in rows]
    each, found, held = at_once.bytes_of(toy, 1, 12, 0, 2), [], []
    logits_at(toy, rows, wanted)
    for fit in (1000, 3):
        monkeypatch.setattr(at_once, "free", lambda _, fit=fit: fit * 1.01 * each / at_once.SHARE)
        with counted() as count:
            found.append(logits_at(toy, rows, wanted))
        held.append(count.bytes_most - sum(4 * one.numel() for one in found[-1]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)
    assert held[0] <= 40 * each
    assert held[1] <= 3 * each < held[0]
    monkeypatch.setattr(at_once, "free", lambda _: 1.0)
    with pytest.raises(ModelError, match=r"the states of a text of 12 tokens need .* or shorter texts"):
        logits_at(toy, rows, wanted)


def test_work_that_is_counted_for_another_machine_goes_as_it_would_there(toy: Any) -> None:
    weight = next(toy.parameters())
    assert at_once.cells_at_once(toy, 10, 8, 0) == at_once.FAST["cpu"] // 80
    with as_on("cuda", lambda: 1e12):
        assert at_once.cells_at_once(toy, 10, 8, 0) == at_once.FAST["cuda"] // 80
        assert not suits(weight)
        assert "--device cpu" in at_once.smaller(toy)
    with as_on("cuda", lambda: 1.0):
        assert at_once.cells_at_once(toy, 10, 8, 0) == 1, "counted, and not refused"
    assert at_once.smaller(toy) == "use --dtype bfloat16 or a smaller model"


def written_on(model: Any) -> Any:
    """Texts of one length, written on together."""
    return torch.tensor(generate(model, [[1 + row, 2, 3 + row] for row in range(12)], 5))


def attributed(model: Any) -> Any:
    """Neurons of both layers, by paths."""
    return attribute(model, [Pair((1, 2, 3), (4,)), Pair((5, 6), (7,))], (0, 1), Path(points=8, tolerance=10.0)).value


def differentiated(model: Any) -> Any:
    """Jacobians of a text."""
    return jacobians(CleanRun.of(model, [1, 2, 3, 4, 5]), 1)


def climbed(model: Any) -> Any:
    """States of one text put into another's."""
    clean = CleanRun.of(model, [1, 2, 3, 4, 5])
    return clean.read(clean.states[:, 2].repeat(4, 1), [0] * 12, 3, 7).log_probability


@pytest.mark.parametrize(
    ("module", "work"),
    [(at_once, written_on), (attribution, attributed), (jacobian, differentiated), (states, climbed)],
)
def test_what_runs_in_parts_is_the_same_and_too_little_memory_is_told(
    toy: Any, monkeypatch: pytest.MonkeyPatch, module: Any, work: Any
) -> None:
    asked, found, held = list[tuple[int, int, int]](), [], []
    own = at_once.fitting

    def fitting(model: Any, most: int, each: int, what: str) -> int:
        asked.append((most, each, own(model, most, each, what)))
        return asked[-1][2]

    monkeypatch.setattr(module, "fitting", fitting)
    work(toy)
    each = max(one for _, one, _ in asked)
    for fit in (1000, 6):
        asked.clear()
        monkeypatch.setattr(at_once, "free", lambda _, fit=fit: fit * 1.01 * each / at_once.SHARE)
        with counted() as count:
            found.append(work(toy))
        held.append(count.bytes_most)
        assert all(got == min(most, int(fit * 1.01 * each / one)) for most, one, got in asked)
        assert fit == 6 or count.bytes_most <= sum(most * one for most, one, _ in asked)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert held[1] < held[0]
    monkeypatch.setattr(at_once, "free", lambda _: 1.0)
    with pytest.raises(ModelError, match=r"need .* GB beside the model, .* use --dtype bfloat16 or a smaller model"):
        work(toy)
