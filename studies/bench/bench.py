"""Methods by cases under one protocol, and one table of them all: what `edit bench` runs.

What is read depends on nothing but the cases, the protocol and the seed; only seconds and memory differ from run to
run. How methods go through the cases, and go on after a stop, is in `runner.py` beside this file.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from editing import compute as computing
from editing.evaluation.protocol import Protocol, comparable_with
from editing.evaluation.read import Speech, asked_of, check_together
from editing.evaluation.reference_texts import Snippets
from editing.evaluation.table import TIMES, Score, found, table
from editing.evaluation.tasks import Tasks
from editing.requests import known
from editing.sequence.yardstick import Yardstick
from editing.solve.corpus import content_of
from editing.trained.editor import Trained
from factscope.data.case import Case
from factscope.data.conflicts import told_of_neighbours
from factscope.errors import EditError, UserError
from factscope.model.bridge import Bridge
from factscope.model.known import Known
from factscope.model.prompts import start_token
from factscope.model.weights import fingerprint
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.results.result import Result
from factscope.runs.provenance import Run, stopwatch
from factscope.runs.shards import Shard
from factscope.runs.store import SCHEMA
from factscope.runs.workers import ALONE, Workers
from factscope.settings import Settings
from studies.bench.method_result import MethodResult
from studies.bench.run import run_all
from studies.bench.setting import MethodSetting, Setting
from studies.edit import method_runs

KNOWN_AT_ONCE = 64  # cases; no more are asked than are needed


@shown("studies.bench.page")
@dataclass(frozen=True)
class Bench(Result):
    """Everything that was read, and the table made from it."""

    suite: str
    source: str  # the file's name
    cases: tuple[str, ...]
    asked: str  # SHA-256 of every question and target
    protocol: Protocol
    start_token: str
    moments: str
    trials: tuple[MethodResult, ...]
    scores: tuple[Score, ...]
    left_out: int = 0  # questions of these cases that cannot be asked
    known: bool = False  # whether only cases whose facts the model knows were asked
    run: Run | None = None

    @property
    def comparable(self) -> str:
        """Which published numbers these may be set beside."""
        return comparable_with(self.protocol, self.suite, self.start_token, self.known)

    def score(self, method: str, metric: str, when: str = "after") -> Score:
        """A line of the table; KeyError if it was not measured."""
        return found(self.scores, metric, when, method)


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """How a bench is run.

    source, known: for the record: the file's name, and whether the cases are those that the model knows. settings: of
    a method, by its name. moments, tokens: as in `edit apply`. yardstick: an `editing.sequence.yardstick.Yardstick`,
    read once all edits are in, where edits stay or there is one edit. snippets: reference texts, for the reference
    score of protocols that speak. editors, allow_trained: of methods that are trained, and whether cases may be edited
    that they were trained on. say: told, before anything is edited, what of the protocol these cases cannot be asked.
    shown: whether a progress bar is shown; None: on a terminal. workers: who edits. shard: only this part of the cases,
    for `bench_shard`. mixed: whether the cases are of several sources. at: numbers of cases after which everything so
    far is read again, where edits stay; tasks: asked then, too.
    """

    source: str = ""
    known: bool = False
    settings: Mapping[str, Settings] = field(default_factory=dict)
    moments: str = "shipped"
    tokens: int | None = None
    yardstick: Yardstick | None = None
    snippets: Snippets | None = None
    editors: Sequence[Trained] = ()
    allow_trained: bool = False
    seed: int = 0
    start: str = "auto"
    shown: bool | None = None
    say: Callable[[str], None] = lambda _: None
    workers: Workers = ALONE
    shard: Shard | None = None
    mixed: bool = False
    at: tuple[int, ...] = ()
    tasks: Tasks | None = None


def bench(
    model: Bridge, cases: Sequence[Case], names: Sequence[str], protocol: Protocol, folder: str | Path, **how: Any
) -> Bench:
    """Run the grid. The model is left bitwise as it was.

    Journals and edits are kept in `folder`; the same call goes on from there. Keyword arguments are those of `Options`.

    Raises EditError (unknown methods, settings or layers, cases that contradict each other in one model, texts longer
    than the model reads, whatever a method raises) and StoreError (a folder that holds other work).
    """
    options = Options(**how)
    if options.shard is not None:
        raise UserError(f"shard {options.shard} of the cases has no table of its own: merge the shards first")
    run = Run.of(model, options.seed)
    with stopwatch() as seconds:
        trials = _tried(model, cases, names, protocol, Path(folder), options, run.fingerprint)
    return _result(model, cases, protocol, trials, options, run.ended(seconds[0]))


def bench_shard(
    model: Bridge, cases: Sequence[Case], names: Sequence[str], protocol: Protocol, folder: str | Path, **how: Any
) -> None:
    """Write the journals of a shard of the cases into `folder`; arguments and errors as those of `bench`."""
    options = Options(**how)
    if protocol.stays:
        raise UserError(
            f"under {protocol.name} each edit builds on those before it, so the cases cannot be dealt out: give each "
            "part a method of its own with --methods, or leave --shard out"
        )
    _tried(model, cases, names, protocol, Path(folder), options, fingerprint(model))


def _tried(
    model: Bridge,
    cases: Sequence[Case],
    names: Sequence[str],
    protocol: Protocol,
    folder: Path,
    options: Options,
    known_as: str,
) -> list[MethodResult]:
    """Every method on all cases, or on those of a shard."""
    check_askable(model, cases, protocol, options.say)
    cases = tuple(map(protocol.case, cases))
    asked = {case.id: asked_of(model, case, options.start, protocol.frame) for case in cases}
    setting = Setting(
        model, cases, asked, protocol, folder, options.yardstick, options.seed, options.start, lambda _: None,
        options.workers, options.shard, options.at, options.tasks,
    )  # fmt: skip
    check_curve(setting.steps, protocol, options.at)
    work = _work(known_as, digest(cases), protocol, options)
    if options.shard is not None:
        work |= options.shard.said(len(setting.steps), setting.side)
    wanted = _wanted(model, names, cases, options, work)
    total = sum(len(setting.steps[number]) for begin in setting.units for number in setting.unit(begin)) * len(wanted)
    with progress("cases edited", total, shown=options.shown) as advance:
        return run_all(replace(setting, advance=advance), wanted)


def _wanted(
    model: Bridge, names: Sequence[str], cases: Sequence[Case], options: Options, work: dict[str, Any]
) -> list[MethodSetting]:
    """Each method as it is run, with the work that its journal is known by; EditError as `method_runs`."""
    edited = [request for case in cases for request in case.requests]
    like = computing.Options(seed=options.seed, start=options.start, allow_trained=options.allow_trained)
    found = []
    for run, said in method_runs(model, names, edited, options.settings, options.editors, like):
        own = work | {"method": run.spec.name, "config": asdict(run.config)}
        own |= {"editor": run.editor.digest} if run.editor is not None else {}
        found.append(MethodSetting(run, options.moments, options.tokens, own, said))
    return found


def _work(fingerprint: str, questions: str, protocol: Protocol, options: Options) -> dict[str, Any]:
    """What the journals are known by: work that differs in any of this is other work."""
    return {
        "schema": SCHEMA,
        "asked": questions,
        "protocol": asdict(protocol),
        "model": fingerprint,
        "moments": [content_of(options.moments), options.tokens],
        "seed": options.seed,
        "start": options.start,
        "general": None if options.yardstick is None else options.yardstick.digest,
        **({"at": list(options.at), "tasks": options.tasks.names if options.tasks else ()} if options.at else {}),
    }


def _result(
    model: Bridge,
    cases: Sequence[Case],
    protocol: Protocol,
    trials: Sequence[MethodResult],
    options: Options,
    run: Run,
) -> Bench:
    if options.snippets is not None:
        trials = [replace(trial, speech=likened(trial.speech, cases, options.snippets)) for trial in trials]
    return Bench(
        suite=suite_of(cases, options.mixed),
        source=options.source,
        cases=tuple(case.id for case in cases),
        asked=digest(cases),
        protocol=protocol,
        start_token=start_token(model, options.start)[0] or "none",
        moments=options.moments,
        trials=tuple(trials),
        scores=tuple(one for trial in trials for one in table(trial.method, trial.rows, protocol, trial.speech)),
        left_out=sum(len(case.left_out) for case in cases),
        known=options.known,
        run=run,
    )


def suite_of(cases: Sequence[Case], mixed: bool) -> str:
    """The suite's name; a mixture of several sources has one of its own, so that no published number is its like."""
    names = ", ".join(dict.fromkeys(case.suite for case in cases))
    return f"a mixture of {names}" if mixed else cases[0].suite


