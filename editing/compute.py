"""Run a method: requests in, edits out, the model bitwise as it was."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from editing.contexts import OPENINGS
from editing.contexts import contexts as sampled
from editing.edit import Edit, base_of, in_float32, in_place
from editing.method import MethodInputs, MethodOutput, config_for, in_context, layers_of, method
from editing.requests import check
from editing.solve.moments import Moments
from editing.solve.values import OnStep
from factscope.cache import kept
from factscope.data.fact import Fact
from factscope.data.request import EditRequest, requests_of
from factscope.errors import EditError
from factscope.files import write_text_atomically
from factscope.model.bridge import info
from factscope.runs.provenance import Run, stopwatch


def compute(name: str, model: Any, asked: Sequence[EditRequest | Fact], config: Any = None, **how: Any) -> Edit:
    """Edit with a method; a fact asks for its foil. The model is left bitwise as it was.

    Keyword arguments:
        moments: second moments of ordinary keys. None means the identity: a different method, and the edit says so.
        seed: of everything that is drawn.
        start: what stands before every prompt, "auto", "none" or a token.
        contexts: the templates; otherwise they are sampled from the model.
        on_step: called as on_step(step, loss [fact], probability [fact]) while values are optimised.
        shown: whether a progress bar is shown; None: on a terminal.
        folder: where finished chunks of values are kept, to go on from after an interruption, and for other methods
            that write at the same place.
        on_piece: called with the number of facts when a chunk is finished.

    Raises EditError for input that cannot work and whatever the method raises; the weights are then as before, too.
    """
    return _compute(name, model, asked, config, lambda module, bench, chosen: [module.compute(bench, chosen)], **how)[0]


def compute_each(
    name: str, model: Any, asked: Sequence[EditRequest | Fact], config: Any = None, **how: Any
) -> list[Edit]:
    """One edit for each request, each for the model as it is, with everything that can be in one batch in one batch.

    The same edits as `compute` one by one, up to rounding, several times faster. Arguments as in `compute`.
    """

    def make(module: Any, bench: MethodInputs, chosen: Any) -> list[MethodOutput]:
        if hasattr(module, "compute_each"):
            return list(module.compute_each(bench, chosen))
        values = bench.values(chosen)
        single = [replace(bench, requests=(one,), ready=values.of(i)) for i, one in enumerate(bench.requests)]
        return [module.compute(one, chosen) for one in single]

    return _compute(name, model, asked, config, make, **how)


def _compute(
    name: str,
    model: Any,
    asked: Sequence[EditRequest | Fact],
    config: Any,
    make: Callable[[Any, MethodInputs, Any], list[MethodOutput]],
    *,
    moments: Moments | None = None,
    seed: int = 0,
    start: str = "auto",
    contexts: Sequence[str] | None = None,
    on_step: OnStep | None = None,
    shown: bool | None = None,
    folder: Path | None = None,
    on_piece: Callable[[int], None] | None = None,
) -> list[Edit]:
    module = method(name)
    requests = requests_of(asked)
    check(requests)
    if any(edit.preface for edit in in_place(model)) and not in_context(name):
        raise EditError(f"an in-context edit is in place, and {name} cannot build on a text: take it out first")
    config = config or config_for(name, model)
    run = Run.of(model, seed)
    base, below = base_of(model, run.fingerprint), tuple(edit.digest for edit in in_place(model))
    if moments is not None and module.NEEDS_MOMENTS:
        moments.check(model, base)
    with in_float32(model), stopwatch() as seconds:
        used = tuple(contexts) if contexts is not None else _contexts(model, config, seed, start, base)
        # Values know nothing of the solver: methods that write at the same place share them.
        descent = asdict(getattr(config, "descent", config))
        said = [
            hasattr(config, "layer"),
            layers_of(config)[-1:],
            descent,
            used,
            list(map(asdict, requests)),
            base,
            below,
            start,
        ]
        key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
        pieces = folder / key if folder else None
        bench = MethodInputs(model, requests, used, moments, start, seed, on_step, shown, pieces, on_piece)
        made = make(module, bench, config)
    edited = [requests] if len(made) == 1 else [(request,) for request in requests]
    return [
        Edit(
            method=module.__name__.rsplit(".", 1)[-1],
            config=asdict(config),
            requests=some,
            deltas=one.deltas,
            base=base,
            model=info(model).name,
            seed=seed,
            below=below,
            moments=bench.moments_name if module.NEEDS_MOMENTS else "none",
            contexts=used,
            start_token=start,
            reports=one.reports,
            curve=one.curve,
            notes=one.notes,
            preface=one.preface,
            run=run.ended(seconds[0]),
        )
        for some, one in zip(edited, made, strict=True)
    ]


def _contexts(model: Any, config: Any, seed: int, start: str, base: str) -> tuple[str, ...]:
    """The templates: sampled once for a model without edits, then taken from the cache; of an edited one, sampled."""
    count = getattr(config, "contexts", 0)
    if not count:
        return ("{}",)
    if in_place(model):
        return sampled(model, count, config.context_length, seed, start)
    said = json.dumps([base, OPENINGS, count, config.context_length, seed, start])

    def build(folder: Path) -> None:
        write_text_atomically(
            folder / "contexts.json", json.dumps(sampled(model, count, config.context_length, seed, start))
        )

    place = kept(f"contexts/{info(model).name}-{hashlib.sha256(said.encode()).hexdigest()[:16]}", build)
    return tuple(json.loads((place / "contexts.json").read_text(encoding="utf-8")))
