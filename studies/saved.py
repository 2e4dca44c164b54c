"""A run folder as every recipe leaves it: the result, from which all can be drawn again, and its page."""

import importlib
from pathlib import Path
from typing import Any

from editing.pages.edit import scored
from factscope.errors import StoreError
from factscope.plots.page import write_page as write
from factscope.plots.show import page_of
from factscope.plots.specs import Page
from factscope.runs import store
from studies.edit import EditScores, load_edits

# The kind that a run folder names -> the class that reads it. A test finds every result that a command saves here.
KINDS = {
    "AverageResult": "tracing.results",
    "Bench": "studies.bench.bench",
    "Circuit": "circuits.circuit",
    "CircuitDiff": "circuits.analysis.diff",
    "CircuitStudy": "studies.circuit",
    "Edit": "editing.edit",
    "EditReport": "editing.evaluation.evaluate",
    "EditScores": "studies.edit",
    "EditStudy": "studies.edit_effects.result",
    "FlowAverage": "tracing.flow.results",
    "FlowResult": "tracing.flow.results",
    "HopStudy": "studies.tables.multi_hop",
    "LayerChoice": "editing.layer_trials",
    "LayerStudy": "studies.layers",
    "LensResult": "tracing.results",
    "LensesResult": "tracing.states.results",
    "LocatingStudy": "studies.tables.locating",
    "Moments": "editing.solve.moments",
    "NeuronResult": "tracing.results",
    "PatchscopeResult": "tracing.states.results",
    "PathEffects": "circuits.analysis.paths",
    "Profile": "circuits.analysis.layers",
    "RelationResult": "tracing.states.results",
    "RelationTable": "studies.tables.relations",
    "RoleCircuit": "circuits.by_role.circuit",
    "RoundTrip": "studies.tables.round_trip",
    "ScorerErrors": "circuits.analysis.scorer_errors",
    "SequenceOrders": "editing.sequence.seeds",
    "SequenceResult": "editing.sequence.result",
    "Survey": "studies.tables.survey",
    "TaskReport": "editing.evaluation.lm_eval",
    "TraceResult": "tracing.results",
    "TraceStudy": "studies.trace",
    "Track": "circuits.mib.track",
    "Trained": "editing.trained.editor",
    "WeightMaps": "editing.weights.maps",
}


def save(result: Any, folder: str | Path) -> Path:
    """Write any result into a folder, as `result.json` and `result.safetensors`; gives the folder."""
    return store.save(result, folder)


def save_with_page(result: Any, folder: str | Path, light: bool = False) -> Path:
    """Write result.json, result.safetensors and page.html into `folder`; gives the page's path."""
    store.save(result, folder)
    return write_page(result, Path(folder) / "page.html", light)


def load(folder: str | Path) -> Any:
    """Read back whatever result a folder holds. Raises StoreError for a folder that holds none, or a damaged one."""
    kind = store.header(folder)["kind"]
    if kind not in KINDS:
        raise StoreError(f"{folder} holds a {kind}, and results are one of {', '.join(KINDS)}")
    cls = getattr(importlib.import_module(KINDS[kind]), kind)
    found: Any = cls.load(folder) if hasattr(cls, "load") else store.load(folder, cls)
    return found


def write_page(result: Any, path: str | Path, light: bool = False) -> Path:
    """Write a result's page as one HTML file that works offline; a light one has its plotly beside it."""
    return write(page_of(result), path, light=light)


def saved_run(folder: str | Path) -> tuple[Any, Page]:
    """What a run folder holds, and its page: of edits that were scored the scores, and a page of both."""
    report = Path(folder) / "report"
    if not (report / store.JSON).is_file():
        result = load(folder)
        return result, page_of(result)
    scores = store.load(report, EditScores)
    return scores, scored(load_edits(Path(folder)), scores.report, scores.spectra)
