"""Restrained copies beside a sequence, how keys must move, and tasks at every checkpoint: against plain arithmetic."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from editing import method as methods
from editing.delta import Delta
from editing.edit import Edit, applied
from editing.evaluation.tasks import LENGTH, OWN, Tasks
from editing.pages.sequence.beside import PLAIN, beside_table
from editing.pages.sequence.page import page, words
from editing.restraint import restrained, restraint
from editing.sequence.keys import key_movement
from editing.sequence.result import Config, SequenceResult
from editing.sequence.run import sequence
from editing.sequence.yardstick import Yardstick, fixed_text, unrelated_facts
from factscope.data.load import load_facts
from factscope.errors import EditError
from factscope.model.weights import fingerprint
from factscope.plots.page import page_html
from helpers.models import TOY
from studies.commands.options import OWN_TASKS

LINEAR = restraint("prune").Config(mode="linear")
LOG = restraint("prune").Config(alpha=20.0)


@pytest.fixture(scope="module")
def run(toy: Any) -> Any:
    facts = load_facts(TOY / "toy_town.json", limit=4)
    others = unrelated_facts(toy, facts, TOY / "toy_trade.json", count=4)
    yardstick = Yardstick.of(toy, others, *fixed_text(toy, documents=2, tokens=8), "auto")
    spec = methods.method("rome")
    config: Any = spec.at_layers(spec.Config(), (0,))
    config = replace(config, descent=replace(config.descent, steps=8))

    def run_(folder: Any, settings: Config, **how: Any) -> SequenceResult:
        return sequence(
            toy, facts, "rome", settings, folder, yardstick, config=config, contexts=("{}",),
            say=lambda _: None, shown=False, **how,
        )  # fmt: skip

    return run_


def test_a_copy_beside_is_the_restrained_sum_and_the_sequence_goes_on_without_it(
    toy: Any, run: Any, tmp_path: Any
) -> None:
    settings = Config(every=2, restrain="prune", restrain_at="beside")
    how = {"restraint_config": LINEAR, "sweep": (LOG,), "on_checkpoint": Tasks.of(toy, ["repeat"], limit=4)}
    found = run(tmp_path / "a", settings, **how)
    plain = run(tmp_path / "b", Config(every=2))
    assert found.edits == plain.edits  # every byte of every edit
    assert [one.weights for one in found.line] == [one.weights for one in plain.checkpoints]
    assert found.rows == plain.rows
    assert found.last.facts == 4
    assert not found.last.restrained
    names = list(found.copies)
    assert len(names) == 2
    assert ("mode linear" in names[0], "alpha 20" in names[1]) == (True, True)
    edits = [Edit.load(tmp_path / "a" / "edits" / f"edit-{n:05d}") for n in range(1, 5)]
    for name, config in zip(names, (LINEAR, LOG), strict=True):
        for point in found.copies[name]:
            held = restrained(toy, edits[: point.facts], "prune", config)
            with applied(toy, [held]):
                assert fingerprint(toy) == point.weights
    again = run(tmp_path / "a", settings, **how)  # all of it from the journal
    assert [one.weights for one in again.checkpoints] == [one.weights for one in found.checkpoints]
    assert set(found.values) == {"before", "written", "end", "restrained"}
    table = beside_table(found)
    assert [row[:2] for row in table.rows][:4] == [(0, PLAIN), (2, PLAIN), (2, names[0]), (2, names[1])]
    assert [point.extra["task/repeat"] for point in found.checkpoints] == [
        point.extra["task/repeat"] for point in again.checkpoints
    ]
    html = page_html(page(found))
    assert "Beside its restraint" in html
    assert "Repeat" in html
    assert any("restrained (mode linear" in line for line in words(found))


def test_a_rule_ends_a_sequence_with_its_copies(run: Any, tmp_path: Any) -> None:
    settings = Config(every=2, restrain="prune", restrain_at="beside", stop_when=("norm>0",))
    found = run(tmp_path, settings, restraint_config=LINEAR)
    assert [(one.facts, one.restrained) for one in found.checkpoints] == [(0, False), (2, False), (2, True)]
    assert "restrained" in found.values
    with pytest.raises(EditError, match="sweep nothing"):
        run(tmp_path / "other", Config(every=2), sweep=(LOG,))


def test_keys_move_as_the_pseudo_inverse_says_and_never_past_the_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    delta = Delta(
        "blocks.0.mlp.W_out", torch.randn(1, 3, generator=generator), 0.3 * torch.randn(7, 1, generator=generator)
    )
    keys = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    change = delta.dense().double()
    moved = -(keys @ change) @ torch.linalg.pinv(weight + change)
    assert torch.allclose((keys + moved) @ (weight + change), keys @ weight)
    movement, bound = key_movement(weight, delta, keys)
    assert movement == pytest.approx(float((moved.norm(dim=1) / keys.norm(dim=1)).mean()))
    assert (moved.norm(dim=1) <= bound * keys.norm(dim=1) + 1e-12).all()
    values = torch.linalg.svdvals(weight + change)
    kappa = float(values[0] / values[-1])
    assert bound == pytest.approx(kappa * float(torch.linalg.matrix_norm(change, 2) / values[0]))
    assert key_movement(weight, None, keys) == (0.0, 0.0)
    half = Delta("blocks.0.mlp.W_out", 0.001 * delta.right, delta.left)  # to first order the movement is linear
    assert key_movement(weight, half, keys)[0] < 0.01 * movement
    gone = Delta("blocks.0.mlp.W_out", -weight.float())  # nothing is written any more
    assert key_movement(weight.float().double(), gone, keys) == (float("inf"), float("inf"))


def test_tasks_are_read_as_plain_forward_passes_read_them(toy: Any) -> None:
    tasks = Tasks.of(toy, ["repeat"], limit=3)
    right = []
    for pair in tasks.pairs["repeat"]:
        tokens = [*pair.prompt, *pair.answer]
        half = tokens[-LENGTH:]
        assert half == tokens[-2 * LENGTH : -LENGTH]
        said = toy(torch.tensor([tokens]))[0].argmax(-1).tolist()
        right += [said[at] == tokens[at + 1] for at in range(len(tokens) - LENGTH, len(tokens) - 1)]
    assert tasks(toy)["task/repeat"] == pytest.approx(sum(right) / len(right))
    assert OWN_TASKS == OWN
    with pytest.raises(EditError, match="no task"):
        Tasks.of(toy, [])
