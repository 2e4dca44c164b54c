"""The circuit track: areas by hand, tasks in tokens, planted circuits recovered, and the whole of it resumed."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.engine.reference import Reference
from circuits.find import find
from circuits.graph import Graph
from circuits.mib import tasks as task_file
from circuits.mib import track as recipe
from circuits.mib.areas import SIZES, area_from_1, area_under, auroc, auroc_of_sizes
from circuits.mib.planted import KINDS, planted
from circuits.mib.tasks import TASKS, Pair, task_of
from circuits.mib.track import Track, TrackOptions, against, curve, scores_of, track
from circuits.pages.mib import words
from circuits.search.acdc import ACDC
from factscope.errors import UserError
from helpers.models import TOY
from helpers.results import check_result


def test_areas_of_curves_drawn_by_hand() -> None:
    width = SIZES[-1] - SIZES[0]
    assert area_under([1.0] * 10) == pytest.approx(width)
    assert area_from_1([1.0] * 10) == 0
    assert area_from_1([2.0] * 10) == pytest.approx(width)  # to overshoot is as far as to do nothing
    assert area_from_1([0.0] * 10) == pytest.approx(width)
    rising = [*[0.0] * 9, 1.0]  # nothing but the whole model: the last step is half of the axis
    assert area_under(rising) == pytest.approx(0.25)
    assert area_from_1(rising) == pytest.approx(width - 0.25)
    assert area_under([0.0, 1.0, 3.0], [0.0, 0.5, 1.0]) == pytest.approx(0.25 + 1.0)
    assert area_from_1([0.0, 1.0, 3.0], [0.0, 0.5, 1.0]) == pytest.approx(0.25 + 0.5)
    # Edges at random do in proportion to their number: the published .25 and .75 are near the areas of nothing at all.
    assert (area_under(rising), area_from_1(rising)) == pytest.approx((0.25, 0.749))


def test_auroc_counts_pairs() -> None:
    truth = np.array([True, True, False, False, False])
    assert auroc(np.array([5, 4, 3, 2, 1.0]), truth) == 1
    assert auroc(np.array([1, 2, 3, 4, 5.0]), truth) == 0
    assert auroc(np.ones(5), truth) == 0.5
    assert auroc(np.array([5, 1, 3, 2, 0.0]), truth) == pytest.approx(4 / 6)
    with pytest.raises(UserError, match="0 of 2 edges are true"):
        auroc(np.ones(2), np.zeros(2, dtype=bool))
    # (1/2, 0), (1, 1/3), (1, 1): from the first on, so that a perfect ranking falls short of 1
    one, three, five = (np.arange(5) < n for n in (1, 3, 5))
    assert auroc_of_sizes([one, three, five], truth) == pytest.approx(0.75 / 3 + 2 / 3)
    assert np.isnan(auroc_of_sizes([one], truth))


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return {kind: planted(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_planted_circuits_are_recovered(made: dict[str, Any], kind: str) -> None:
    own = made[kind]
    graph = Graph.of(own.model)
    assert graph.n_edges == 1108  # as many as InterpBench's IOI model has
    assert (graph.pruned(own.truth) == own.truth).all()
    task = own.task(2)
    assert find(own.model, task, ACDC(threshold=0.05)).mask.tolist() == own.truth.tolist()
    reference = Reference(own.model, graph, task)
    full, empty, alone = (-reference.loss(mask) for mask in (graph.full(), graph.empty(), own.truth))
    assert alone == pytest.approx(full, abs=1e-3)  # the norm's constant is large, not infinite
    assert empty < 0 < full
    exact = scores_of(reference, "exact").abs().numpy()
    assert exact[own.truth].min() > 0.1
    assert exact[~own.truth].max() < 1e-3
    assert against(graph, torch.from_numpy(exact), own.truth)["found"] == 1


def test_a_gradient_sees_nothing_of_what_saturates(made: dict[str, Any]) -> None:
    own = made["saturated"]
    graph = Graph.of(own.model)
    reference = Reference(own.model, graph, own.task(2))
    into = own.truth[:, graph.reader_index["m3"]]
    column = graph.reader_index["m3"]
    assert float(scores_of(reference, "eap")[into, column].abs().max()) < 1e-3
    assert float(scores_of(reference, "eap_ig")[into, column].abs().min()) > 0.1
    found = {name: against(graph, scores_of(reference, name), own.truth) for name in ("eap_ig", "acdc", "random")}
    assert found["eap_ig"]["auroc"] == found["acdc"]["auroc"] == 1
    assert 0.1 < (found["random"]["auroc"] or 0) < 0.9


def test_the_largest_edges_by_hand(made: dict[str, Any]) -> None:
    """Scores that put the planted edges first: seven are enough from 1 % of 1,108 on, and one in a thousand is one."""
    own = made["chain"]
    graph = Graph.of(own.model)
    reference = Reference(own.model, graph, own.task(4, seed=1))
    scores = torch.from_numpy(own.truth * -2.0 + (graph.allowed & ~own.truth) * 1e-3)
    by_size, by_sign = (curve(reference, scores, signed) for signed in (False, True))
    assert by_size[:2] == [0, 0]
    assert by_size[3:] == pytest.approx([1.0] * 7, abs=1e-3)
    assert by_sign[8] < 0.5 < by_sign[9]  # by sign the planted edges come last


@pytest.mark.parametrize("name", TASKS)
def test_generated_texts_have_one_right_answer(name: str) -> None:
    rng = random.Random(0)
    for pair in (TASKS[name](rng) for _ in range(20)):
        assert pair.answer != pair.foil or name == "arithmetic"
        assert pair.clean != pair.corrupt
        if name == "ioi":
            subject = pair.clean.split("[")[1].split("]")[0]
            assert (subject, pair.clean.replace(f"[{subject}]", f"[{pair.answer}]")) == (pair.foil, pair.corrupt)
        elif name == "arithmetic":
            numbers = [int(x) for x in pair.clean.split("[")[1].split("]")[0].split("+")]
            assert str(sum(numbers)) == pair.answer
        else:
            listed = dict(line.strip("[]").split(". ", 1) for line in pair.clean.splitlines() if ". " in line[:4])
            assert sorted(listed) == ["A", "B", "C", "D"]
            assert f"\n{pair.foil}. {listed[pair.answer].strip('[]')}" in pair.corrupt.replace("[", "")
            if name == "colours":
                assert f"is {listed[pair.answer].strip('[]')}." in pair.clean


def test_prompts_of_a_task_have_one_length_and_fit(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pairs whose lengths or answers do not fit, none is left."""
    pairs = [
        Pair("[Oda Voss] lives in", "[Mira Drey] lives in", "Brask", "Vey"),
        Pair("[Ilse Senn] lives in", "[Pello Hallin] lives in", "Vey", "Brask"),
        Pair("[Oda Drey] lives in", "[Oda] lives in", "Brask", "Vey"),  # of another length
        Pair("[Oda Tavi] lives in", "[Mira Drey] lives in", "Brask", "Brask"),  # begins alike
    ]
    drawn = iter(range(100))
    monkeypatch.setitem(task_file.TASKS, "ioi", lambda _: pairs[next(drawn) % 4])
    found = task_of(toy, "ioi", 2)
    assert [prompt.text for prompt in found.prompts] == ["Oda Voss lives in", "Ilse Senn lives in"]
    assert found.ablation == "counterfactual"
    with pytest.raises(UserError, match="2 of the 3 prompts of ioi have one length"):
        task_of(toy, "ioi", 3)
    with pytest.raises(UserError, match="there is no task 'sums'"):
        task_of(toy, "sums", 3)


