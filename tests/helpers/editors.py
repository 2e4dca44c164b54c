"""Trained editors for tests: on invented facts, for any tiny model, before their first step or after a few."""

from dataclasses import replace
from typing import Any

import torch

from editing.edit import Edit
from editing.method import method
from editing.requests import target_prompts
from editing.trained.editor import Trained
from editing.trained.tail import Tail, answer_losses, asked
from editing.trained.train import train_editor
from factscope.data.fact import Fact
from factscope.data.request import EditRequest
from factscope.model.forward.scoring import Pair, score
from factscope.model.weights import fingerprint

REQUESTS = (
    EditRequest("Foo Bar lives in", "Foo Bar", "Rome"),
    EditRequest("The home of Quux is the city", "Quux", "Oslo"),
    EditRequest("Ze is", "Ze", "York"),
)
WORDS = ("Rome", "Oslo", "Bern", "York", "Kiel")
RELATIONS = {"seat": ("{} sits in", "The seat of {} is"), "side": ("{} is by", "Beside {} is"), "post": ("{} has",)}
FACTS = tuple(
    Fact(
        f"{relation}/{number}",
        relation,
        f"Zo{chr(97 + number)} Qu",
        wordings[0],
        WORDS[(number + len(relation)) % 5],
        WORDS[(number + len(relation) + 1) % 5],
        paraphrases=tuple(one.format(f"Zo{chr(97 + number)} Qu") for one in wordings[1:]),
    )
    for relation, wordings in RELATIONS.items()
    for number in range(24)
)
_MADE: dict[tuple[str, str, int], Trained] = {}


def config_of(model: Any, name: str, steps: int = 0) -> Any:
    """The method's configuration, small."""
    config = method(name).config_for(model)
    small = {
        "rank": 4,
        "standard": 16,
        "steps": steps or 2 * (name == "remedi"),  # which begins as no edit at all
        "every": 2,
        "batch": 2,
        "layers": (0, 1),
        "width": 4,
        "reads": 0,
        "layer": 0,
    }
    return replace(config, **{key: value for key, value in small.items() if hasattr(config, key)})


def editor_of(model: Any, name: str, steps: int = 0) -> Trained | None:
    """An editor for this model, made once; None for a method that is not trained."""
    if method(name).train is None:
        return None
    key = (fingerprint(model), name, steps)
    if key not in _MADE:
        _MADE[key] = train_editor(model, name, FACTS, config_of(model, name, steps), shown=False)
    return _MADE[key]


def pairs_of(model: Any) -> list[Pair]:
    """Three edits of different lengths."""
    prompts = [target_prompts(model, one, ("{}",), "auto")[0] for one in REQUESTS]
    return [Pair(tuple(prompt.tokens), tuple(prompt.answer_ids)) for prompt in prompts]


def check_side_path(tail: Tail, change: Any, edit: Edit) -> None:
    """What a training step reads of `pairs_of` beside the weights is what they cost with the edit in the weights."""
    pairs = pairs_of(tail.model)
    rows = [pair.row for pair in pairs]
    resid = tail.entering(rows)
    with torch.no_grad(), tail.changed(change, torch.zeros(len(pairs), dtype=torch.long)):
        beside = answer_losses(tail.logp(rows, asked(pairs), resid), pairs)
    with edit.applied(tail.model):
        within = torch.tensor([one.nll for one in score(tail.model, pairs)])
    torch.testing.assert_close(beside, within, atol=1e-4, rtol=1e-4)  # float32
    assert not torch.allclose(within, torch.tensor([one.nll for one in score(tail.model, pairs)]), atol=1e-5)
