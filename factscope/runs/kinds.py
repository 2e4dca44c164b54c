"""What a run folder holds, in a reader's words and not by the name of a class."""

_WORDS = {
    "AverageResult": "a trace of many facts",
    "Bench": "a bench",
    "Circuit": "a circuit",
    "CircuitDiff": "a comparison of circuits",
    "CircuitStudy": "a circuit",
    "Edit": "an edit",
    "EditReport": "the scores of an edit",
    "EditScores": "the scores of an edit",
    "EditStudy": "what an edit changed inside",
    "FlowAverage": "the flow of information of many facts",
    "FlowResult": "the flow of information to an answer",
    "HopStudy": "who answers the second hop after an edit",
    "LayerChoice": "a trial of layers",
    "LayerStudy": "a trial of layers",
    "LensResult": "a logit lens",
    "LensesResult": "lenses side by side",
    "LocatingStudy": "whether locating finds the fact",
    "Moments": "second moments",
    "NeuronResult": "the neurons of a fact",
    "PatchscopeResult": "what a state says in another prompt",
    "PathEffects": "direct path patching",
    "Profile": "several circuits averaged by layer",
    "RelationResult": "a relation as a linear map",
    "RelationTable": "circuits of many relations",
    "RoleCircuit": "a circuit by token roles",
    "RoundTrip": "edits made and taken back",
    "ScorerErrors": "scorers of edges beside exact cuts",
    "SequenceOrders": "a sequence of edits in several orders",
    "SequenceResult": "a sequence of edits",
    "Survey": "methods by sets, as in the survey of editing",
    "TaskReport": "a report of lm-eval",
    "TraceResult": "a trace",
    "TraceStudy": "a trace",
    "Track": "methods on the circuit track of MIB",
    "Trained": "a trained editor",
    "WeightMaps": "what edits change in the weights",
}


def named(kind: str) -> str:
    """A kind of result with its article."""
    return _WORDS.get(kind, f"{'an' if kind[:1] in 'AEIOU' else 'a'} {kind}")


def shown_by(kind: str, folder: object) -> str:
    """The end of a sentence about a result of another kind: the command that shows it, if there is one."""
    return f"; trace show {folder} draws it" if kind in _WORDS and kind != "Moments" else ""
