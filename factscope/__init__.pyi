"""The face for editors and type checkers; a test reads that it names what the table in __init__.py names."""

from circuits.analysis.diff import diff as diff_circuits
from circuits.analysis.head_roles import roles
from circuits.analysis.paths import PathEffects, path_patch
from circuits.analysis.scorer_errors import ScorerErrors, scorer_errors
from circuits.by_role.circuit import RoleCircuit
from circuits.circuit import Circuit
from circuits.graph import Graph
from circuits.scorers.atp_star import AtPStar
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG
from circuits.scorers.exact import Exact
from circuits.scorers.relp import RelP
from circuits.search.acdc import ACDC
from circuits.task import Task
from editing.edit import Edit, applied
from editing.evaluation.evaluate import EditReport, evaluate
from editing.evaluation.protocol import protocol
from editing.export.adapter import export_adapter
from editing.export.folder import export, plain_model
from editing.requests import known
from editing.sequence.result import Config as SequenceConfig
from editing.sequence.result import SequenceResult
from editing.sequence.seeds import Orders, SequenceOrders
from editing.sequence.yardstick import Config as YardstickConfig
from editing.sequence.yardstick import yardstick
from editing.solve.corpus import Config as MomentsConfig
from editing.solve.moments import Moments
from editing.trained.editor import Trained
from editing.trained.train import train_editor
from editing.weights.maps import weight_maps
from factscope.data.case import Case
from factscope.data.fact import Fact
from factscope.data.load import load_cases, load_facts
from factscope.data.request import EditRequest
from factscope.errors import UserError
from factscope.model.bridge import info
from factscope.model.load import load as load_model
from factscope.model.prompts import Prompt, prompt_of
from factscope.model.prompts import make_prompt as prompt
from factscope.model.weights import fingerprint
from factscope.plots.show import page_of as page
from factscope.plots.show import pictures
from factscope.plots.specs import Table
from factscope.results.hub import download
from factscope.results.trackers import log
from factscope.runs.store import header
from factscope.runs.workers import Workers
from studies.bench.bench import Bench, bench
from studies.bench.page import markdown
from studies.by_role import by_role_facts, by_role_prompt
from studies.by_role import circuit_by_role as find_circuit_by_role
from studies.circuit import CircuitStudy
from studies.circuit_inputs import TaskOptions, about_facts, about_prompt
from studies.cite import cite
from studies.edit_effects.model_state import Config as DiffConfig
from studies.edit_effects.result import EditStudy
from studies.face import (
    diff,
    edit,
    edit_back,
    evaluate_circuit,
    find_circuit,
    flow,
    generate,
    moments,
    request,
    sequence,
    sequences,
    survey,
    trace,
)
from studies.saved import load, save, write_page
from studies.tables.locating import LocatingStudy, locating
from studies.tables.round_trip import RoundTrip
from studies.tables.survey import Survey
from tracing.average import average
from tracing.causal import Config as TraceConfig
from tracing.flow.average import average_flow
from tracing.flow.knockout import FlowConfig
from tracing.flow.results import FlowAverage, FlowResult
from tracing.logit_lens import lens
from tracing.neurons import Config as NeuronConfig
from tracing.neurons import neurons
from tracing.results import AverageResult, LensResult, NeuronResult, TraceResult
from tracing.states.jacobian_lens import JacobianConfig, JacobianLens, jacobian_lens
from tracing.states.lenses import lenses
from tracing.states.linear_relation import RelationConfig, linear_relation
from tracing.states.patchscope import PatchscopeConfig, patchscope
from tracing.states.results import LensesResult, PatchscopeResult, RelationResult
from tracing.states.tuned_lens import TunedConfig, TunedLens, tuned_lens
from tracing.sweep import Sweep

__version__: str
__all__ = [
    "ACDC",
    "EAP",
    "EAPIG",
    "AtPStar",
    "AverageResult",
    "Bench",
    "Case",
    "Circuit",
    "CircuitStudy",
    "DiffConfig",
    "Edit",
    "EditReport",
    "EditRequest",
    "EditStudy",
    "Exact",
    "Fact",
    "FlowAverage",
    "FlowConfig",
    "FlowResult",
    "Graph",
    "JacobianConfig",
    "JacobianLens",
    "LensResult",
    "LensesResult",
    "LocatingStudy",
    "Moments",
    "MomentsConfig",
    "NeuronConfig",
    "NeuronResult",
    "Orders",
    "PatchscopeConfig",
    "PatchscopeResult",
    "PathEffects",
    "Prompt",
    "RelP",
    "RelationConfig",
    "RelationResult",
    "RoleCircuit",
    "RoundTrip",
    "ScorerErrors",
    "SequenceConfig",
    "SequenceOrders",
    "SequenceResult",
    "Survey",
    "Sweep",
    "Table",
    "Task",
    "TaskOptions",
    "TraceConfig",
    "TraceResult",
    "Trained",
    "TunedConfig",
    "TunedLens",
    "UserError",
    "Workers",
    "YardstickConfig",
    "__version__",
    "about_facts",
    "about_prompt",
    "applied",
    "average",
    "average_flow",
    "bench",
    "by_role_facts",
    "by_role_prompt",
    "cite",
    "diff",
    "diff_circuits",
    "download",
    "edit",
    "edit_back",
    "evaluate",
    "evaluate_circuit",
    "export",
    "export_adapter",
    "find_circuit",
    "find_circuit_by_role",
    "fingerprint",
    "flow",
    "generate",
    "header",
    "info",
    "jacobian_lens",
    "known",
    "lens",
    "lenses",
    "linear_relation",
    "load",
    "load_cases",
    "load_facts",
    "load_model",
    "locating",
    "log",
    "markdown",
    "moments",
    "neurons",
    "page",
    "patchscope",
    "path_patch",
    "pictures",
    "plain_model",
    "prompt",
    "prompt_of",
    "protocol",
    "request",
    "roles",
    "save",
    "scorer_errors",
    "sequence",
    "sequences",
    "survey",
    "trace",
    "train_editor",
    "tuned_lens",
    "weight_maps",
    "write_page",
    "yardstick",
]
