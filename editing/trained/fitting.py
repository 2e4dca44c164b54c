"""Whether a trained editor fits an edit: it is of its method, model and settings, and has not met its facts."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from editing.method import MethodConfig, MethodSpec
from editing.trained.editor import Trained
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.runs.journal import differing


def belongs(spec: MethodSpec, editor: Trained | None) -> None:
    """EditError for a trained method without an editor, and for an editor of another; asks for no model."""
    if spec.train is None and editor is not None:
        raise EditError(f"{spec.name} is not trained, so it takes no editor")
    if spec.train is not None and editor is None:
        raise EditError(
            f"{spec.name} edits with an editor that was trained for this model, and none was given: train one with "
            f"edit train {spec.name}, and give its folder"
        )
    if editor is not None and editor.method != spec.name:
        raise EditError(f"editor {editor.name} was trained for {editor.method}, not for {spec.name}")


def editors_of(specs: Sequence[MethodSpec], editors: Sequence[Trained]) -> list[Trained | None]:
    """Each method's editor, or None; EditError for one that no method takes, and for two of one method."""
    names = {spec.name for spec in specs if spec.train is not None}
    if idle := [editor for editor in editors if editor.method not in names]:
        raise EditError(
            f"an editor of {idle[0].method} is given, and the methods are {', '.join(s.name for s in specs)}"
        )
    found = {editor.method: editor for editor in editors}
    if len(found) < len(editors):
        raise EditError("two editors of one method are given: give one")
    return [found.get(spec.name) for spec in specs]


def check_editor(
    spec: MethodSpec,
    editor: Trained | None,
    requests: Sequence[EditRequest],
    base: str,
    start: str,
    allow_trained: bool,
) -> tuple[str, ...]:
    """What an edit must say of its editor; EditError where there is none, or one that does not belong here.

    `base` is the fingerprint of the unedited model. Facts that the editor was trained on are refused unless
    `allow_trained`.
    """
    belongs(spec, editor)
    if editor is None:
        return ()
    editor.check(base, start)
    met = editor.known(requests)
    if met and not allow_trained:
        raise EditError(
            f"{len(met)} of {len(requests)} facts were in the training of editor {editor.name} (the first: "
            f"{met[0].prompt!r}), and say nothing about others: choose other facts, or allow it with --allow-trained"
        )
    return (f"{len(met)} of {len(requests)} facts were in the editor's training",)


def check_config(
    spec: MethodSpec, model: Bridge, config: MethodConfig, editor: Trained | None, requests: Sequence[EditRequest]
) -> None:
    """EditError for layers that the model lacks, for settings that are not the editor's, and for facts that so cannot
    be edited.
    """
    spec.check(model, config)
    spec.check_requests(requests, config)
    if editor is not None and (other := differing(_plain(editor.config), _plain(asdict(config)))):
        raise EditError(f"editor {editor.name} was trained with other settings ({', '.join(other)}); leave them out")


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """As JSON reads it back: a tuple is a list."""
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain
