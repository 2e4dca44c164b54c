"""`factscope estimate`: what traces, circuits and edits would take on a model, before it is downloaded or loaded."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated

from studies.commands.app import listed, tell
from studies.commands.cache import in_words
from studies.commands.command import command
from studies.commands.options import DTYPES, MODEL, OUTPUT, OneOf, Options, argument, models, option, starting


@dataclass(frozen=True, kw_only=True)
class EstimateOptions(Options):
    """Of which model, and what."""

    architecture: Annotated[
        str,
        argument(
            "A registry name, a Hugging Face name, or a folder with a config.json; no weights are needed.",
            metavar="MODEL",
            autocompletion=starting(models),
        ),
    ]
    verbs: Annotated[str | None, option("Of trace, eap-ig, moments, rome, memit: a,b,c  [dim](default: all)[/dim]")] = (
        None
    )
    dtype: Annotated[str, option("Precision.", panel=MODEL, of=OneOf("dtype", DTYPES))] = "float32"
    as_json: Annotated[bool, option("Print it for programs.", "--json", panel=OUTPUT)] = False


@command("estimate", EstimateOptions, "factscope estimate smollm2 --verbs eap-ig,rome")
def estimate(options: EstimateOptions) -> None:
    """Count the bytes and operations that a model would take, verb by verb, without its weights.

    The verbs run on tensors that have shapes and no numbers. A trace of a large model takes minutes to count.
    """
    from factscope.model.load import DTYPES as KINDS
    from studies.estimate import checked, described
    from studies.estimate import estimate as counts

    verbs = checked(listed(options.verbs) or ())
    sizes, costs = counts(*described(options.architecture), verbs, dtype=KINDS[options.dtype])
    if options.as_json:
        body = {"model": asdict(sizes), "dtype": options.dtype, "costs": [asdict(cost) for cost in costs]}
        tell(json.dumps(body, ensure_ascii=False))
        return
    tell(
        f"{sizes.architecture}: {sizes.parameters / 1e9:.3g} billion weights in {options.dtype}, {sizes.layers} layers "
        f"of {sizes.width}, {sizes.heads} heads, keys of {sizes.key_width}, {sizes.vocabulary} tokens"
    )
    for cost in costs:
        more = f"{in_words(cost.bytes_more)} beyond what is loaded"
        more = "with the proofs of what is assumed of it" if cost.verb == "load" else more
        tell(f"{cost.verb:<8} {in_words(cost.bytes_most):>9} at most, {more}; {cost.operations:.2e} operations")
