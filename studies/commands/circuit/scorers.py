"""`circuit scorers`: how wrong the scorers of edges are on this model and this fact, beside exact cuts."""

from dataclasses import dataclass
from typing import Annotated

from factscope.runs.folders import new_folder
from studies.commands.app import listed, load, tell_result
from studies.commands.circuit.study import ExchangeOptions
from studies.commands.command import command, run_folder
from studies.commands.options import CIRCUIT_METHODS, OneOf, RunOptions, option

SCORERS = tuple(name for name in CIRCUIT_METHODS if name not in ("acdc", "exact"))


@dataclass(frozen=True, kw_only=True)
class ScorersOptions(ExchangeOptions, RunOptions):
    """Which scorers, and on how many edges."""

    methods: Annotated[str, option(f"Scorers, with commas between: {', '.join(SCORERS)}.")] = ",".join(SCORERS)
    edges: Annotated[int, option("So many edges are drawn at random and cut one at a time.")] = 400


@command(
    "circuit scorers",
    ScorersOptions,
    'circuit scorers "The Eiffel Tower is located in the city of" --swap "The Colosseum"',
    'circuit scorers "The Eiffel Tower is located in the city of" --methods eap,eap-ig --edges 200',
)
def scorers(options: ScorersOptions) -> None:
    """Measure how wrong the scorers of edges are: beside exact cuts of single edges, drawn at random."""
    text = options.asked("circuit scorers")
    read = OneOf("scorer", SCORERS)
    names = [read(name) for name in listed(options.methods) or ()]
    with run_folder("circuit scorers", options, new_folder("scorers", text)) as folder:
        from circuits.analysis.scorer_errors import scorer_errors
        from circuits.method import method
        from studies.saved import save_with_page

        compared = {name: method(name, {"direction": options.direction}) for name in names}
        model = load(options)
        inputs = options.inputs(model)
        found = scorer_errors(
            model, inputs.task, compared, edges=options.edges,  # type: ignore[arg-type]  # all of them are scorers
            direction=options.direction,  # type: ignore[arg-type]  # OneOf has read it
            split=options.split_qkv, seed=options.seed, shown=None,
        )  # fmt: skip
        page = save_with_page(found, folder, options.light)
    tell_result(found, page, options, folder=str(folder))
