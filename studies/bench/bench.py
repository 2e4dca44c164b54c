"""Methods by cases under one protocol, and one table of them all: what `edit bench` runs.

What is read depends on nothing but the cases, the protocol and the seed; only seconds and memory differ from run to
run. How methods go through the cases, and go on after a stop, is in `studies/bench/run.py`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from editing.evaluation.protocol import Protocol, comparable_with
from editing.evaluation.read import Reading, Speech, TokenizedQuestion, asked_of, check_together
from editing.evaluation.reference_texts import Snippets
from editing.evaluation.table import TIMES, Score, table
from editing.method import method
from editing.solve.moments import content_of
from factscope.data.case import Case
from factscope.errors import EditError
from factscope.model.bridge import info
from factscope.progress import progress
from factscope.runs.provenance import Run, stopwatch
from factscope.settings import Settings
from studies.bench.run import MethodResult, MethodSetting, Setting, run_all


@dataclass(frozen=True)
class Bench:
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
        return {(one.method, one.metric, one.when): one for one in self.scores}[method, metric, when]


def bench(
    model: Any,
    cases: Sequence[Case],
    names: Sequence[str],
    protocol: Protocol,
    folder: str | Path,
    *,
    source: str = "",
    known: bool = False,
    settings: Mapping[str, Settings] | None = None,
    moments: str = "self",
    tokens: int | None = None,
    yardstick: Any = None,
    snippets: Snippets | None = None,
    seed: int = 0,
    start: str = "auto",
    shown: bool | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Bench:
    """Run the grid. The model is left bitwise as it was.

    Args:
        folder: where journals and edits are kept; the same call goes on from there.
        source: the file's name, for the record.
        known: whether the cases are those that the model knows, for the record.
        settings: of a method, by its name.
        yardstick: an `editing.sequence.yardstick.Yardstick`; read once all edits are in, where edits stay or there is
        one edit. moments, tokens: as in `edit apply`. snippets: reference texts, for the reference score of protocols
        that speak. say: told, before anything is edited, what of the protocol these cases cannot be asked.

    Raises EditError (unknown methods, settings or layers, cases that contradict each other in one model or have nothing
    that the scorer can read, texts longer than the model reads, whatever a method raises) and StoreError (a folder that
    holds other work).
    """
    specs = {spec.name: spec for spec in map(method, names)}
    if idle := set(settings or {}) - set(specs):
        raise EditError(f"settings are given for {', '.join(sorted(idle))}, and the methods are {', '.join(specs)}")
    configs = {name: spec.config_for(model, (settings or {}).get(name, ())) for name, spec in specs.items()}
    if protocol.speech > model.cfg.n_ctx:
        raise EditError(f"texts of {protocol.speech} tokens are asked for, and the model reads {model.cfg.n_ctx}")
    if protocol.stays or protocol.size != 1:
        check_group(cases, protocol)
    run = Run.of(model, seed)
    asked = {case.id: asked_of(model, case, start) for case in cases}
    check_scored([one for some in asked.values() for one in some], protocol, say)
    if protocol.speech and not any(case.speak for case in cases):
        say("these cases have no prompts for longer texts, so there is no fluency")
    questions = digest(cases)
    work = {
        "asked": questions,
        "protocol": asdict(protocol),
        "model": run.fingerprint,
        "moments": [content_of(moments), tokens],
        "seed": seed,
        "start": start,
        "general": None if yardstick is None else yardstick.digest,
    }
    wanted = [
        MethodSetting(specs[name], config, moments, tokens, work | {"method": name, "config": asdict(config)})
        for name, config in configs.items()
    ]
    with stopwatch() as seconds, progress("cases edited", len(cases) * len(specs), shown=shown) as advance:
        trials = run_all(Setting(model, cases, asked, protocol, Path(folder), yardstick, seed, start, advance), wanted)
    if snippets is not None:
        trials = [replace(trial, speech=likened(trial.speech, cases, snippets)) for trial in trials]
    scores = [
        score
        for trial in trials
        for score in table(trial.method, trial.rows, trial.speech, protocol.scorer, prompts=protocol.prompt_counts)
    ]
    return Bench(
        suite=cases[0].suite,
        source=source,
        cases=tuple(case.id for case in cases),
        asked=questions,
        protocol=protocol,
        start_token=start_token_of(model, start),
        moments=moments,
        trials=tuple(trials),
        scores=tuple(scores),
        left_out=sum(len(case.left_out) for case in cases),
        known=known,
        run=run.ended(seconds[0]),
    )


def start_token_of(model: Any, start: str) -> str:
    """What stands before every prompt, as a result names it."""
    return info(model).start_token or "none" if start == "auto" else start


def likened(speech: Sequence[Speech], cases: Sequence[Case], snippets: Snippets) -> tuple[Speech, ...]:
    """The texts with their likeness to the references of their case."""
    names = {case.id: case.snippets for case in cases}
    out = []
    for one in speech:
        own = [other for other in speech if other.case == one.case]
        spoken = [[text for other in own if (text := getattr(other, when)) is not None] for when in TIMES]
        out.append(replace(one, likeness=tuple(snippets.likeness(names[one.case], some) for some in spoken)))
    return tuple(out)


def check_scored(asked: Sequence[TokenizedQuestion], protocol: Protocol, say: Callable[[str], None]) -> None:
    """Raise EditError if the protocol's scorer finds nothing to score; say so if it finds nothing of the edits."""
    read = Reading(0.0, 1.0, True, 1.0, 0.0, hit=True)
    rows = [
        replace(one.row, before=replace(read, nll_other=None if one.row.other is None else 0.0), after=read)
        for one in asked
    ]
    found = {one.metric for one in table("", rows, (), protocol.scorer)}
    why = f"the scorer {protocol.scorer} needs an old answer beside the new one, and these cases do not say it"
    if not found:
        raise EditError(f"nothing can be scored: {why}; choose --scorer 'token accuracy'")
    if not found & {"ES", "reliability", "tone", "erasure"}:
        say(f"only what must stay is scored, not the edits: {why}; --scorer 'token accuracy' would")


def check_group(cases: Sequence[Case], protocol: Protocol) -> None:
    """Raise EditError if cases that are edited into one model contradict each other."""
    size = len(cases) if protocol.stays or protocol.size is None else protocol.size
    for begin in range(0, len(cases), size):
        check_together(cases[begin : begin + size])


def digest(cases: Sequence[Case]) -> str:
    """SHA-256 of everything that is edited and asked."""
    said = json.dumps([[asdict(case) for case in cases]], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()
