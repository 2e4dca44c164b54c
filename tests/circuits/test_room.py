"""Gradients run at as many points as find room; their scores do not depend on it, and too little is told before."""

from typing import Any
from unittest.mock import patch

import pytest
import torch

from circuits.engine import gradients, room
from circuits.engine.reference import Reference
from circuits.engine.state import State
from circuits.graph import Graph
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG
from circuits.task import Task
from factscope.errors import ModelError
from factscope.model.bridge import without_gradients
from factscope.model.forward import at_once
from factscope.model.prompts import make_prompt
from factscope.runs.counting import counted


def reference_of(toy: Any, rows: int, split: bool = True) -> Reference:
    """Of one prompt, so many times."""
    prompt = make_prompt(toy, "[Oda Voss] lives in", answer="Brask")
    task = Task((prompt,) * rows, ablation="counterfactual", corrupt=(prompt,) * rows)
    return Reference(toy, Graph.of(toy, split=split), task)


def needed(toy: Any, reference: Reference, most: int) -> tuple[int, int]:
    """Bytes of one point, and of the nodes beside it, as they are foreseen."""
    graph, task = reference.graph, reference.task
    with patch.object(room, "fitting", return_value=most) as fitting:
        room.points_at_once(toy, graph, len(task.prompts), task.n_positions, reference.copies, most)
    return fitting.call_args.args[2], fitting.call_args.args[5]


@pytest.mark.parametrize(("rows", "split"), [(1, True), (3, True), (2, False)])
def test_no_more_is_held_than_is_foreseen(toy: Any, rows: int, split: bool) -> None:
    with without_gradients(toy):
        reference = reference_of(toy, rows, split)
        clean = gradients.clean_writes(reference)
        points = min(5, max(1, gradients.ROWS // (rows * reference.copies)))
        each, beside = needed(toy, reference, points)
        EAPIG(edges=1).gradient(reference, clean)  # what is proven of a model is proven once
        with counted() as count:
            gradients.example_scores(reference, EAPIG(edges=1).gradient(reference, clean), clean)
    assert count.bytes_most <= points * each + beside


def test_gradients_in_little_memory_are_the_same_and_hold_less(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, held = [], []
    with without_gradients(toy):
        reference = reference_of(toy, 1)
        each, beside = needed(toy, reference, 5)
        EAPIG(edges=1).examples(reference)
        for points in (100, 1):
            free = (points * 1.01 * each + beside) / at_once.SHARE
            monkeypatch.setattr(at_once, "free", lambda _, free=free: free)
            with counted() as count:
                found.append(EAPIG(edges=1).examples(reference))
            held.append(count.bytes_most)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
    assert held[1] < held[0]


def test_too_little_memory_is_told_with_the_number_of_prompts_that_would_do(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with without_gradients(toy):
        reference = reference_of(toy, 4)
        each, beside = needed(toy, reference, 1)
        monkeypatch.setattr(at_once, "free", lambda _: 0.6 * (each + beside) / at_once.SHARE)
        for method in (EAPIG(edges=1), EAP(edges=1)):
            with pytest.raises(ModelError, match=r"the gradients of 4 prompts of .* --limit 2 would do"):
                method.examples(reference)
        monkeypatch.setattr(at_once, "free", lambda _: 1.0)
        with pytest.raises(ModelError, match=r"the states of 1 prompt of .* use --dtype bfloat16 or a smaller model"):
            reference_of(toy, 1)
        with pytest.raises(ModelError, match="copies of the MLPs and the unembedding"):
            State(reference)
