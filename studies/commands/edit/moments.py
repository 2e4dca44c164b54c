"""`edit moments`: second moments of ordinary keys, collected beforehand."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from studies.commands.app import load, tell
from studies.commands.command import command
from studies.commands.options import OUTPUT, AsJson, Layer, ModelOptions, Seed, argument, numbers, option


@dataclass(frozen=True, kw_only=True)
class CollectOptions(ModelOptions):
    """Of which text, at which layers."""

    source: Annotated[
        str, argument("shipped, self, a text file, a folder, or a Hugging Face data set.", metavar="SOURCE")
    ] = "shipped"
    layer: Layer = None
    tokens: Annotated[int | None, option("Tokens of text  [dim](default: 8 for each key dimension)[/dim]")] = None
    seed: Seed = 0
    out: Annotated[Path | None, option("Where to keep them  [dim](default: the cache)[/dim]", panel=OUTPUT)] = None
    as_json: AsJson = False


@command(
    "edit moments",
    CollectOptions,
    "edit moments",
    "edit moments corpus.txt --layer 4,5,6 --tokens 100000",
    bare=True,
)
def moments(options: CollectOptions) -> None:
    """Collect second moments of ordinary keys; done before, they are only shown. An interrupted one goes on."""
    from editing.solve.corpus import Config
    from editing.solve.moments import collect
    from editing.solve.values import check_layer
    from factscope.model.bridge import info

    model = load(options)
    wanted = numbers(options.layer) if options.layer else info(model).edit_layers
    for layer in wanted:
        check_layer(model, layer)
    config = Config(options.source, options.tokens, seed=options.seed, start=options.start)
    found = collect(model, wanted, config, folder=options.out)
    if options.as_json:
        body = {"layers": list(found.matrices), "tokens": found.tokens, "left_out": found.left_out}
        body |= {"corpus": found.corpus, "changes": found.changes, "conditions": found.conditions}
        tell(json.dumps(body))
        return
    tell(f"{found.tokens} tokens counted, {found.left_out} at position 0 left out; corpus {found.corpus[:12]}")
    for name, changes in found.changes.items():
        moved = ", ".join(f"{change:.1%}" for change in changes) or "not measured"
        tell(f"layer {name:>3}  condition {found.conditions[name]:.3g}  an update's direction still moved by {moved}")
