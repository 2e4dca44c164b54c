"""`edit sequence`: edit after edit, with checkpoints, until all are in or the model breaks; resumable at any edit."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from factscope.errors import UserError
from factscope.runs.folders import writable
from factscope.settings import configured
from studies.commands import app as common
from studies.commands.app import note, tell
from studies.commands.options import (
    Device,
    Dtype,
    Json,
    Method,
    Model,
    MomentsFrom,
    Out,
    Runs,
    Seed,
    Start,
    Tokens,
    at_layer,
    parted,
)

EXAMPLES = """[bold]Examples[/bold]

edit sequence --facts counterfact.json --known --n 200 --method rome

edit sequence --facts counterfact.json --n 500 --method memit --batch 10 --every 50 --restrain prune

edit sequence --facts counterfact.json --n 200 --stop-when "retention<0.5" --stop-when "perplexity>2"
"""


def sequence(
    facts: Annotated[str, typer.Option(help="Edit them to their foils: shipped relation, file, folder or data set.")],
    n: Annotated[int, typer.Option(help="Facts to edit, at most.")] = 200,
    method: Method = "rome",
    layer: Annotated[str | None, typer.Option(help="Layer, or layers 4,5,6  [dim](default: the model's)[/dim]")] = None,
    relation: Annotated[str | None, typer.Option(help="Of --facts, only this relation.")] = None,
    known: Annotated[bool, typer.Option("--known", help="Of --facts, only those that the model knows.")] = False,
    batch: Annotated[int, typer.Option(help="Facts of one edit.")] = 1,
    every: Annotated[int, typer.Option(help="Facts between two checkpoints.")] = 10,
    restrain: Annotated[str | None, typer.Option(help="prune or rect, on the sum of what was edited.")] = None,
    restrain_at: Annotated[str, typer.Option(help="end, or checkpoint: at every one.")] = "end",
    stop_when: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="As retention<0.5 or perplexity>2; repeat for several.")
    ] = None,
    unrelated: Annotated[
        str | None, typer.Option(help="Facts that must not change, or none  [dim](default: shipped ones)[/dim]")
    ] = None,
    look: Annotated[
        bool, typer.Option("--look", help="Trace and circuit of an edited and an unrelated fact at every checkpoint.")
    ] = False,
    text: Annotated[str, typer.Option(help="What perplexity is measured on: self, a text file, a data set.")] = "self",
    moments: MomentsFrom = "self",
    tokens: Tokens = None,
    model: Model = "smollm2",
    seed: Seed = 0,
    start: Start = "auto",
    device: Device = None,
    dtype: Dtype = "float32",
    out: Out = None,
    runs: Runs = Path("runs"),
    light: Annotated[bool, typer.Option("--light", help="A small page, with plotly.js beside it.")] = False,
    as_json: Json = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method, or restrain.KEY of the restraint."),
    ] = None,
) -> None:
    """Edit many facts one after another, and see what is kept, what is forgotten, and when the model breaks."""
    if n < 1:
        raise UserError(f"--n must be at least 1, not {n}")
    # The same command finds the same folder, and so takes up where it was stopped.
    said: tuple[Any, ...] = (
        facts,
        n,
        method,
        layer,
        relation,
        known,
        batch,
        every,
        restrain,
        restrain_at,
        stop_when,
        unrelated,
        look,
        text,
    )
    said += (moments, tokens, model, seed, start, dtype, settings)
    key = hashlib.sha256(repr(said).encode()).hexdigest()[:8]
    with writable(out or runs / f"sequence-{Path(facts).stem}-{key}") as folder:
        from editing import method as methods
        from editing.pages.sequence import in_words, sequence_page
        from editing.restraint import restraint
        from editing.sequence.result import Config
        from editing.sequence.rules import Rule
        from editing.sequence.run import check_method
        from editing.sequence.run import sequence as run
        from editing.sequence.yardstick import Yardstick, fixed_text, unrelated_facts
        from factscope.plots.page import write_page
        from factscope.runs import store
        from studies.edit import moments_for
        from studies.sequence_watch import SequenceWatch

        check_method(method)
        for rule in stop_when or ():
            Rule.of(rule)
        pairs, aside = parted(settings or [], restrain)
        pairs = at_layer(pairs, methods.method(method), layer)
        how = Config(batch, every, restrain, restrain_at, tuple(stop_when or ()), seed, start)
        restraint_config = configured(restraint(restrain).Config, aside) if restrain else None
        loaded = common.loader(model, device, dtype)()
        chosen = _chosen(loaded, facts, relation, n, known, start, model)
        config = methods.config_for(method, loaded, pairs)
        others = () if unrelated == "none" else unrelated_facts(loaded, chosen, unrelated, seed=seed, start=start)
        yardstick = Yardstick.of(loaded, others, *fixed_text(loaded, text, seed=seed, start=start), start)
        watch = SequenceWatch.of(loaded, chosen, others, start, seed) if look else None
        if moments == "identity" and methods.method(method).NEEDS_MOMENTS:
            note("Note: the identity stands in for second moments; that is another method, and hurts neighbours more.")
        try:
            result = run(
                loaded, chosen, method, how, folder, yardstick, config=config, restraint_config=restraint_config,
                moments=moments_for(loaded, method, config, moments, tokens, seed),
                say=lambda sentence: note(f"Note: {sentence}."), on_checkpoint=watch,
            )  # fmt: skip
        except KeyboardInterrupt:
            note(f"Stopped; the edits done so far are in {folder}, and the same command goes on from there.")
            raise
        store.save(result, folder)
        page = write_page(sequence_page(result), folder / "page.html", light=light)
    if as_json:
        tell(json.dumps(_summary(result) | {"folder": str(folder), "page": str(page)}, ensure_ascii=False))
        return
    _table(result.checkpoints)
    tell(*in_words(result), f"Edits in {folder / 'edits'}", f"Page: {page}")


def _chosen(model: Any, source: str, relation: str | None, n: int, known: bool, start: str, name: str) -> Any:
    """The first `n` facts that can be edited one after another; of two about the same prompt, the first."""
    from editing.requests import known as known_facts
    from factscope.data.load import load_facts

    every = load_facts(source, relation=relation)
    first = {(fact.subject.casefold(), fact.template.casefold()): fact for fact in reversed(every)}
    found = tuple(fact for fact in every if first[fact.subject.casefold(), fact.template.casefold()] is fact)
    if len(found) < len(every):
        note(f"Note: {len(every) - len(found)} facts ask the same prompt as one before them and are left out.")
    found = known_facts(model, found, n, start) if known else found[:n]
    if not found:
        raise UserError(f"{name} knows none of the facts in {source}; leave --known out to edit what it does not know")
    if len(found) < n:
        note(f"Note: {len(found)} facts are edited, not {n}: there are no more.")
    return found


def _summary(result: Any) -> dict[str, Any]:
    """The result for programs; null for what is not a number."""
    last = result.last
    scores = {
        score.name: {
            "n": score.n,
            "immediate": _number(soon.after) if (soon := last.score(score.name, immediate=True)) else None,
            "now": _number(score.after),
            "low": _number(score.low),
            "high": _number(score.high),
        }
        for score in last.now
    }
    points = [
        {"facts": one.facts, "restrained": one.restrained, "warnings": one.warnings}
        | {name: _number(value) for name, value in one.quantities.items()}
        | ({"look": {name: _number(value) for name, value in one.extra.items()}} if one.extra else {})
        for one in result.checkpoints
    ]
    body = {"method": result.method, "facts": len(result.facts), "asked": result.asked, "edits": len(result.edits)}
    return body | {"stopped": result.stopped, "weights": last.weights, "scores": scores, "checkpoints": points}


def _number(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _table(points: Sequence[Any]) -> None:
    names = list(points[-1].quantities)
    ratios = ("perplexity", "condition")  # over the unedited model's
    tell(f"{'facts':>6}" + "".join(f"{name + (' ×' if name in ratios else ''):>15}" for name in names))
    for point in points:
        cells = [f"{point.quantities[name]:>15.4g}" if name in point.quantities else f"{'':>15}" for name in names]
        tell(f"{point.facts:>6}" + "".join(cells) + ("  restrained" if point.restrained else ""))
