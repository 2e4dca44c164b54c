"""`circuit evaluate`: a saved circuit again, on other held-out facts or with another seed."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from factscope.errors import UserError
from studies.commands.app import load, tell_result
from studies.commands.circuit.study import RunFolder, study_of
from studies.commands.command import command, run_folder
from studies.commands.options import FACTS, Extra, RunOptions, SavedModelOptions, option


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(SavedModelOptions, RunOptions):
    """Which circuit, and on what."""

    run: RunFolder
    facts: Annotated[str | None, option("Held-out facts: shipped relation, file, folder.", panel=FACTS)] = None
    relation: Annotated[str | None, option("Only this relation (with --facts).", panel=FACTS)] = None
    extra: Extra = "refuse"


@command(
    "circuit evaluate",
    EvaluateOptions,
    "circuit evaluate runs/one --facts landmark_city",
    "circuit evaluate runs/one",
)
def evaluate(options: EvaluateOptions) -> None:
    """Evaluate a circuit again, on other held-out facts or with another seed."""
    from studies.circuit import evaluated
    from studies.circuit_inputs import other_prompts
    from studies.saved import save_with_page

    study = study_of(options.run)
    with run_folder("circuit evaluate", options, options.run, name="evaluate.yaml") as folder:
        model = load(with_model_of(study, options))
        prompts = other_prompts(model, study.circuit, options.facts, options.relation, options.extra)
        study = evaluated(model, study, prompts, options.seed)
        page = save_with_page(study, folder, options.light)
    tell_result(study, page, options)


def with_model_of(study: Any, options: EvaluateOptions) -> EvaluateOptions:
    """The options with the study's model, where no other is asked for."""
    from factscope.model.source.registry import REGISTRY

    known = study.circuit.run
    source = None if known is None else known.model if known.model in REGISTRY else known.source
    if options.model is None and source in (None, "", "unknown"):
        raise UserError(f"{options.run} does not say which model it is of; name it with --model")
    dtype = options.dtype or (known.dtype if known is not None else "float32")
    return replace(options, model=options.model or source, dtype=dtype)
