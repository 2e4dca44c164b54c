"""Many edits, one after another: what is kept, what is forgotten, and when the model begins to break.

Every edit is computed on the model as those before it left it, and read right after it was put in. Every so many facts
a checkpoint reads all of them again, unrelated facts and a fixed text (editing/sequence/yardstick.py), and the singular
values of the edited weights (editing/spectrum.py). Every score is against the model before any edit.

A restraint is applied at the end, as PRUNE was published (Ma et al. 2024): the sum of all edits is replaced by its
restrained form after the last checkpoint, and everything is read once more. Or at every checkpoint: the sum of all
edits so far, always taken from the weights before any edit, is replaced by its restrained form, the edits that follow
are computed on the restrained model, and the next checkpoint restrains the sum of both. What is old is then restrained
again each time, which the authors have not tested. Or beside: at every checkpoint a restrained copy of the sum is read
and put aside, as the curves of PRUNE's Fig. 3 and 4, with as many settings of the restraint as are swept.

Every piece of work (an edit, a checkpoint) is journalled when it is done, edits are saved whole, and what is in place
is computed from the saved ones: a sequence that was killed goes on at the next piece, to bitwise the same weights.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import tensor

from editing import compute as computing
from editing.edit import Edit, in_place, revert
from editing.method import MethodConfig, MethodSpec
from editing.method import method as method_of
from editing.requests import check
from editing.restraint import restraint
from editing.sequence.result import Config, SequenceResult
from editing.sequence.rules import Rule
from editing.sequence.state import Hook, State, Step
from editing.sequence.yardstick import Yardstick
from editing.solve.moments import Moments
from editing.trained.editor import Trained
from editing.trained.fitting import check_config, check_editor
from factscope.cache import digest
from factscope.data.fact import Fact
from factscope.data.request import EditRequest, requests_of
from factscope.errors import EditError
from factscope.model.bridge import Bridge, info
from factscope.model.weights import as_matrix, fingerprint, live_weights
from factscope.progress import progress
from factscope.runs.journal import Journal
from factscope.runs.provenance import Run, stopwatch
from factscope.runs.store import SCHEMA

JOURNAL = "journal.jsonl"  # in the run folder


@dataclass(frozen=True, eq=False)
class Options:
    """How the edits are computed and watched; how often, and when they end, is the sequence's `Config`.

    config, moments: of the method.
    editor, allow_trained: of a method that is trained, and whether facts may be edited that its editor was trained on.
    restraint_config: of the restraint that the sequence's settings name.
    sweep: further configurations of it, each read at every checkpoint; only beside.
    contexts: the templates of all edits; otherwise sampled once, from the unedited model.
    on_checkpoint: called as on_checkpoint(model, checkpoint) with the edits in place. What it gives (numbers, texts,
        lists and dictionaries of them) is kept as the checkpoint's `extra`; it is not called again for one that is in
        the journal.
    say: told when the model begins to break; by default a warning.
    shown: whether a progress bar is shown; None: on a terminal.
    """

    config: MethodConfig | None = None
    restraint_config: Any = None
    sweep: Sequence[Any] = ()
    moments: Moments | None = None
    editor: Trained | None = None
    allow_trained: bool = False
    contexts: Sequence[str] | None = None
    on_checkpoint: Hook | None = None
    say: Callable[[str], None] = lambda text: warnings.warn(text, stacklevel=4)
    shown: bool | None = None


@dataclass(frozen=True, eq=False)
class Work:
    """A sequence that can begin: nothing is left open, and what can be refused was refused."""

    requests: tuple[EditRequest, ...]
    method: MethodSpec
    config: MethodConfig
    settings: Config
    restraints: tuple[Any, ...]  # configurations of the restraint; none without one
    rules: tuple[Rule, ...]
    yardstick: Yardstick
    moments: Moments | None
    contexts: tuple[str, ...]
    editor: Trained | None = None
    notes: tuple[str, ...] = ()  # what the result must say

    def identity(self, fingerprint: str, watched: bool) -> dict[str, Any]:
        """What the journal is known by: work that differs in any of this is other work."""
        own: dict[str, Any] = {} if self.editor is None else {"editor": self.editor.digest}
        own |= {"sweep": [asdict(one) for one in self.restraints[1:]]} if self.restraints[1:] else {}
        return own | {
            "what": "edit sequence",
            "schema": SCHEMA,
            "fingerprint": fingerprint,
            "method": self.method.name,
            "config": asdict(self.config),
            "settings": asdict(self.settings),
            "moments": self.moments.name if self.moments else "identity",
            "contexts": self.contexts,
            "restraint": asdict(self.restraints[0]) if self.restraints else None,
            "yardstick": self.yardstick.digest,
            "looked at": watched,
            "facts": digest(self.requests),
        }

    def compute(self, model: Bridge, requests: Sequence[EditRequest]) -> Edit:
        """One edit for some of the requests, on the model as those before it left it."""
        return computing.compute(
            self.method, model, requests, self.config, moments=self.moments, contexts=self.contexts,
            seed=self.settings.seed, start=self.settings.start, shown=False, editor=self.editor, allow_trained=True,
        )  # fmt: skip


def sequence(
    model: Bridge,
    asked: Sequence[EditRequest | Fact],
    method: str | MethodSpec,
    settings: Config,
    folder: str | Path,
    yardstick: Yardstick,
    **how: Any,
) -> SequenceResult:
    """Put in the edits one after another in `folder`, going on from what is done there; a fact asks for its foil.

    The model is left bitwise as it was; the edits are in `folder`/edits. Keyword arguments are those of `Options`.
    Raises EditError for input that cannot work, before anything is computed, and StoreError where the folder holds
    other work or was altered.
    """
    options = Options(**how)
    work = _settled(model, requests_of(asked), method_of(method), settings, yardstick, options)
    run = Run.of(model, settings.seed)
    identity = work.identity(run.fingerprint, options.on_checkpoint is not None)
    with Journal(Path(folder) / JOURNAL, identity) as log, stopwatch() as seconds:
        weights = work.method.weights(work.config)
        state = State(model, work.method.name, work.requests, settings, Path(folder), yardstick, weights)
        try:
            stopped = _carry_out(work, state, log, options)
        finally:
            revert(model, in_place(model))
    return _result(work, state, stopped, run.ended(seconds[0]))


def _settled(
    model: Bridge,
    requests: tuple[EditRequest, ...],
    method: MethodSpec,
    settings: Config,
    yardstick: Yardstick,
    options: Options,
) -> Work:
    """Refuse what can be refused before hours of work, and settle what was left open."""
    config = options.config or method.config_for(model, editor=options.editor)
    aside = options.restraint_config or (restraint(settings.restrain).Config() if settings.restrain else None)
    if options.sweep and (settings.restrain is None or settings.restrain_at != "beside"):
        raise EditError(
            "several settings of a restraint are read beside the sequence: restrain beside, or sweep nothing"
        )
    asides = (aside, *options.sweep) if aside is not None else ()
    rules = _checked(model, requests, method, settings, yardstick, config, asides)
    editor, base = options.editor, fingerprint(model) if options.editor else ""
    notes = check_editor(method, editor, requests, base, settings.start, options.allow_trained)
    check_config(method, model, config, editor, requests)
    contexts = options.contexts
    if contexts is None:
        contexts = computing.draw_contexts(model, method, config, settings.seed, settings.start)
    given = options.moments, tuple(contexts), editor, notes
    return Work(requests, method, config, settings, asides, rules, yardstick, *given)


def _carry_out(work: Work, state: State, log: Journal, options: Options) -> str:
    """Every piece of the plan that the journal lacks, until a rule is met; why it ended early, or nothing."""
    stopped, told = "", set[str]()
    taken = {piece["step"]: piece for piece in log.done}
    begun = sum(piece.get("count", 0) for piece in log.done)
    with progress("facts edited in sequence", len(work.requests), begun, options.shown) as advance:
        for number, step in enumerate(_plan(len(work.requests), work.settings, len(work.restraints))):
            at_end = step.restrain and work.settings.restrain_at == "end"
            if stopped and not at_end and not (step.beside and step.facts == state.done):
                continue
            piece = taken.get(number)
            if piece is None:
                piece = _done(work, state, step, options.on_checkpoint)
                log.add({"step": number, **piece})
                advance(piece.get("count", 0))
            else:
                state.take_up(step, piece)
            stopped = piece.get("stopped") or stopped
            for text in state.checkpoints[-1].warnings if not step.edit and not step.beside else ():
                if number not in taken and text not in told:
                    facts = "1 fact" if state.done == 1 else f"{state.done} facts"
                    options.say(f"after {facts} the model begins to break: {text}")
                told.add(text)
    return stopped


def _done(work: Work, state: State, step: Step, hook: Hook | None) -> dict[str, Any]:
    """Do a piece: compute an edit, or read a checkpoint."""
    state.put_in_place()
    if step.edit:
        return state.compute(step, lambda requests: work.compute(state.model, requests))
    return state.measure(step, work.restraints[step.which] if step.restrain else None, work.rules, hook)


def _result(work: Work, state: State, stopped: str, run: Run) -> SequenceResult:
    aside = asdict(work.restraints[0]) if work.restraints else None
    return SequenceResult(
        method=work.method.name,
        config=asdict(work.config),
        settings=asdict(work.settings) | {"restraint": aside},
        model=info(state.model).name,
        asked=len(work.requests),
        facts=tuple(request.id for request in work.requests[: state.done]),
        rows=tuple(state.rows()),
        checkpoints=tuple(state.checkpoints),
        values={"before": state.before[: state.done], "written": tensor(state.written)} | state.values,
        layer=state.layer,
        edits=tuple(state.digests),
        seconds=tuple(state.seconds),
        contexts=work.contexts,
        moments=work.method.moments_name(work.moments),
        text=work.yardstick.source,
        unrelated=tuple(fact.id for fact in work.yardstick.facts),
        stopped=stopped,
        notes=work.notes,
        run=run,
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
    asides: Sequence[Any],
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
        weights = {name: as_matrix(name, weight) for name, weight in live_weights(model).items()}
        for aside in asides:
            restraint(settings.restrain).check({n: weights[n] for n in map(str, method.weights(config))}, aside)
    return rules


def _plan(count: int, settings: Config, copies: int = 1) -> list[Step]:
    steps, often = [Step(0)], settings.restrain is not None and settings.restrain_at == "checkpoint"
    beside = range(copies if settings.restrain and settings.restrain_at == "beside" else 0)
    for begin in range(0, count, settings.batch):
        end = min(begin + settings.batch, count)
        steps.append(Step(end, True, begin))
        if end == count or end // settings.every > begin // settings.every:
            last = end == count
            steps.append(Step(end, restrain=often, last=last))
            steps += [Step(end, restrain=True, last=last, beside=True, which=which) for which in beside]
    if settings.restrain and not often and not beside:
        steps.append(Step(count, restrain=True, last=True))
    return steps
