"""Run a method: facts in, edits out, the model bitwise as it was."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from editing.bypass import meetings
from editing.contexts import OPENINGS, contexts
from editing.edit import Edit, base_of, in_place
from editing.method import MethodConfig, MethodInputs, MethodOutput, MethodSpec, method
from editing.requests import BARE, check
from editing.solve.anchor import Anchoring
from editing.solve.moments import Moments
from editing.solve.values import DRIFT, Descent, OnStep
from editing.trained.editor import Trained
from editing.trained.fitting import check_config, check_editor
from editing.weights.lent import in_float32
from factscope.cache import digest, kept
from factscope.data.fact import Fact
from factscope.data.request import EditRequest, requests_of
from factscope.errors import EditError
from factscope.files import write_text_atomically
from factscope.model.bridge import Bridge, info, without_gradients
from factscope.progress import stage
from factscope.runs.provenance import Run, stopwatch


@dataclass(frozen=True, eq=False)
class Options:
    """How edits are computed, whatever the method.

    moments: second moments of ordinary keys. None means the identity: a different method, and the edit says so.
    seed: of everything that is drawn.
    start: what stands before every prompt, "auto", "none" or a token.
    contexts: the templates; otherwise they are sampled from the model.
    on_step: called as on_step(step, loss [fact], probability [fact]) while values are optimised.
    shown: whether a progress bar is shown; None: on a terminal.
    folder: where finished chunks of values are kept, to go on from after an interruption, and for other methods that
        write at the same place.
    on_piece: called with the number of requests when a chunk is finished.
    editor: of a method that is trained.
    allow_trained: whether facts may be edited that the editor was trained on; the edit then says how many.
    """

    moments: Moments | None = None
    seed: int = 0
    start: str = "auto"
    contexts: Sequence[str] | None = None
    on_step: OnStep | None = None
    shown: bool | None = None
    folder: Path | None = None
    on_piece: Callable[[int], None] | None = None
    editor: Trained | None = None
    allow_trained: bool = False


def compute(
    name: str | MethodSpec,
    model: Bridge,
    asked: Sequence[EditRequest | Fact],
    config: MethodConfig | None = None,
    **how: Any,
) -> Edit:
    """Edit with a method; a fact asks for its foil. The model is left bitwise as it was.

    Keyword arguments are those of `Options`. Raises EditError for input that cannot work and whatever the method
    raises; the weights are then as before, too.
    """
    spec = method(name)
    (edit,) = _edits(spec, model, asked, config, Options(**how), lambda inputs, own: [spec.compute(inputs, own)])
    return edit


def compute_each(
    name: str | MethodSpec,
    model: Bridge,
    asked: Sequence[EditRequest | Fact],
    config: MethodConfig | None = None,
    **how: Any,
) -> list[Edit]:
    """One edit per request, each for the model as it is, with everything that can be in one batch in one batch.

    The same edits as `compute` one by one, up to rounding, several times faster. Arguments as in `compute`.
    """
    spec = method(name)

    def make(inputs: MethodInputs, own: MethodConfig) -> list[MethodOutput]:
        if spec.compute_each is not None:
            return spec.compute_each(inputs, own)
        values = inputs.values(own)
        single = [replace(inputs, requests=(one,), ready=values.of(i)) for i, one in enumerate(inputs.requests)]
        return [spec.compute(one, own) for one in single]

    return _edits(spec, model, asked, config, Options(**how), make)


IDENTITY = "the identity stands in for second moments; that is another method, and hurts neighbours more"
Make = Callable[[MethodInputs, MethodConfig], list[MethodOutput]]


def _edits(
    spec: MethodSpec,
    model: Bridge,
    asked: Sequence[EditRequest | Fact],
    config: MethodConfig | None,
    how: Options,
    make: Make,
) -> list[Edit]:
    """The edits that `make` computes: one for all requests, or one for each."""
    requests = requests_of(asked)
    check(requests)
    _check_below(spec, in_place(model))
    run = Run.of(model, how.seed)
    base, below = base_of(model, run.fingerprint), tuple(edit.digest for edit in in_place(model))
    said = check_editor(spec, how.editor, requests, base, how.start, how.allow_trained)
    config = config or spec.config_for(model, editor=how.editor)
    check_config(spec, model, config, how.editor, requests)
    if how.moments is not None and spec.needs_moments:
        how.moments.check(model, base)
    length = _usual_length(model, spec, config, how.start, base)
    parts = [str(name) for name in spec.weights(config)] if spec.by_values else None
    with (
        stage("computing the edit", how.shown), without_gradients(model), in_float32(model, parts),
        stopwatch() as seconds,
    ):  # fmt: skip
        given = how.contexts
        templates = tuple(given) if given is not None else _contexts(model, spec, config, how, base)
        key = _values_key(spec, config, requests, templates, (base, below, how.start))
        inputs = MethodInputs(
            spec, model, requests, templates, how.moments, how.start, how.seed, how.on_step, how.shown,
            how.folder / key if how.folder else None, how.on_piece, length=length, editor=how.editor,
        )  # fmt: skip
        outputs = make(inputs, config)
    edited = [requests] if len(outputs) == 1 else [(request,) for request in requests]
    moments = spec.moments_name(how.moments)
    notes = (*said, *((IDENTITY,) if moments == "identity" else ()))
    return [
        Edit(
            method=spec.name,
            config=asdict(config),
            requests=own,
            base=base,
            model=info(model).name,
            seed=how.seed,
            below=below,
            moments=moments,
            editor=how.editor.digest if how.editor is not None else "",
            contexts=templates,
            start_token=how.start,
            met=tuple(one for part in output.bypasses for one in meetings(model, part, own, how.start)),
            run=run.ended(seconds[0]),
            **(vars(output) | {"notes": (*output.notes, *notes)}),
        )
        for own, output in zip(edited, outputs, strict=True)
    ]


def _check_below(spec: MethodSpec, below: Sequence[Edit]) -> None:
    """EditError where the method cannot build on the edits in place."""
    if any(edit.preface for edit in below) and not spec.in_context:
        raise EditError(f"an in-context edit is in place, and {spec.name} cannot build on a text: take it out first")
    if any(edit.bypasses for edit in below) and not (spec.in_context or spec.beside):
        raise EditError(
            f"an edit beside the weights is in place, whose gate looks at whole prompts, and {spec.name} runs parts of "
            "them: take it out first, or edit with a method of its kind"
        )


def _usual_length(model: Bridge, spec: MethodSpec, config: MethodConfig, start: str, base: str) -> float | None:
    """How long a value is on the unedited model, where the descent asks for anchors."""
    descent = getattr(config, "descent", None)
    if not isinstance(descent, Descent) or not descent.anchors:
        return None
    return Anchoring(spec.layers(config)[-1], spec.value_place, descent, start).length(model, base)


def _values_key(
    spec: MethodSpec,
    config: MethodConfig,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    state: tuple[Any, ...],
) -> str:
    """What values depend on. They know nothing of the solver, so methods that write at the same place share them."""
    descent = asdict(getattr(config, "descent", config))
    where = [spec.place, spec.layers(config)[-1:]]
    return digest([DRIFT, *where, descent, contexts, list(requests), *state])[:16]


def draw_contexts(model: Bridge, spec: MethodSpec, config: Any, seed: int, start: str) -> tuple[str, ...]:
    """The templates of a method's edits, sampled from the model as it is; the bare prompt where it needs no others."""
    count = spec.contexts(config)
    return contexts(model, count, config.context_length, seed, start) if count else BARE


def _contexts(model: Bridge, spec: MethodSpec, config: Any, how: Options, base: str) -> tuple[str, ...]:
    """The templates: sampled once for a model without edits, then taken from the cache; of an edited one, sampled."""
    count = spec.contexts(config)
    if not count or in_place(model):
        return draw_contexts(model, spec, config, how.seed, how.start)
    said = digest([base, OPENINGS, count, config.context_length, how.seed, how.start])

    def build(folder: Path) -> None:
        drawn = draw_contexts(model, spec, config, how.seed, how.start)
        write_text_atomically(folder / "contexts.json", json.dumps(drawn))

    place = kept(f"contexts/{info(model).name}-{said[:16]}", build)
    return tuple(json.loads((place / "contexts.json").read_text(encoding="utf-8")))