BACKWARDS = tuple(  # the answer is the other's: the full model does the opposite of the task
    Pair(f"[{one}] lives in", f"[{other}] lives in", theirs, own)
    for one, own, other, theirs in (
        ("Oda Voss", "Brask", "Mira Drey", "Dunvale"), ("Mira Drey", "Dunvale", "Ilse Voss", "Vey"),
        ("Ilse Senn", "Dunvale", "Oda Voss", "Brask"), ("Pello Hallin", "Brask", "Ilse Voss", "Vey"),
    )
)  # fmt: skip
HOW = TrackOptions(tasks=("chain", "saturated"), methods=("eap", "random"), train=2, validation=2)


def test_the_track_is_taken_up_with_more_methods(
    toy: Any, made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "planted", lambda kind, *_: made[kind])
    first = track(toy, TrackOptions(tasks=("chain",), methods=("eap",), train=2, validation=2), folder=tmp_path)
    asked: list[str] = []
    whole = recipe.scores_of

    def counted(reference: Any, name: str, seed: int = 0) -> Any:
        asked.append(name)
        return whole(reference, name, seed)

    monkeypatch.setattr(recipe, "scores_of", counted)
    found: Track = track(toy, HOW, folder=tmp_path, shown=False)
    assert sorted(asked) == ["eap", "random", "random"]
    assert found.rows[0] == first.rows[0]
    assert [(row.task, row.method) for row in found.rows] == [
        ("chain", "eap"), ("chain", "random"), ("saturated", "eap"), ("saturated", "random"),
    ]  # fmt: skip
    assert {row.unsigned[-1] for row in found.rows} == {1.0}
    assert "chain: nearest to the model is eap" in words(found)[0]
    check_result(found, tmp_path / "kept", "Track")


def test_the_command_and_its_mistakes(run_command: Any, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "planted", lambda kind, *_: made[kind])
    asked = ("circuit", "mib", "--model", TOY, "--train", 2, "--validation", 2)
    done = run_command(*asked, "--tasks", "saturated", "--methods", "eap-ig,random", "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert [row["method"] for row in said["rows"]] == ["eap_ig", "random"]
    assert said["rows"][0]["auroc"] == 1
    for words_, trouble in (
        (("--tasks", "chains"), "there is no task 'chains'"),
        (("--methods", "magic"), "there is no method 'magic'"),
    ):
        done = run_command(*asked, *words_)
        assert (done.exit_code, trouble in done.stderr) == (2, True)

    monkeypatch.setitem(task_file.TASKS, "ioi", lambda rng: rng.choice(BACKWARDS))
    done = run_command(*asked, "--tasks", "ioi", "--methods", "eap")
    assert (done.exit_code, "it does not do the task" in done.stderr) == (2, True), done.stderr
