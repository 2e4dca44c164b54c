"""Trace many facts and average by the role of each token: the average indirect effect of Meng et al. 2022, Fig. 2.

Within a fact, the effects at all tokens of a role are averaged, so that a long subject does not weigh more than a short
one; then over facts. Intervals are percentile bootstraps over subjects (2,000 resamples, 95 %), from five on: facts of
one subject are drawn together, and the noise draws within a fact are no sample. They are of each layer by itself;
that a peak is at this layer and not at another is a question of its own, which the page answers by the same bootstrap.

Facts that the model does not know, or that the corruption does not hurt, are skipped with their reason; they are part
of the result. A run that was stopped goes on (`tracing.sweep`).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from factscope.data.fact import Fact
from factscope.errors import NoGap, PromptError, UserError
from factscope.model.bridge import Bridge
from factscope.model.metrics import metric
from factscope.model.prompts import ROLES, Prompt, prompt_of
from factscope.runs.journal import Journal
from factscope.runs.provenance import Run, stopwatch
from factscope.statistics import percentile_bootstrap
from tracing.causal import Config, cells_of, trace
from tracing.corruption import swap
from tracing.results import AverageResult, TraceResult
from tracing.sweep import Line, Sweep, floats, plain, swept, unknown, work_of


def average(
    model: Bridge,
    facts: Sequence[Fact],
    config: Config = Config(),
    sweep: Sweep = Sweep(),
    *,
    journal: str | Path,
    shown: bool | None = None,
    traced: Callable[[TraceResult], None] | None = None,
) -> AverageResult:
    """Trace each fact's answer and average. Subjects to swap in are others of the fact's relation among `facts`.

    `journal` is a file to go on from; `shown` as in `factscope.progress`; `traced` is given every fresh trace.

    Raises UserError if no fact could be traced, StoreError if the journal belongs to other work.
    """
    if sweep.shard is not None:
        raise UserError(f"shard {sweep.shard} of the facts has no average of its own: merge the shards first")
    with stopwatch() as seconds:
        done, skipped = trace_each(model, facts, config, sweep, journal=journal, shown=shown, traced=traced)
    per_fact = torch.tensor([floats(line["effects"]) for line in done])
    names = {fact.id: fact.subject for fact in facts}
    subjects = tuple(names[line["id"]] for line in done)
    mean, low, high = percentile_bootstrap(per_fact, config.stream, subjects)
    numbers = {name: torch.tensor([line[name] for line in done]) for name in ("clean", "corrupted", "total")}
    return AverageResult(
        source=sweep.source,
        settings=asdict(config) | sweep.settings(),
        metric=config.metric,
        unit=metric(config.metric).unit,
        roles=ROLES,
        kinds=config.sites,
        facts=tuple(line["id"] for line in done),
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


def trace_each(
    model: Bridge,
    facts: Sequence[Fact],
    config: Config = Config(),
    sweep: Sweep = Sweep(),
    *,
    journal: str | Path,
    shown: bool | None = None,
    traced: Callable[[TraceResult], None] | None = None,
) -> tuple[list[Line], dict[str, str]]:
    """Write the journal of an average or of a shard; the lines of facts that are done, and why others are left out.

    Arguments and errors as those of `average`.
    """
    if "head" in config.sites:
        raise UserError("averages are of layers by roles; heads have a further axis, so leave --sites head out")
    work = work_of("average trace", model, facts, asdict(config), sweep)

    piece = partial(_piece, facts=facts, config=config, sweep=sweep, whole=traced is not None)
    with Journal(journal, work) as log:
        return swept(model, facts, sweep, log, piece, shown, traced or (lambda _: None))


def by_role(effect: Float[Tensor, "layer pos"], prompt: Prompt) -> Float[Tensor, "layer role"]:
    """Mean effect over the tokens of each role, in the order of `ROLES`; NaN where the prompt has none."""
    roles = np.array(prompt.roles())
    columns = [effect[:, torch.from_numpy(np.flatnonzero(roles == role))].mean(1) for role in ROLES]
    return torch.stack(columns, 1)


def _piece(
    model: Bridge, fact: Fact, *, facts: Sequence[Fact], config: Config, sweep: Sweep, whole: bool
) -> tuple[Line, TraceResult | None]:
    """One fact's line of the journal; and its trace, where that is wanted `whole`."""
    try:
        prompt = prompt_of(model, fact, start=sweep.start)
        if why := unknown(model, prompt, sweep):
            return {"id": fact.id, "skipped": why}, None
        corruption = None
        if config.corruption == "swap" and not config.swaps:
            relation = [other for other in facts if other.relation == fact.relation]
            corruption = swap(model, prompt, config.samples, config.stream, relation=relation)
        result = trace(model, prompt, config, corruption=corruption)
    except (NoGap, PromptError) as trouble:
        return {"id": fact.id, "skipped": f"{type(trouble).__name__}: {trouble}"}, None
    effects = [by_role(result.grid(kind).effect, prompt).tolist() for kind in config.sites]
    line = {
        "id": fact.id,
        "clean": float(result.clean.mean()),
        "corrupted": float(result.corrupted.mean()),
        "total": result.total_effect,
        "effects": plain(effects),
        "cells": cells_of(model, prompt, config),
    }
    return line, result if whole else None