def known_cases(model: Bridge, cases: Sequence[Case], most: int, start: str = "auto") -> tuple[Case, ...]:
    """The first `most` cases whose facts the model all knows; UserError where there is none, or no old answer."""
    suite = cases[0].suite
    if not any(request.old for case in cases for request in case.requests):
        raise UserError(f"{suite} does not say what was true before, so --known cannot be asked for")
    found: list[Case] = []
    for begin in range(0, len(cases), KNOWN_AT_ONCE):
        some = cases[begin : begin + KNOWN_AT_ONCE]
        ids = {one.id for one in known(model, [one for case in some for one in case.requests], None, start)}
        found += [case for case in some if all(one.id in ids for one in case.requests)]
        if len(found) >= most:
            break
    if not found:
        raise UserError(
            f"the model knows none of the facts in {suite} ({Known()}: no answer comes first); leave --known out"
        )
    return tuple(found[:most])


def likened(speech: Sequence[Speech], cases: Sequence[Case], snippets: Snippets) -> tuple[Speech, ...]:
    """The texts with their likeness to the references of their case."""
    names = {case.id: case.snippets for case in cases}
    out = []
    for one in speech:
        own = [other for other in speech if other.case == one.case]
        spoken = [[text for other in own if (text := getattr(other, when)) is not None] for when in TIMES]
        out.append(replace(one, likeness=tuple(snippets.likeness(names[one.case], some) for some in spoken)))
    return tuple(out)


