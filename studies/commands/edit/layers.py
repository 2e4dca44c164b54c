"""`edit layers`: which layer to edit, by what editing there does, by a causal trace, and by the circuit."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import new_folder
from factscope.settings import configured
from studies.commands.app import listed, load, tell
from studies.commands.command import command, run_folder
from studies.commands.options import (
    DETAILS,
    Extra,
    ModelOptions,
    MomentsOptions,
    OneOf,
    RunOptions,
    argument,
    numbers,
    option,
)
from studies.commands.options import methods as method_names


@dataclass(frozen=True, kw_only=True)
class LayersOptions(ModelOptions, MomentsOptions, RunOptions):
    """Which layers are tried, and what is asked of them."""

    facts: Annotated[str, argument("Shipped relation, file, folder or data set.", metavar="FACTS")]
    by: Annotated[str, option("Among trace, circuit and outcome; several are compared.")] = "outcome"
    method: Annotated[str, option("The method to try them with.", of=OneOf("method", method_names))] = "rome"
    layer: Annotated[str | None, option("Layers to try, 4,5,6  [dim](default: the lower half)[/dim]")] = None
    limit: Annotated[int, option("Known facts to try with.")] = 10
    samples: Annotated[int | None, option("Of the trace, corrupted runs  [dim](default: 10)[/dim]", panel=DETAILS)] = (
        None
    )
    extra: Extra = "refuse"
    window: Annotated[int | None, option("Of the trace, layers at a time  [dim](default: 10)[/dim]", panel=DETAILS)] = (
        None
    )


@command(
    "edit layers",
    LayersOptions,
    "edit layers country_capital --layer 4,5,6,7,8",
    "edit layers counterfact.json --by trace,circuit,outcome --limit 10",
)
def layers(options: LayersOptions) -> None:
    """Measure which layer to edit, on facts that the model knows; by --by, ask tracing and circuits beside it."""
    with run_folder("edit layers", options, new_folder("layers", Path(options.facts).stem)) as folder:
        from editing.solve.values import check_layer
        from factscope.plots.page import write_page
        from factscope.runs import store
        from studies.layers import LayerConfig, layer_study
        from studies.pages import layers as pages
        from tracing.causal import Config as TraceConfig

        ways = _ways(options)
        given: dict[str, Any] = {"samples": options.samples, "window": options.window, "seed": options.seed}
        trace_config = configured(TraceConfig, flags=given)
        model = load(options)
        wanted = numbers(options.layer) if options.layer else tuple(range(model.cfg.n_layers // 2))
        for layer in wanted:
            check_layer(model, layer)
        chosen = _known(model, options)
        study = layer_study(
            model, chosen, wanted, ways, LayerConfig(options.method, trace_config, options.start, options.seed),
            moments=_moments(model, options, wanted, ways), folder=folder,
        )  # fmt: skip
        store.save(study, folder)
        page = write_page(pages.page(study), folder / "page.html", light=options.light)
    if options.as_json:
        body = pages.summary(study, ways[0]) | {"facts": len(chosen), "folder": str(folder), "page": str(page)}
        tell(json.dumps(body, ensure_ascii=False))
    else:
        tell(*_lines(study), f"Page: {page}")


def _ways(options: LayersOptions) -> tuple[str, ...]:
    from studies.layers import WAYS

    ways = listed(options.by) or ()
    if not ways or set(ways) - set(WAYS):
        raise UserError(f"--by {options.by!r}: choose among {', '.join(WAYS)}")
    return ways


def _moments(model: Any, options: LayersOptions, layers: tuple[int, ...], ways: tuple[str, ...]) -> Any:
    """Second moments of the layers, where edits are tried and want them."""
    from editing.solve.moments import Config, collect

    if "outcome" not in ways or options.moments == "identity":
        return None
    tokens = options.tokens or Config.tokens
    config = Config(source=options.moments, seed=options.seed, start=options.start, tokens=tokens)
    return collect(model, layers, config)


def _known(model: Any, options: LayersOptions) -> Any:
    """Known facts with all that a mark needs."""
    from editing.requests import known
    from factscope.data.load import load_facts

    whole = [
        f
        for f in load_facts(options.facts, on_bad="skip", extra=options.extra)
        if f.foil and f.paraphrases and f.neighbours
    ]
    chosen = known(model, whole, options.limit, options.start)
    if not chosen:
        raise UserError(
            f"{options.model} knows none of the facts in {options.facts} that have a foil, a paraphrase and a neighbour"
        )
    return chosen


def _lines(study: Any) -> list[str]:
    from studies.pages.layers import words

    lines = [
        f"layer {trial.layer:>3}  efficacy {trial.efficacy:.2f}  paraphrase {trial.paraphrase:.2f}  "
        f"neighbourhood {trial.neighbourhood:.2f}  unchanged {trial.unchanged:.2f}  mark {trial.mark:.3f}"
        for trial in (study.outcome.trials if study.outcome else ())
    ]
    return [*lines, *words(study)]
