"""Workers: the same results as one process gives, in the same order, whoever dies on the way."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits.find import find
from circuits.scorers.exact import Exact
from circuits.search.acdc import ACDC
from circuits.task import Task
from editing.evaluation.protocol import protocol
from editing.layer_trials import try_layers
from editing.sequence.result import Config as SequenceConfig
from editing.sequence.seeds import Orders
from editing.sequence.yardstick import Config as YardstickConfig
from factscope.data.load import load_cases, load_facts
from factscope.errors import ModelError, UserError
from factscope.model.prompts import make_prompt
from factscope.runs.workers import ALONE, Workers, _ray, each
from helpers.models import TOY
from helpers.rays import local_ray
from studies.bench.bench import bench
from studies.face import sequences
from tracing.average import average
from tracing.causal import Config
from tracing.flow.average import average_flow
from tracing.flow.knockout import FlowConfig
from tracing.results import TraceResult
from tracing.sweep import Sweep

pytestmark = pytest.mark.ray

TOKENS = [[1, 5, 7, 9], [2, 6, 8, 3], [11, 4, 9, 2], [3, 3, 1, 8], [9, 7, 5, 1]]
TWO = Workers(2)


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with local_ray(sys.modules[__name__]):
        yield


def logits(model: Any, tokens: list[int]) -> bytes:
    """Every bit of what the model says."""
    with torch.no_grad():
        return bytes(model(torch.tensor([tokens]), use_cache=False).numpy().tobytes())


def dying(model: Any, tokens: list[int], folder: Path, lives: int) -> bytes:
    """Kills its worker on the second and fourth item, until it has done so often enough."""
    place = TOKENS.index(tokens)
    deaths = len([*folder.glob(f"{place}-*")])
    if place in (1, 3) and deaths < lives:
        (folder / f"{place}-{deaths}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return logits(model, tokens)


@dataclass(frozen=True)
class Refusing:
    """Refuses one item."""

    which: int

    def __call__(self, model: Any, tokens: list[int]) -> tuple[int, int]:
        if TOKENS.index(tokens) == self.which:
            raise UserError(f"{model.factscope.name} does not do {tokens}")
        return os.getpid(), torch.get_num_threads()


def test_averages_and_layers_are_the_same_with_two_workers(toy: Any, tmp_path: Path) -> None:
    facts = load_facts(TOY / "toy_town.json", limit=3) + load_facts("country_capital", limit=1)
    short = Config(sites=("mlp",), samples=1)
    heard: list[TraceResult] = []
    for name, crew in (("one", ALONE), ("two", TWO)):
        sweep = Sweep(known=True, wanted=3, workers=crew)
        average(toy, facts, short, sweep, journal=tmp_path / name, shown=False, traced=heard.append)
        average_flow(toy, facts, FlowConfig(nulls=1), sweep, journal=tmp_path / f"{name}-flow", shown=False)
    assert [one.prompt.text for one in heard] == 2 * [fact.prompt for fact in facts[:3]]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one-flow").read_bytes() == (tmp_path / "two-flow").read_bytes()
    one, two = (try_layers(toy, facts[:2], [0, 1], "ft_m", shown=False, workers=crew) for crew in (ALONE, TWO))
    assert one.trials == two.trials


def test_a_bench_is_the_same_with_two_workers(toy: Any, tmp_path: Path) -> None:
    cases, how = load_cases(TOY / "toy_town.json", limit=2), {"moments": "identity", "shown": False}
    for rules, names in (("easyedit", ("ft_m", "ice")), ("sequential", ("ft_m",))):
        settings = {"ft_m": {"layer": "0", "steps": "2"}}
        one, two = (
            bench(toy, cases, names, protocol(rules, words=0), tmp_path / f"{rules}{crew.count}", workers=crew,
                  settings=settings, **how)
            for crew in (ALONE, TWO)
        )  # fmt: skip
        assert [trial.rows for trial in one.trials] == [trial.rows for trial in two.trials]
        assert one.scores == two.scores


def test_exact_cuts_are_the_same_with_two_workers(toy: Any) -> None:
    task = Task((make_prompt(toy, "[Oda Voss] lives in", answer="Brask"),), ablation="zero")
    one, two = (find(toy, task, Exact(edges=30), workers=crew) for crew in (ALONE, TWO))
    assert torch.equal(one.scores, two.scores)
    searched = [find(toy, task, ACDC(0.02, certify=0.3), split=False, workers=crew) for crew in (ALONE, TWO)]
    assert searched[0].certificate == searched[1].certificate
    assert searched[0].certificate is not None


@pytest.mark.filterwarnings("ignore:after . facts the model begins to break")
def test_sequences_in_several_orders_are_the_same_with_two_workers(toy: Any, tmp_path: Path) -> None:
    facts, held = load_facts(TOY / "toy_town.json", limit=3), YardstickConfig("none", documents=2, tokens=8)
    how: dict[str, Any] = {"settings": {"layer": 0, "steps": 2}, "yardstick": held}
    one, two = (
        sequences(toy, facts, "ft_m", SequenceConfig(every=9, stop_when=("norm>9",)), Orders((0, 1, 2), crew),
                  folder=tmp_path / str(crew.count), **how)
        for crew in (ALONE, TWO)
    )  # fmt: skip
    assert [replace(run, seconds=0) for run in one.runs] == [replace(run, seconds=0) for run in two.runs]


def test_a_worker_computes_with_this_process_s_threads(toy: Any) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 2)
    try:
        assert {found for _, found in each(toy, Refusing(9), TOKENS[:2], TWO)} == {before + 2}
    finally:
        torch.set_num_threads(before)


# The tests below end workers; new ones import PyTorch again.


def test_two_workers_give_the_bits_of_one_process_though_two_of_them_are_killed(toy: Any, tmp_path: Path) -> None:
    alone = list(each(toy, logits, TOKENS, ALONE))
    assert list(each(toy, partial(dying, folder=tmp_path, lives=1), TOKENS, TWO)) == alone
    assert sorted(place.name for place in tmp_path.iterdir()) == ["1-0", "3-0"]


def test_a_mistake_comes_in_its_turn(toy: Any) -> None:
    found: list[tuple[int, int]] = []
    with pytest.raises(UserError, match="does not do"):
        found.extend(each(toy, Refusing(2), TOKENS, TWO))
    assert len(found) == 2
    assert os.getpid() not in {pid for pid, _ in found}


def test_a_worker_refuses_other_weights(toy: Any) -> None:
    weight = toy.blocks[0].mlp.out.original_component.weight
    old = weight.data.clone()
    weight.data[0, 0] += 1
    try:
        with pytest.raises(ModelError, match="loads other weights"):
            list(each(toy, logits, TOKENS, TWO))
    finally:
        weight.data.copy_(old)


def test_ray_that_does_not_begin_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def late(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")  # Ray's own, of no better kind

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(UserError, match=r"Ray cannot be started on this machine .*timed out"), _ray(TWO):
        pass
