"""Workers under any schedule and any deaths, on a pretended Ray: the results of one process, and the same journals."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits.mib.track import TrackOptions, track
from circuits.scorers.eap import EAP
from editing.compute import compute
from editing.evaluation.protocol import protocol
from editing.evaluation.tasks import Tasks
from editing.methods.fine_tuning.ft_m import Config
from factscope.data.load import load_cases, load_facts
from factscope.data.questions.chains import Chain
from factscope.data.request import requests_of
from factscope.errors import ModelError, UserError
from factscope.runs import workers
from factscope.runs.workers import ALONE, Workers, each
from helpers.models import TOY
from helpers.pretend import spread
from helpers.rays import PretendRay, pretended
from studies.bench.bench import bench
from studies.tables.multi_hop import HopOptions, multi_hop
from studies.tables.relations import TableOptions, relation_table


def logits(model: Any, number: int) -> bytes:
    """Every bit of what the model says."""
    with torch.no_grad():
        return bytes(model(torch.tensor([[number, 1]]), use_cache=False).numpy().tobytes())


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_workers_in_any_order_gives_the_bits_of_one_process(toy: Any, count: int) -> None:
    items = list(range(9))
    alone = list(each(toy, logits, items, ALONE))
    for seed in range(5):
        ray = PretendRay(seed, deaths=2)
        with pretended(toy, ray):
            assert list(each(toy, logits, items, Workers(count, "auto"))) == alone
        assert ray.deaths == 0
        assert ray.hired == count + 2  # whoever dies is replaced


def test_a_model_on_several_devices_is_not_shared(toy: Any) -> None:
    with spread(toy), pretended(toy, PretendRay()), pytest.raises(UserError, match="this one lies on several: leave"):
        list(each(toy, logits, [1, 2], Workers(2)))


@pytest.mark.parametrize("lives", [1, 3])
def test_work_that_kills_its_workers_is_named(toy: Any, lives: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LIVES", lives)
    said = rf"^workers die of the same piece of work \(number 2\), after {lives - 1} trials anew"
    ray = PretendRay(deadly=5)
    found: list[bytes] = []
    with pretended(toy, ray), pytest.raises(UserError, match=said):
        found.extend(each(toy, logits, [3, 5], Workers(2)))
    assert found in ([], list(each(toy, logits, [3], ALONE)))
    assert ray.hired == 2 + lives - 1


def test_a_worker_without_the_model_is_named(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise ModelError("there is no folder /elsewhere/toy")

    with pretended(toy, PretendRay()):
        monkeypatch.setattr(workers, "load", load)
        with pytest.raises(ModelError, match=r"^a worker on auto cannot load .*: there is no folder /elsewhere/toy$"):
            list(each(toy, logits, [1, 2], Workers(2, "auto")))


def edited(model: Any, requests: Any) -> Any:
    """A quick edit."""
    return compute("ft_m", model, requests, Config(layer=0, steps=1))


def lines(journal: Path) -> str:
    """A journal without the time that its rows took and the checksums of it."""
    return re.sub(r'"(seconds": [0-9.e-]+|check": "\w+)', "", journal.read_text())


def test_the_tables_of_papers_are_the_same_with_workers(toy: Any, tmp_path: Path) -> None:
    facts = str(TOY / "toy_town.json")
    how = TableOptions(method=EAP(edges=20), split=False, examples=2, held_out=2, random=1)
    planted = TrackOptions(("chain",), ("eap", "random"), train=2, validation=2)
    chains = [
        Chain(str(i), requests_of([fact]), f"{fact.subject} lives in", "", ("a",), ("b",), ("c",))
        for i, fact in enumerate(load_facts(facts, limit=3))
    ]
    hops = HopOptions(edited, "ft_m", limit=2, known=False)
    for name, crew in (("one", ALONE), ("two", Workers(2))):
        with pretended(toy, PretendRay(seed=3, deaths=2)):
            relation_table(toy, facts, (), how, folder=tmp_path / name / "table", shown=False, workers=crew)
            track(toy, planted, folder=tmp_path / name / "track", shown=False, workers=crew)
            multi_hop(toy, chains, hops, folder=tmp_path / name / "hops", shown=False, workers=crew)
    for table in ("table", "track", "hops"):
        one, two = (lines(tmp_path / name / table / "journal.jsonl") for name in ("one", "two"))
        assert one == two
        assert one.count("\n") == {"table": 2, "track": 3, "hops": 3}[table]


def test_tasks_at_checkpoints_are_the_same_with_workers(toy: Any, tmp_path: Path) -> None:
    cases, rules = load_cases(TOY / "toy_town.json", limit=2), protocol("sequential", words=0)
    how = {"settings": {name: {"layer": "0", "steps": "2"} for name in ("ft_m", "ft_l")}, "shown": False, "at": (1, 2)}
    how["tasks"] = Tasks.of(toy, ("repeat",), limit=3)
    found = {}
    for name, crew in (("one", ALONE), ("two", Workers(2))):
        with pretended(toy, PretendRay(seed=1, deaths=1)):
            found[name] = bench(toy, cases, ("ft_m", "ft_l"), rules, tmp_path / name, workers=crew, **how)
    one, two = ([(each.curve, each.rows) for each in found[name].trials] for name in ("one", "two"))
    assert one == two
    assert any("task/repeat" in point.general for curve, _ in one for point in curve)
