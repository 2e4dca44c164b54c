"""`edit layers`: which layer to edit, by what editing there does, by a causal trace, and by the circuit."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from factscope.errors import UserError
from factscope.runs.folders import new_folder, writable
from factscope.settings import configured
from studies.commands import app as common
from studies.commands.app import tell
from studies.commands.options import Device, Dtype, Json, Model, MomentsFrom, Out, Seed, Start, Tokens, numbers

EXAMPLES = """[bold]Examples[/bold]

edit layers country_capital --layer 4,5,6,7,8

edit layers counterfact.json --by trace,circuit,outcome --limit 10
"""


def layers(
    facts: Annotated[str, typer.Argument(help="Shipped relation, file, folder or data set.")],
    by: Annotated[str, typer.Option(help="Among trace, circuit and outcome; several are compared.")] = "outcome",
    method: Annotated[str, typer.Option(help="The method to try them with.")] = "rome",
    layer: Annotated[
        str | None, typer.Option(help="Layers to try, 4,5,6  [dim](default: the lower half)[/dim]")
    ] = None,
    limit: Annotated[int, typer.Option(help="Known facts to try with.")] = 10,
    samples: Annotated[int | None, typer.Option(help="Of the trace, corrupted runs  [dim](default: 10)[/dim]")] = None,
    window: Annotated[int | None, typer.Option(help="Of the trace, layers at a time  [dim](default: 10)[/dim]")] = None,
    moments: MomentsFrom = "self",
    tokens: Tokens = None,
    model: Model = "smollm2",
    seed: Seed = 0,
    start: Start = "auto",
    device: Device = None,
    dtype: Dtype = "float32",
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure which layer to edit, on facts that the model knows; by --by, ask tracing and circuits beside it."""
    ways = common.listed(by) or ()
    with writable(out or new_folder("layers", Path(facts).stem)) as folder:
        from editing.solve.moments import Config, collect
        from editing.solve.values import check_layer
        from factscope.plots.page import write_page
        from factscope.runs import store
        from studies.layers import WAYS, in_words, layer_study, layer_study_page
        from tracing.causal import Config as TraceConfig

        if not ways or set(ways) - set(WAYS):
            raise UserError(f"--by {by!r}: choose among {', '.join(WAYS)}")
        given: dict[str, Any] = {"samples": samples, "window": window, "seed": seed}
        trace_config = configured(TraceConfig, given)
        loaded = common.loader(model, device, dtype)()
        wanted = numbers(layer) if layer else tuple(range(loaded.cfg.n_layers // 2))
        for one in wanted:
            check_layer(loaded, one)
        chosen = _known(loaded, facts, limit, start, model)
        stats = None
        if "outcome" in ways and moments != "identity":
            config = Config(source=moments, seed=seed, tokens=tokens or Config.tokens)
            stats = collect(loaded, wanted, config)
        study = layer_study(
            loaded, chosen, wanted, ways, method=method, moments=stats, trace_config=trace_config, folder=folder,
            start=start, seed=seed,
        )  # fmt: skip
        store.save(study, folder)
        page = write_page(layer_study_page(study), folder / "page.html")
    trials = study.outcome.trials if study.outcome else ()
    if as_json:
        body: dict[str, Any] = {"best": study.best(ways[0]), "facts": len(chosen), "layers": study.layers}
        body |= {"trials": [asdict(trial) for trial in trials], "measures": [asdict(one) for one in study.measures]}
        agreements = [
            {key: None if value != value else value for key, value in asdict(one).items()} for one in study.agreements
        ]
        body |= {"agreements": agreements, "folder": str(folder), "page": str(page)}
        tell(json.dumps(body, ensure_ascii=False))
        return
    for trial in trials:
        tell(
            f"layer {trial.layer:>3}  efficacy {trial.efficacy:.2f}  paraphrase {trial.paraphrase:.2f}  "
            f"neighbourhood {trial.neighbourhood:.2f}  unchanged {trial.unchanged:.2f}  mark {trial.mark:.3f}"
        )
    tell(*in_words(study), f"Page: {page}")


def _known(model: Any, source: str, limit: int, start: str, name: str) -> Any:
    """Known facts with all that a mark needs."""
    from editing.requests import known
    from factscope.data.load import load_facts

    whole = [f for f in load_facts(source, on_bad="skip") if f.foil and f.paraphrases and f.neighbours]
    chosen = known(model, whole, limit, start)
    if not chosen:
        raise UserError(f"{name} knows none of the facts in {source} that have a foil, a paraphrase and a neighbour")
    return chosen
