"""Trace many facts and average by the role of each token: the average indirect effect of Meng et al. 2022, Fig. 2.

Within a fact, the effects at all tokens of a role are averaged, so that a long subject does not weigh more than a short
one; then over facts. Intervals are percentile bootstraps over subjects (2,000 resamples, 95 %), from five on: facts of
one subject are drawn together, and the noise draws within a fact are no sample. They are of each layer by itself;
that a peak is at this layer and not at another is a question of its own, which the page answers by the same bootstrap.

Every fact is journalled when it is done, with its reduced effects, and a run that was stopped takes up at the next one:
the numbers are the same as without the stop. Facts that the model does not know, or that the corruption does not hurt,
are skipped with their reason; they are part of the result.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from factscope.cache import digest
from factscope.data.fact import Fact
from factscope.errors import NoGap, PromptError, UserError
from factscope.model.bridge import Bridge
from factscope.model.forward.batched import logits_at
from factscope.model.known import Known
from factscope.model.metrics import metric
from factscope.model.prompts import ROLES, Prompt, prompt_of
from factscope.model.weights import fingerprint
from factscope.progress import progress
from factscope.runs.journal import Journal
from factscope.runs.provenance import Run, stopwatch
from factscope.statistics import percentile_bootstrap
from tracing.causal import Config, cells_of, trace
from tracing.corruption import swap
from tracing.results import AverageResult, TraceResult

KNOWN = Known()  # what --known asks for


@dataclass(frozen=True)
class Sweep:
    """Which of the facts are traced, and how they are asked."""

    known: bool = False  # only facts that the model knows, as `KNOWN` has it
    wanted: int | None = None  # stop when so many are traced; None: all
    start: str = "auto"
    source: str = ""  # what the facts are called


def average(
    model: Bridge,
    facts: Sequence[Fact],
    config: Config = Config(),
    sweep: Sweep = Sweep(),
    *,
    journal: str | Path,
    shown: bool | None = None,
    traced: Callable[[TraceResult], None] = lambda _: None,
) -> AverageResult:
    """Trace each fact's answer and average. Subjects to swap in are others of the fact's relation among `facts`.

    `journal` is a file to go on from; `shown` as in `factscope.progress`; `traced` is given every fresh trace.

    Raises UserError if no fact could be traced, StoreError if the journal belongs to other work.
    """
    if "head" in config.sites:
        raise UserError("averages are of layers by roles; heads have a further axis, so leave --sites head out")
    if not facts:
        raise UserError("there is no fact to trace")
    work = {"what": "average trace", "fingerprint": fingerprint(model), "config": asdict(config), "known": sweep.known}
    work |= {
        "start": sweep.start,
        "wanted": sweep.wanted,
        "facts": digest([replace(fact, source="") for fact in facts]),
    }
    with Journal(journal, work) as log, stopwatch() as seconds:
        _trace_all(model, facts, config, sweep, log, shown, traced)
        pieces = list(log.done)
    done = [piece for piece in pieces if "effects" in piece]
    skipped = {piece["id"]: piece["skipped"] for piece in pieces if "skipped" in piece}
    if not done:
        example = next(iter(skipped.items()))
        raise UserError(f"none of the {len(facts)} facts could be traced; the first, {example[0]}: {example[1]}")
    per_fact = torch.tensor([_floats(piece["effects"]) for piece in done])
    names = {fact.id: fact.subject for fact in facts}
    subjects = tuple(names[piece["id"]] for piece in done)
    mean, low, high = percentile_bootstrap(per_fact, config.stream, subjects)
    numbers = {name: torch.tensor([piece[name] for piece in done]) for name in ("clean", "corrupted", "total")}
    return AverageResult(
        source=sweep.source,
        settings=asdict(config) | {"known": str(KNOWN) if sweep.known else "not asked", "start": sweep.start},
        metric=config.metric,
        unit=metric(config.metric).unit,
        roles=ROLES,
        kinds=config.sites,
        facts=tuple(piece["id"] for piece in done),
        skipped=skipped,
        per_fact=per_fact,
        **numbers,
        mean=mean,
        low=low,
        high=high,
        count=(~per_fact[:, 0, 0].isnan()).sum(0),
        run=Run.of(model, config.seed).ended(seconds[0]),
        subjects=subjects,
    )


def _trace_all(
    model: Bridge,
    facts: Sequence[Fact],
    config: Config,
    sweep: Sweep,
    log: Journal,
    shown: bool | None,
    traced: Callable[[TraceResult], None],
) -> None:
    """Trace every fact that the journal does not hold, one line for each; stop when as many as wanted are traced."""
    wanted = sweep.wanted
    n_traced = sum("effects" in piece for piece in log.done)
    total, begun = (len(facts), len(log.done)) if wanted is None else (wanted, n_traced)
    with progress("tracing facts", total, begun, shown) as advance:
        for fact in facts[len(log.done) :]:
            if n_traced == wanted:
                break
            relation = [other for other in facts if other.relation == fact.relation]
            log.add(_piece(model, fact, relation, config, sweep, traced))
            fresh = "effects" in log.done[-1]
            n_traced += fresh
            advance(1 if wanted is None else int(fresh))


def by_role(effect: Float[Tensor, "layer pos"], prompt: Prompt) -> Float[Tensor, "layer role"]:
    """Mean effect over the tokens of each role, in the order of `ROLES`; NaN where the prompt has none."""
    roles = np.array(prompt.roles())
    columns = [effect[:, torch.from_numpy(np.flatnonzero(roles == role))].mean(1) for role in ROLES]
    return torch.stack(columns, 1)


def _piece(
    model: Bridge,
    fact: Fact,
    relation: Sequence[Fact],
    config: Config,
    sweep: Sweep,
    traced: Callable[[TraceResult], None],
) -> dict[str, Any]:
    """One fact's line of the journal."""
    try:
        prompt = prompt_of(model, fact, start=sweep.start)
        if sweep.known and not KNOWN.prompts(model, (prompt,)):
            (logits,) = logits_at(model, [prompt.tokens], [[len(prompt.tokens) - 1]])
            said, wanted = model.tokenizer.decode([int(logits[0].argmax())]), prompt.answer
            return {"id": fact.id, "skipped": f"not known ({KNOWN}): the model says {said!r}, the fact {wanted!r}"}
        corruption = None
        if config.corruption == "swap" and not config.swaps:
            corruption = swap(model, prompt, config.samples, config.stream, relation=relation)
        result = trace(model, prompt, config, corruption=corruption)
    except (NoGap, PromptError) as why:
        return {"id": fact.id, "skipped": f"{type(why).__name__}: {why}"}
    traced(result)
    effects = [by_role(result.grid(kind).effect, prompt).tolist() for kind in config.sites]
    return {
        "id": fact.id,
        "clean": float(result.clean.mean()),
        "corrupted": float(result.corrupted.mean()),
        "total": result.total_effect,
        "effects": [[[None if x != x else x for x in row] for row in kind] for kind in effects],  # JSON has no NaN
        "cells": cells_of(model, prompt, config),
    }


def _floats(nested: Any) -> Any:
    if isinstance(nested, list):
        return [_floats(item) for item in nested]
    return float("nan") if nested is None else float(nested)
