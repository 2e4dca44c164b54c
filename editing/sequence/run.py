"""Many edits, one after another: what is kept, what is forgotten, and when the model begins to break.

Every edit is computed on the model as those before it left it, and read right after it was put in. Every so many facts
a checkpoint reads all of them again, unrelated facts and a fixed text (editing/sequence/yardstick.py), and the singular
values of the edited weights (editing/spectrum.py). Every score is against the model before any edit.

A restraint is applied at the end, as PRUNE was published (Ma et al. 2024): the sum of all edits is replaced by its
restrained form after the last checkpoint, and everything is read once more. Or at every checkpoint: the sum of all
edits so far, always taken from the weights before any edit, is replaced by its restrained form, the edits that follow
are computed on the restrained model, and the next checkpoint restrains the sum of both. What is old is then restrained
again each time, which the authors have not tested.

Every piece of work (an edit, a checkpoint) is journalled when it is done, edits are saved whole, and what is in place
is computed from the saved ones: a sequence that was killed goes on at the next piece, to bitwise the same weights.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import tensor

from editing import compute as computing
from editing.contexts import contexts as sampled
from editing.edit import in_place, revert
from editing.method import MethodConfig, MethodSpec
from editing.method import method as method_of
from editing.requests import check
from editing.restraint import restraint
from editing.sequence.result import Config, SequenceResult
from editing.sequence.rules import Rule
from editing.sequence.state import Hook, State, Step
from editing.sequence.yardstick import Yardstick
from editing.solve.layers import weight_name
from editing.solve.moments import Moments
from factscope.data.fact import Fact
from factscope.data.request import EditRequest, requests_of
from factscope.errors import EditError
from factscope.model.bridge import Bridge, info
from factscope.model.weights import live_weights
from factscope.progress import progress
from factscope.runs.journal import Journal
from factscope.runs.provenance import Run, stopwatch

JOURNAL = "journal.jsonl"  # in the run folder


def sequence(
    model: Bridge,
    asked: Sequence[EditRequest | Fact],
    method: str | MethodSpec,
    settings: Config,
    folder: str | Path,
    yardstick: Yardstick,
    *,
    config: Any = None,
    restraint_config: Any = None,
    moments: Moments | None = None,
    contexts: Sequence[str] | None = None,
    on_checkpoint: Hook | None = None,
    say: Callable[[str], None] = lambda text: warnings.warn(text, stacklevel=3),
    shown: bool | None = None,
) -> SequenceResult:
    """Put in the edits one after another in `folder`, going on from what is done there; a fact asks for its foil.

    The model is left bitwise as it was; the edits are in `folder`/edits.

    Args:
        config, moments: of the method.
        contexts: the templates of all edits; otherwise sampled once, from the unedited model.
        on_checkpoint: called as on_checkpoint(model, checkpoint) with the edits in place. What it gives (numbers,
            texts, lists and dictionaries of them) is kept as the checkpoint's `extra`; it is not called again for one
            that is in the journal.
        say: told when the model begins to break.

    Raises EditError for input that cannot work, before anything is computed, and StoreError where the folder holds
    other work or was altered.
    """
    requests = requests_of(asked)
    spec = method_of(method)
    config = config or spec.config_for(model)
    restraint_config = restraint_config or (restraint(settings.restrain).Config() if settings.restrain else None)
    rules = _checked(model, requests, spec, settings, yardstick, config, restraint_config)
    if contexts is None:
        count = spec.contexts(config)
        contexts = sampled(model, count, config.context_length, settings.seed, settings.start) if count else ("{}",)
    how: dict[str, Any] = {"moments": moments, "contexts": contexts, "seed": settings.seed, "start": settings.start}
    run = Run.of(model, settings.seed)
    work: dict[str, Any] = {
        "what": "edit sequence",
        "fingerprint": run.fingerprint,
        "method": spec.name,
        "config": asdict(config),
    }
    work |= {"settings": asdict(settings), "moments": moments.name if moments else "identity", "contexts": contexts}
    work |= {"restraint": asdict(restraint_config) if restraint_config else None, "yardstick": yardstick.digest}
    work |= {"looked at": on_checkpoint is not None}
    work |= {"facts": [[one.id, one.prompt, one.old, one.target] for one in requests]}
    stopped, told = "", set[str]()
    with Journal(Path(folder) / JOURNAL, work) as log, stopwatch() as seconds:
        state = State(model, requests, settings, Path(folder), yardstick, spec.layers(config))
        begun = sum(piece.get("count", 0) for piece in log.done)
        taken = {piece["step"]: piece for piece in log.done}
        with progress("facts edited in sequence", len(requests), begun, shown) as advance:
            try:
                for number, step in enumerate(_plan(len(requests), settings)):
                    if stopped and not (step.restrain and settings.restrain_at == "end"):
                        continue
                    piece = taken.get(number)
                    if piece is None:
                        state.put_in_place()
                        if step.edit:
                            piece = state.compute(step, lambda some: computing.compute(
                                spec, model, some, config, shown=False, **how))  # fmt: skip
                        else:
                            piece = state.measure(step, restraint_config, rules, on_checkpoint)
                        log.add({"step": number, **piece})
                        advance(piece.get("count", 0))
                    else:
                        state.take_up(step, piece)
                    stopped = piece.get("stopped") or stopped
                    for text in state.checkpoints[-1].warnings if not step.edit else ():
                        if number not in taken and text not in told:
                            say(f"after {state.done} facts the model begins to break: {text}")
                        told.add(text)
            finally:
                revert(model, in_place(model))
    return SequenceResult(
        method=spec.name,
        config=asdict(config),
        settings=asdict(settings) | {"restraint": asdict(restraint_config) if restraint_config else None},
        model=info(model).name,
        asked=len(requests),
        facts=tuple(one.id for one in requests[: state.done]),
        rows=tuple(state.rows(state.immediate, state.now)),
        checkpoints=tuple(state.checkpoints),
        values={"before": state.before[: state.done], "written": tensor(state.written)} | state.values,
        layer=state.layer,
        edits=tuple(state.digests),
        seconds=tuple(state.seconds),
        contexts=tuple(contexts),
        moments=moments.name if moments else "identity",
        text=yardstick.source,
        unrelated=tuple(fact.id for fact in yardstick.facts),
        stopped=stopped,
        run=run.ended(seconds[0]),
    )


def check_method(method: MethodSpec, config: MethodConfig | None = None) -> None:
    """EditError for a method that changes no weight, or is set to change none; asks for no model."""
    if method.in_context or (config is not None and not method.layers(config)):
        raise EditError(
            f"{method.name} changes no weight, so there is nothing that many edits could wear out: choose another"
        )


def _checked(
    model: Bridge,
    requests: Sequence[EditRequest],
    method: MethodSpec,
    settings: Config,
    yardstick: Yardstick,
    config: MethodConfig,
    restraint_config: Any,
) -> tuple[Rule, ...]:
    """Refuse what can be refused before hours of work; the rules to stop by."""
    check(requests)
    if in_place(model):
        raise EditError("take the edits that are in place out first: a sequence begins on the model as it was")
    rules = tuple(Rule.of(text) for text in settings.stop_when)
    absent = {
        "paraphrase": not any(one.paraphrases for one in requests),
        "neighbourhood": not any(one.neighbours for one in requests),
    }
    absent |= dict.fromkeys(("unchanged", "kl"), not yardstick.facts)
    for rule in rules:
        if absent.get(rule.quantity):
            raise EditError(f"the rule {rule} can never be looked at: no fact has what it asks for")
    check_method(method, config)
    method.check(model, config)
    if settings.restrain:
        weights = live_weights(model)
        names = [weight_name(layer) for layer in method.layers(config)]
        restraint(settings.restrain).check({name: weights[name] for name in names}, restraint_config)
    return rules


def _plan(count: int, settings: Config) -> list[Step]:
    steps, often = [Step(0)], settings.restrain is not None and settings.restrain_at == "checkpoint"
    for begin in range(0, count, settings.batch):
        end = min(begin + settings.batch, count)
        steps.append(Step(end, True, begin))
        if end == count or end // settings.every > begin // settings.every:
            steps.append(Step(end, restrain=often, last=end == count))
    if settings.restrain and not often:
        steps.append(Step(count, restrain=True, last=True))
    return steps
