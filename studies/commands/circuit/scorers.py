"""`circuit scorers`: how wrong the scorers of edges are on this model and this fact, beside exact cuts."""

from dataclasses import dataclass
from typing import Annotated

from factscope.errors import UserError
from factscope.runs.folders import new_folder
from studies.commands.app import listed, load, tell_result
from studies.commands.asked import check_prompt
from studies.commands.circuit.study import tell_notes
from studies.commands.command import command, run_folder
from studies.commands.options import (
    ABLATIONS,
    CIRCUIT_METHODS,
    CIRCUIT_METRICS,
    DIRECTIONS,
    ModelOptions,
    OneOf,
    PromptOptions,
    RunOptions,
    option,
)

SCORERS = tuple(name for name in CIRCUIT_METHODS if name not in ("acdc", "exact"))


@dataclass(frozen=True, kw_only=True)
class ScorersOptions(PromptOptions, ModelOptions, RunOptions):
    """Which scorers, and on how many edges."""

    methods: Annotated[str, option(f"Scorers, with commas between: {', '.join(SCORERS)}.")] = ",".join(SCORERS)
    edges: Annotated[int, option("So many edges are drawn at random and cut one at a time.")] = 400
    swap: Annotated[
        str | None, option("The subject of the corrupt prompt  [dim](default: of the shipped facts)[/dim]")
    ] = None
    foil: Annotated[str | None, option("A wrong answer, for the logit difference.")] = None
    metric: Annotated[str, option("What an edge's cost is measured in.", of=OneOf("metric", CIRCUIT_METRICS))] = "nll"
    ablation: Annotated[str, option("What stands for a cut edge.", of=OneOf("ablation", ABLATIONS))] = "counterfactual"
    direction: Annotated[
        str,
        option("Cuts from the clean run, or clean values into the corrupt run.", of=OneOf("direction", DIRECTIONS)),
    ] = "noising"
    unknown: Annotated[bool, option("Go on with a fact whose answer is not in the top 10.", "--unknown")] = False
    split_qkv: Annotated[
        bool, option("Queries, keys and values apart, or whole heads.", "--split-qkv/--no-split-qkv")
    ] = True


@command(
    "circuit scorers",
    ScorersOptions,
    'circuit scorers "The Eiffel Tower is located in the city of" --swap "The Colosseum"',
    'circuit scorers "The Eiffel Tower is located in the city of" --methods eap,eap-ig --edges 200',
)
def scorers(options: ScorersOptions) -> None:
    """Measure how wrong the scorers of edges are: beside exact cuts of single edges, drawn at random."""
    if options.prompt is None:
        raise UserError("give a PROMPT; see circuit scorers --help")
    if options.direction == "denoising" and options.ablation != "counterfactual":
        raise UserError("denoising puts clean values into the run of the corrupt prompt: leave --ablation out")
    read = OneOf("scorer", SCORERS)
    names = [read(name) for name in listed(options.methods) or ()]
    check_prompt(options.prompt, options.subject)
    with run_folder("circuit scorers", options, new_folder("scorers", options.prompt)) as folder:
        from circuits.analysis.scorer_errors import scorer_errors
        from circuits.method import method
        from circuits.scorers.eap import EAP
        from studies import circuit as recipe
        from studies.saved import save_with_page

        compared = {name: method(name, {"direction": options.direction}) for name in names}
        how = recipe.TaskOptions(
            options.metric, options.ablation, options.start, None if options.unknown else recipe.KNOWN, False, facts=1
        )
        model = load(options)
        inputs = recipe.about_prompt(
            model, options.prompt, subject=options.subject, answer=options.answer, foil=options.foil,
            swap=options.swap, method=EAP(), options=how,
        )  # fmt: skip
        tell_notes(inputs.notes)
        found = scorer_errors(
            model, inputs.task, compared, edges=options.edges,  # type: ignore[arg-type]  # all of them are scorers
            direction=options.direction,  # type: ignore[arg-type]  # OneOf has read it
            split=options.split_qkv, seed=options.seed, told=None,
        )  # fmt: skip
        page = save_with_page(found, folder, options.light)
    tell_result(found, page, options.as_json, folder=str(folder))
