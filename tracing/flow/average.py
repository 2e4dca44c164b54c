"""The flow of information of many facts, averaged (Geva et al. 2023, Figs. 2, 4 and 6): where it passes in general.

Each fact's relative change of its answer's probability is averaged over facts, by knockout and layer, and so are the
attributes rate and which layers extract the answer. Intervals are percentile bootstraps over subjects (95 %), from five
on, each layer by itself. A run that was stopped goes on (`tracing.sweep`).
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from math import exp
from pathlib import Path
from typing import Any

import torch

from factscope.data.fact import Fact
from factscope.errors import PromptError, UserError
from factscope.model.bridge import Bridge
from factscope.model.prompts import prompt_of
from factscope.runs.journal import Journal
from factscope.runs.provenance import Run, stopwatch
from factscope.statistics import percentile_bootstrap
from tracing.flow.knockout import FlowConfig, flow
from tracing.flow.results import SOURCES, FlowAverage, FlowResult
from tracing.sweep import Line, Sweep, floats, plain, swept, unknown, work_of


def average_flow(
    model: Bridge,
    facts: Sequence[Fact],
    config: FlowConfig = FlowConfig(),
    sweep: Sweep = Sweep(),
    *,
    journal: str | Path,
    shown: bool | None = None,
) -> FlowAverage:
    """The flow to each fact's answer, averaged. Attributes of a subject are its answers among `facts`, too.

    `journal` is a file to go on from; `shown` as in `factscope.progress`.

    Raises UserError if no fact could be followed, StoreError if the journal belongs to other work.
    """
    window = config.layers(model.cfg.n_layers)
    if sweep.shard is not None:
        raise UserError(f"shard {sweep.shard} of the facts has no average of its own: merge the shards first")
    with stopwatch() as seconds:
        done, skipped = follow_each(model, facts, config, sweep, journal=journal, shown=shown)
    names = {fact.id: fact.subject for fact in facts}
    subjects = tuple(names[line["id"]] for line in done)
    grids = {name: torch.tensor([floats(line[name]) for line in done]) for name in _GRIDS}
    mean, low, high = percentile_bootstrap(grids["change"], config.seed, subjects)
    return FlowAverage(
        source=sweep.source,
        settings=asdict(config) | sweep.settings(),
        window=window,
        knockouts=_knockouts(config),
        facts=tuple(line["id"] for line in done),
        subjects=subjects,
        skipped=skipped,
        clean=torch.tensor([line["clean"] for line in done]),
        per_fact=grids["change"],
        log_per_fact=grids["log_change"],
        null_per_fact=grids["null"],
        mean=mean,
        low=low,
        high=high,
        null=grids["null"].nanmean(0),
        attributes=grids["attributes"],
        attributes_null=grids["attributes_null"],
        extracts=grids["extracts"],
        run=Run.of(model, config.seed).ended(seconds[0]),
    )


def follow_each(
    model: Bridge,
    facts: Sequence[Fact],
    config: FlowConfig = FlowConfig(),
    sweep: Sweep = Sweep(),
    *,
    journal: str | Path,
    shown: bool | None = None,
) -> tuple[list[Line], dict[str, str]]:
    """Write the journal of an average or of a shard; the lines of facts that are done, and why others are left out.

    Arguments and errors as those of `average_flow`.
    """
    work = work_of("average flow", model, facts, asdict(config), sweep)

    piece = partial(_piece, facts=facts, config=config, sweep=sweep)
    with Journal(journal, work) as log:
        return swept(model, facts, sweep, log, piece, shown)


_GRIDS = ("change", "log_change", "null", "attributes", "attributes_null", "extracts")


def _knockouts(config: FlowConfig) -> tuple[tuple[str, str], ...]:
    """Every knockout that a fact may have."""
    return tuple(product(config.targets, config.sources or SOURCES))


def _piece(model: Bridge, fact: Fact, *, facts: Sequence[Fact], config: FlowConfig, sweep: Sweep) -> tuple[Line, None]:
    """One fact's line of the journal."""
    try:
        prompt = prompt_of(model, fact, start=sweep.start)
        if why := unknown(model, prompt, sweep):
            return {"id": fact.id, "skipped": why}, None
        return {"id": fact.id} | _line(flow(model, prompt, config, pool=facts), config), None
    except PromptError as trouble:
        return {"id": fact.id, "skipped": f"{type(trouble).__name__}: {trouble}"}, None


def _line(found: FlowResult, config: FlowConfig) -> dict[str, Any]:
    """One fact's numbers, in the order of `_knockouts`; NaN where the prompt has no such tokens."""
    place = {(one.target, one.source): number for number, one in enumerate(found.knockouts)}
    nothing = torch.full((found.change.shape[1],), torch.nan)

    def rows(grid: torch.Tensor) -> Any:
        return plain([(grid[place[key]] if key in place else nothing).tolist() for key in _knockouts(config)])

    held = found.enrichment
    empty = [None] * (len(nothing) + 1)
    return {
        "clean": exp(found.clean),
        "change": rows(found.change),
        "log_change": rows(found.log_change),
        "null": rows(found.null_change.nanmean(1)),
        "attributes": empty if held is None else held.rate.tolist(),
        "attributes_null": empty if held is None else plain(held.null.tolist()),
        "extracts": found.extraction.extracts.float().tolist(),
    }
