"""Factscope: trace a fact in a language model, find its circuit, edit it, and see what changed.

    import factscope as fs

    model = fs.load_model("smollm2")
    prompt = fs.prompt(model, "[The Eiffel Tower] is located in the city of", answer="Paris")
    fs.trace(model, prompt)

What a researcher needs is named in this file, and everything else is inside. A name is imported when it is first used,
so that `import factscope` costs nothing and brings no torch; `__init__.pyi` says the same to editors and type checkers.
"""

import importlib
import warnings
from typing import Any

__version__ = "0.1.0"

# tqdm, which libraries bring along, asks for widgets in a notebook; our progress needs none (factscope/progress.py).
warnings.filterwarnings("ignore", message="IProgress not found")

_PLACES = {
    # the model, prompts and facts
    "load_model": "factscope.model.load:load",
    "info": "factscope.model.bridge:info",
    "fingerprint": "factscope.model.weights:fingerprint",
    "prompt": "factscope.model.prompts:make_prompt",
    "prompt_of": "factscope.model.prompts:prompt_of",
    "load_facts": "factscope.data.load:load_facts",
    "load_cases": "factscope.data.load:load_cases",
    "known": "editing.requests:known",
    "Prompt": "factscope.model.prompts:Prompt",
    "Fact": "factscope.data.fact:Fact",
    "Case": "factscope.data.case:Case",
    # where does it happen?
    "trace": "studies.face:trace",
    "average": "tracing.average:average",
    "lens": "tracing.logit_lens:lens",
    "flow": "studies.face:flow",
    "average_flow": "tracing.flow.average:average_flow",
    "neurons": "tracing.neurons:neurons",
    "patchscope": "tracing.states.patchscope:patchscope",
    "jacobian_lens": "tracing.states.jacobian_lens:jacobian_lens",
    "tuned_lens": "tracing.states.tuned_lens:tuned_lens",
    "lenses": "tracing.states.lenses:lenses",
    "linear_relation": "tracing.states.linear_relation:linear_relation",
    "TraceConfig": "tracing.causal:Config",
    "NeuronConfig": "tracing.neurons:Config",
    "Sweep": "tracing.sweep:Sweep",
    "TraceResult": "tracing.results:TraceResult",
    "AverageResult": "tracing.results:AverageResult",
    "LensResult": "tracing.results:LensResult",
    "FlowConfig": "tracing.flow.knockout:FlowConfig",
    "FlowResult": "tracing.flow.results:FlowResult",
    "FlowAverage": "tracing.flow.results:FlowAverage",
    "NeuronResult": "tracing.results:NeuronResult",
    "PatchscopeConfig": "tracing.states.patchscope:PatchscopeConfig",
    "PatchscopeResult": "tracing.states.results:PatchscopeResult",
    "JacobianConfig": "tracing.states.jacobian_lens:JacobianConfig",
    "JacobianLens": "tracing.states.jacobian_lens:JacobianLens",
    "TunedConfig": "tracing.states.tuned_lens:TunedConfig",
    "TunedLens": "tracing.states.tuned_lens:TunedLens",
    "LensesResult": "tracing.states.results:LensesResult",
    "RelationConfig": "tracing.states.linear_relation:RelationConfig",
    "RelationResult": "tracing.states.results:RelationResult",
    # what computes it?
    "find_circuit": "studies.face:find_circuit",
    "evaluate_circuit": "studies.face:evaluate_circuit",
    "roles": "circuits.analysis.head_roles:roles",
    "scorer_errors": "circuits.analysis.scorer_errors:scorer_errors",
    "locating": "studies.tables.locating:locating",
    "path_patch": "circuits.analysis.paths:path_patch",
    "diff_circuits": "circuits.analysis.diff:diff",
    "about_prompt": "studies.circuit_inputs:about_prompt",
    "about_facts": "studies.circuit_inputs:about_facts",
    "by_role_prompt": "studies.by_role:by_role_prompt",
    "by_role_facts": "studies.by_role:by_role_facts",
    "find_circuit_by_role": "studies.by_role:circuit_by_role",
    "ACDC": "circuits.search.acdc:ACDC",
    "AtPStar": "circuits.scorers.atp_star:AtPStar",
    "EAP": "circuits.scorers.eap:EAP",
    "EAPIG": "circuits.scorers.eap_ig:EAPIG",
    "RelP": "circuits.scorers.relp:RelP",
    "Exact": "circuits.scorers.exact:Exact",
    "Task": "circuits.task:Task",
    "TaskOptions": "studies.circuit_inputs:TaskOptions",
    "Graph": "circuits.graph:Graph",
    "Circuit": "circuits.circuit:Circuit",
    "ScorerErrors": "circuits.analysis.scorer_errors:ScorerErrors",
    "LocatingStudy": "studies.tables.locating:LocatingStudy",
    "PathEffects": "circuits.analysis.paths:PathEffects",
    "CircuitStudy": "studies.circuit:CircuitStudy",
    "RoleCircuit": "circuits.by_role.circuit:RoleCircuit",
    # what if it were otherwise?
    "request": "studies.face:request",
    "moments": "studies.face:moments",
    "edit": "studies.face:edit",
    "edit_back": "studies.face:edit_back",
    "survey": "studies.face:survey",
    "train_editor": "editing.trained.train:train_editor",
    "evaluate": "editing.evaluation.evaluate:evaluate",
    "diff": "studies.face:diff",
    "sequence": "studies.face:sequence",
    "sequences": "studies.face:sequences",
    "yardstick": "editing.sequence.yardstick:yardstick",
    "bench": "studies.bench.bench:bench",
    "protocol": "editing.evaluation.protocol:protocol",
    "markdown": "studies.bench.page:markdown",
    "applied": "editing.edit:applied",
    "generate": "studies.face:generate",
    "export": "editing.export.folder:export",
    "export_adapter": "editing.export.adapter:export_adapter",
    "weight_maps": "editing.weights.maps:weight_maps",
    "plain_model": "editing.export.folder:plain_model",
    "MomentsConfig": "editing.solve.corpus:Config",
    "SequenceConfig": "editing.sequence.result:Config",
    "Orders": "editing.sequence.seeds:Orders",
    "YardstickConfig": "editing.sequence.yardstick:Config",
    "DiffConfig": "studies.edit_effects.model_state:Config",
    "EditRequest": "factscope.data.request:EditRequest",
    "Moments": "editing.solve.moments:Moments",
    "Edit": "editing.edit:Edit",
    "Trained": "editing.trained.editor:Trained",
    "EditReport": "editing.evaluation.evaluate:EditReport",
    "EditStudy": "studies.edit_effects.result:EditStudy",
    "RoundTrip": "studies.tables.round_trip:RoundTrip",
    "Survey": "studies.tables.survey:Survey",
    "SequenceOrders": "editing.sequence.seeds:SequenceOrders",
    "SequenceResult": "editing.sequence.result:SequenceResult",
    "Bench": "studies.bench.bench:Bench",
    # what is kept and shown
    "Workers": "factscope.runs.workers:Workers",
    "save": "studies.saved:save",
    "load": "studies.saved:load",
    "header": "factscope.runs.store:header",
    "cite": "studies.cite:cite",
    "page": "factscope.plots.show:page_of",
    "write_page": "studies.saved:write_page",
    "log": "factscope.results.trackers:log",
    "download": "factscope.results.hub:download",
    "pictures": "factscope.plots.show:pictures",
    "Table": "factscope.plots.specs:Table",
    "UserError": "factscope.errors:UserError",
}  # fmt: skip

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    """The thing of that name, imported now; a call checks what it is given (factscope/arguments.py)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'factscope' has no attribute {name!r}")
    module, _, inside = _PLACES[name].partition(":")
    found = getattr(importlib.import_module(module), inside)
    if type(found).__name__ == "function":
        arguments = importlib.import_module("factscope.arguments")
        bridge = importlib.import_module("factscope.model.bridge")
        found = arguments.checked(found, f"fs.{name}", {"Bridge": bridge.info})
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The names of the face."""
    return sorted(__all__)
