"""Trained editors for tests: on invented facts, for any tiny model, before their first step or after a few."""

from dataclasses import replace
from typing import Any

from editing.method import method
from editing.trained.editor import Trained
from editing.trained.train import train_editor
from factscope.data.fact import Fact
from factscope.model.weights import fingerprint

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