def check_askable(model: Bridge, cases: Sequence[Case], protocol: Protocol, say: Callable[[str], None]) -> None:
    """Refuse what these cases cannot be asked by this protocol, and say what of it has no line in the table.

    Raises EditError for texts longer than the model reads, and for cases of one model that contradict each other.
    """
    if protocol.speech > model.cfg.n_ctx:
        raise EditError(f"texts of {protocol.speech} tokens are asked for, and the model reads {model.cfg.n_ctx}")
    groups = protocol.together(cases)
    if protocol.stays or protocol.size != 1:
        for group in groups:
            check_together(group)
    if words := told_of_neighbours([request for case in group for request in case.requests] for group in groups):
        say(words)
    if protocol.scorer == "likelihood" and not any(request.old for case in cases for request in case.requests):
        say(
            "these cases do not say the old answer, so nothing is compared with it (ES, PS, NS): only answers given in "
            "full are scored; --scorer 'token accuracy' scores their tokens too"
        )
    if protocol.speech and not any(case.speak for case in cases):
        say("these cases have no prompts for longer texts, so there is no fluency")


def check_curve(steps: Sequence[Sequence[Case]], protocol: Protocol, at: Sequence[int]) -> None:
    """UserError where a curve over the number of edits is asked for, and there is no such checkpoint."""
    if not at:
        return
    if not protocol.stays:
        raise UserError(
            f"under {protocol.name} every edit is taken out again, so there is no checkpoint and no curve: choose "
            "--protocol sequential or sequential-batch, or leave --at out"
        )
    ends = list(accumulate(map(len, steps)))
    missing = [number for number in at if number not in ends]
    if missing:
        raise UserError(
            f"no edit ends after {missing[0]} cases, so there is no checkpoint: edits end after "
            f"{', '.join(map(str, ends[:4]))}{' ...' if len(ends) > 4 else ''}, the last after {ends[-1]}"
        )


def digest(cases: Sequence[Case]) -> str:
    """SHA-256 of everything that is edited and asked."""
    said = json.dumps([[asdict(case) for case in cases]], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()
