"""`edit layers`: which layer to edit, by what editing there does, by a causal trace, and by the circuit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import new_folder
from factscope.settings import configured
from studies.commands.app import listed, load, tell_result
from studies.commands.command import command, run_folder
from studies.commands.options import (
    DETAILS,
    EditorsOptions,
    Extra,
    ModelOptions,
    MomentsOptions,
    OneOf,
    RunOptions,
    WorkersOptions,
    argument,
    numbers,
    option,
)
from studies.commands.options import methods as method_names


@dataclass(frozen=True, kw_only=True)
class LayersOptions(ModelOptions, MomentsOptions, EditorsOptions, WorkersOptions, RunOptions):
    """Which layers are tried, and what is asked of them."""

    facts: Annotated[str, argument("Shipped relation, file, folder or data set.", metavar="FACTS")]
    by: Annotated[str, option("Among trace, circuit and outcome; several are compared.")] = "outcome"
    method: Annotated[str, option("The method to try them with.", of=OneOf("method", method_names))] = "rome"
    layer: Annotated[
        str | None, option("Layers to try, 4,5,6  [dim](default: the lower half; with editors, theirs)[/dim]")
    ] = None
    limit: Annotated[int, option("Known facts to try with.")] = 10
    samples: Annotated[int | None, option("Corrupted runs of the trace  [dim](default: 10)[/dim]", panel=DETAILS)] = (
        None
    )
    extra: Extra = "refuse"
    window: Annotated[int | None, option("Layers restored at a time  [dim](default: 10)[/dim]", panel=DETAILS)] = None


@command(
    "edit layers",
    LayersOptions,
    "edit layers country_capital --layer 4,5,6,7,8",
    "edit layers counterfact.json --by trace,circuit,outcome --limit 10",
)
def layers(options: LayersOptions) -> None:
    """Measure which layer to edit, on facts that the model knows; by --by, ask tracing and circuits beside it."""
    with run_folder("edit layers", options, new_folder("layers", Path(options.facts).stem)) as folder:
        from editing.method import method
        from editing.solve.values import check_layer
        from studies.edit import moments_at
        from studies.layers import LayerConfig, complete_facts, layer_study
        from studies.saved import save_with_page
        from tracing.causal import Config as TraceConfig

        ways, crew = _ways(options), options.crew()
        how_edited, own = _method(options, ways)
        given: dict[str, Any] = {"samples": options.samples, "window": options.window, "seed": options.seed}
        trace_config = configured(TraceConfig, flags=given)
        model = load(options)
        layers = numbers(options.layer) if options.layer else own or tuple(range(model.cfg.n_layers // 2))
        for layer in layers:
            check_layer(model, layer)
        chosen = complete_facts(model, options.facts, options.limit, options.start, options.extra)
        stats = None
        if "outcome" in ways and method(options.method).needs_moments:
            stats = moments_at(model, layers, options.moments, options.tokens, options.seed, options.start)
        how = LayerConfig(how_edited, trace_config, options.start, options.seed, crew)
        study = layer_study(model, chosen, layers, ways, how, moments=stats, folder=folder)
        page = save_with_page(study, folder, options.light)
    tell_result(study, page, options, folder=str(folder))


def _ways(options: LayersOptions) -> tuple[str, ...]:
    from studies.layers import WAYS

    ways = listed(options.by) or ()
    if not ways or set(ways) - set(WAYS):
        raise UserError(f"--by {options.by!r}: choose among {', '.join(WAYS)}")
    return ways


def _method(options: LayersOptions, ways: tuple[str, ...]) -> tuple[Any, tuple[int, ...]]:
    """What edits are made by, and the layers that editors were trained for; refused before a model is loaded."""
    from editing.layer_trials import LayerEditors, untrained
    from editing.method import method

    if "outcome" not in ways and not options.editor:
        return options.method, ()
    if not options.editor:
        untrained(method(options.method))
        return options.method, ()
    given = LayerEditors(options.loaded(), options.allow_trained)
    if given.method.name != options.method:
        raise UserError(f"the editors are of {given.method.name}, and --method is {options.method}")
    return given, tuple(sorted(given.by_layer))
