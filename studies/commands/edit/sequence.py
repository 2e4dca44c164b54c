"""`edit sequence`: edit after edit, with checkpoints, until all are in or the model breaks; resumable at any edit."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import settled_folder
from studies.commands.app import load, note, tell
from studies.commands.command import command, run_folder
from studies.commands.edit.apply import note_identity
from studies.commands.options import (
    DETAILS,
    FACTS,
    EditOptions,
    KnownFactsOptions,
    ModelOptions,
    OneOf,
    RunOptions,
    Runs,
    Was,
    at_layer,
    key,
    option,
    parted,
    shipped,
    starting,
)


@dataclass(frozen=True, kw_only=True)
class SequenceOptions(EditOptions, KnownFactsOptions, ModelOptions, RunOptions):
    """What is edited, when it is looked at, and when it ends."""

    facts: Annotated[
        str,
        option(
            "Edit them to their foils: shipped relation, file, folder or data set.", autocompletion=starting(shipped)
        ),
    ]
    limit: Annotated[int, option("Facts to edit, at most.", panel=FACTS), Was("--n")] = 200
    batch: Annotated[int, option("Facts of one edit.")] = 1
    every: Annotated[int, option("Facts between two checkpoints.")] = 10
    stop_when: Annotated[
        tuple[str, ...], option("As retention<0.5 or perplexity>2; repeat for several.", metavar="RULE")
    ] = ()
    restrain_at: Annotated[
        str, option("When to restrain: at every checkpoint, or the end.", of=OneOf("moment", ("end", "checkpoint")))
    ] = "end"
    look: Annotated[
        bool, option("Trace and circuit of an edited and an unrelated fact at every checkpoint.", "--look")
    ] = False
    unrelated: Annotated[
        str | None,
        option("Facts that must not change, or none  [dim](default: shipped ones)[/dim]", panel=DETAILS),
    ] = None
    text: Annotated[str, option("What perplexity is measured on: self, a text file, a data set.", panel=DETAILS)] = (
        "self"
    )
    runs: Runs = Path("runs")


@command(
    "edit sequence",
    SequenceOptions,
    "edit sequence --facts counterfact.json --known --limit 200 --method rome",
    "edit sequence --facts counterfact.json --limit 500 --method memit --batch 10 --every 50 --restrain prune",
    'edit sequence --facts counterfact.json --limit 200 --stop-when "retention<0.5" --stop-when "perplexity>2"',
)
def sequence(options: SequenceOptions) -> None:
    """Edit many facts one after another, and see what is kept, what is forgotten, and when the model breaks."""
    # The same command finds the same folder, and so takes up where it was stopped.
    own = settled_folder("sequence", Path(options.facts).stem, key(options), options.runs)
    with run_folder("edit sequence", options, own) as folder:
        from editing.pages.sequence import page as drawn
        from editing.pages.sequence import words
        from factscope.plots.page import write_page
        from factscope.runs import store

        _check(options)
        try:
            result = _run(load(options), options, folder)
        except KeyboardInterrupt:
            note(f"Stopped; the edits done so far are in {folder}, and the same command goes on from there.")
            raise
        store.save(result, folder)
        page = write_page(drawn(result), folder / "page.html", light=options.light)
    if options.as_json:
        tell(json.dumps(_summary(result) | {"folder": str(folder), "page": str(page)}, ensure_ascii=False))
        return
    _table(result.checkpoints)
    tell(*words(result), f"Edits in {folder / 'edits'}", f"Page: {page}")


def _check(options: SequenceOptions) -> None:
    """Everything that can be wrong before a model is loaded."""
    from editing.method import method
    from editing.sequence.rules import Rule
    from editing.sequence.run import check_method

    spec = method(options.method)
    check_method(spec)
    for rule in options.stop_when:
        Rule.of(rule)
    pairs, _ = parted(options.settings, options.restrain)
    at_layer(pairs, spec, options.layer)
    _restraint(options)


def _restraint(options: SequenceOptions) -> Any:
    """The restraint's config, or None."""
    from editing.restraint import restraint

    _, aside = parted(options.settings, options.restrain)
    return restraint(options.restrain).config_for(aside) if options.restrain else None


def _run(model: Any, options: SequenceOptions, folder: Path) -> Any:
    """All edits, with the yardstick and the watch that were asked for."""
    from editing.method import method
    from editing.sequence.result import Config
    from editing.sequence.run import sequence as run
    from editing.sequence.yardstick import Yardstick, fixed_text, unrelated_facts
    from studies.edit import moments_for
    from studies.sequence_watch import SequenceWatch

    spec, seed, start = method(options.method), options.seed, options.start
    how = Config(options.batch, options.every, options.restrain, options.restrain_at, options.stop_when, seed, start)
    chosen = _chosen(model, options)
    pairs, _ = parted(options.settings, options.restrain)
    config = spec.config_for(model, at_layer(pairs, spec, options.layer))
    given = options.unrelated
    others = () if given == "none" else unrelated_facts(model, chosen, given, seed=seed, start=start)
    yardstick = Yardstick.of(model, others, *fixed_text(model, options.text, seed=seed, start=start), start)
    watch = SequenceWatch.of(model, chosen, others, start, seed) if options.look else None
    note_identity(spec, options.moments)
    return run(
        model, chosen, spec, how, folder, yardstick, config=config, restraint_config=_restraint(options),
        moments=moments_for(model, spec, config, options.moments, options.tokens, seed, options.start),
        say=lambda sentence: note(f"Note: {sentence}."), on_checkpoint=watch,
    )  # fmt: skip


def _chosen(model: Any, options: SequenceOptions) -> Any:
    """The first facts that can be edited one after another; of two about the same prompt, the first."""
    from editing.requests import known as known_facts
    from factscope.data.load import load_facts
    from factscope.data.request import distinct

    every = load_facts(options.facts, relation=options.relation, extra=options.extra)
    found = distinct(every)
    if len(found) < len(every):
        note(f"Note: {len(every) - len(found)} facts ask the same prompt as one before them and are left out.")
    limit = options.limit
    found = known_facts(model, found, limit, options.start) if options.known else found[:limit]
    if not found:
        raise UserError(
            f"{options.model} knows none of the facts in {options.facts}; leave --known out to edit what it does not "
            "know"
        )
    if len(found) < limit:
        note(f"Note: {len(found)} facts are edited, not {limit}: there are no more.")
    return found


def _summary(result: Any) -> dict[str, Any]:
    """The result for programs; null for what is not a number."""
    from editing.evaluation.table import plain

    points = [
        {"facts": one.facts, "restrained": one.restrained, "warnings": one.warnings}
        | {name: _number(value) for name, value in one.quantities.items()}
        | ({"look": {name: _number(value) for name, value in one.extra.items()}} if one.extra else {})
        for one in result.checkpoints
    ]
    body = {"method": result.method, "facts": len(result.facts), "asked": result.asked, "edits": len(result.edits)}
    return body | {
        "stopped": result.stopped,
        "weights": result.last.weights,
        "scores": plain(result.last.scores),
        "checkpoints": points,
    }


def _number(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _table(points: Sequence[Any]) -> None:
    names = list(points[-1].quantities)
    ratios = ("perplexity", "condition")  # over the unedited model's
    tell(f"{'facts':>6}" + "".join(f"{name + (' ×' if name in ratios else ''):>15}" for name in names))
    for point in points:
        cells = [f"{point.quantities[name]:>15.4g}" if name in point.quantities else f"{'':>15}" for name in names]
        tell(f"{point.facts:>6}" + "".join(cells) + ("  restrained" if point.restrained else ""))
