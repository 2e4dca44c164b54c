"""`edit`: change what the model knows, score it, stack edits, undo them, and write an edited model out."""

import contextlib
import hashlib
import json
import shutil
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from factscope.errors import UserError
from factscope.runs.folders import new_folder, writable
from factscope.settings import configured
from studies.commands import app as common
from studies.commands.app import examples, note, run_app, show_version, tell
from studies.commands.edit import bench as bench_command
from studies.commands.edit import compare as compare_command
from studies.commands.edit import facts as facts_command
from studies.commands.edit import harness as harness_command
from studies.commands.edit import layers as layers_command
from studies.commands.edit import sequence as sequence_command
from studies.commands.edit import stack as stack_command
from studies.commands.options import (
    Device,
    Dtype,
    EditModel,
    EditType,
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
    numbers,
    parted,
)

app = typer.Typer(
    pretty_exceptions_enable=False, rich_markup_mode="rich", no_args_is_help=True, help="Edit what the model knows."
)

EXAMPLES = """[bold]Examples[/bold]

edit apply "[The Eiffel Tower] is located in the city of" --target Rome --method rome

edit apply --facts counterfact.json --limit 100 --method memit --batch 100

edit apply "[The Louvre] is located in the city of" --target Berlin --stack
"""


@app.callback(epilog=EXAMPLES)
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Edit what the model knows."""


@app.command(epilog=EXAMPLES)
def apply(
    prompt: Annotated[
        str | None, typer.Argument(help="A sentence that stops before the answer; \\[brackets] mark the subject.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="What the model shall say instead.")] = None,
    method: Method = "rome",
    layer: Annotated[str | None, typer.Option(help="Layer, or layers 4,5,6  [dim](default: the model's)[/dim]")] = None,
    subject: Annotated[str | None, typer.Option(help="The subject, as it stands in the prompt.")] = None,
    answer: Annotated[str | None, typer.Option(help="What it says now  [dim](default: the model's own)[/dim]")] = None,
    facts: Annotated[
        str | None, typer.Option(help="Edit many facts to their foils: shipped relation, file, folder or data set.")
    ] = None,
    relation: Annotated[str | None, typer.Option(help="Of --facts, only this relation.")] = None,
    limit: Annotated[int | None, typer.Option(help="Of --facts, at most so many.")] = None,
    known: Annotated[bool, typer.Option("--known", help="Of --facts, only those that the model knows.")] = False,
    batch: Annotated[int | None, typer.Option(help="Facts of one edit; more become a stack of edits.")] = None,
    restrain: Annotated[str | None, typer.Option(help="prune or rect, on the sum of what was edited.")] = None,
    stack: Annotated[bool, typer.Option("--stack", help="Edit on top of the stack, and put the edit on it.")] = False,
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
    """Edit one fact or many, score them before and after, and save the edit."""
    if (prompt is None) == (facts is None):
        raise UserError("give either a PROMPT with --target, or --facts; see edit apply --help")
    if prompt is not None and target is None:
        raise UserError("--target is missing: what shall the model say instead?")
    if facts is not None and any((target, subject, answer)):
        raise UserError("--target, --subject and --answer belong to a single PROMPT; facts bring their own")
    if batch is not None and batch < 1:
        raise UserError(f"--batch must be at least 1, not {batch}")
    if prompt is not None:
        place = runs / new_folder("edit", prompt).name
    else:  # the same command finds the same folder, and so takes up where it was stopped
        said = (facts, relation, limit, known, batch, method, layer, restrain, stack, moments, tokens, model, seed)
        key = hashlib.sha256(repr((said, start, settings)).encode()).hexdigest()[:8]
        place = runs / f"edit-{Path(str(facts)).stem}-{key}"
    fresh = stack or out is not None  # an edit on the stack, or one of another command, is not written over
    if fresh and ((out or place) / "report" / "result.json").exists():
        raise UserError(f"{out or place} holds a saved edit already; choose another folder with --out")
    with writable(out or place, fresh=fresh) as folder:
        from editing import method as methods
        from editing.requests import check, request
        from editing.requests import known as known_facts
        from editing.restraint import restraint
        from factscope.data.load import load_facts
        from studies import edit as edit_apply

        module = methods.method(method)
        pairs, aside = parted(settings or [], restrain)
        pairs = at_layer(pairs, module, layer)
        if restrain is not None:
            configured(restraint(restrain).Config, aside)
        loaded = common.loader(model, device, dtype)()
        if prompt is not None:
            fact, found = request(loaded, prompt, str(target), subject=subject, answer=answer, start=start)
            if found.subject_from.startswith("guess"):
                how = f"{found.subject!r} ({found.subject_from})"
                note(f"Note: the subject is taken to be {how}; [brackets] say otherwise.")
            chosen: tuple[Any, ...] = (fact,)
        else:
            chosen = load_facts(str(facts), relation=relation, limit=None if known else limit)
            if known:
                chosen = known_facts(loaded, chosen, limit, start)
        check(chosen)
        config = methods.config_for(method, loaded, pairs)
        for one in edit_apply.layers_of(config):
            from editing.solve.values import check_layer

            check_layer(loaded, one)
        below = stack_command.stacked(runs) if stack else []
        if moments == "identity" and module.NEEDS_MOMENTS:
            note("Note: the identity stands in for second moments; that is another method, and hurts neighbours more.")
        stats = edit_apply.moments_for(loaded, method, config, moments, tokens, seed)
        with _learning(config, len(chosen)) as (on_step, on_piece):
            edits = edit_apply.make(
                loaded, chosen, method, config, stats, below=below, restrain=restrain, restraint_settings=aside,
                batch=batch, seed=seed, start=start, on_step=on_step, on_piece=on_piece,
                folder=folder / "values", shown=False,
            )  # fmt: skip
        for edit in edits:
            for text in sorted({r.note for r in edit.reports if "division" in r.note or "singular" in r.note}):
                note(f"Note: {text}.")
        everything = [*below, *edits]
        protocol: Any = "sequence" if len(everything) > 1 else "together"
        scores = edit_apply.score(loaded, everything, protocol=protocol, start=start, seed=seed)
        worked = next((one for one in scores.report.scores if one.name == "efficacy success"), None)
        if worked is not None and (worked.after if worked.final is None else worked.final) == 0:
            note("Note: the edit did not take: what it should say is nowhere more probable than what was said before.")
        page = edit_apply.save(folder, edits, scores, light)
        shutil.rmtree(folder / "values", ignore_errors=True)  # they were kept to go on from, and it is done
        if stack:
            stack_command.put_on(runs, folder)
    names = [edit.name for edit in edits]
    if as_json:
        body = {"edits": names, "method": method, "facts": len(chosen), "scores": _scores(scores.report)}
        tell(json.dumps(body | {"folder": str(folder), "page": str(page)}, ensure_ascii=False))
        return
    _table(scores.report)
    tell(f"Edit {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} in {folder}", f"Page: {page}")


@app.command(
    epilog=examples(
        "edit evaluate runs/20261121-140000-edit-rome --facts landmark_city --limit 20",
        "edit evaluate runs/one runs/other --protocol sequence",
    )
)
def evaluate(
    edit: Annotated[list[Path], typer.Argument(help="Folders of saved edits, in the order to apply them.")],
    facts: Annotated[str | None, typer.Option(help="Ask these facts instead of the edits' own.")] = None,
    limit: Annotated[int | None, typer.Option(help="Of --facts, at most so many.")] = None,
    unrelated: Annotated[str | None, typer.Option(help="Facts whose prompts must not change at all.")] = None,
    protocol: Annotated[str, typer.Option(help="single, together or sequence.")] = "together",
    model: EditModel = None,
    seed: Seed = 0,
    start: Annotated[str | None, typer.Option(help="What begins the text  [dim](default: as the edit)[/dim]")] = None,
    device: Device = None,
    dtype: EditType = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Score saved edits again: by another protocol, on other facts."""
    if protocol not in ("single", "together", "sequence"):
        raise UserError(f"there is no protocol {protocol!r}; choose single, together or sequence")
    from studies import edit as edit_apply

    edits = [one for folder in edit for one in edit_apply.load_edits(folder)]
    with writable(out or new_folder("evaluate", edit[0].name)) as folder:
        from editing.pages.edit import page as draw
        from factscope.data.load import load_facts
        from factscope.plots.page import write_page
        from factscope.runs import store

        loaded = stack_command.model_of(edits, model, device, dtype)
        asked = load_facts(facts, limit=limit) if facts else None
        others = load_facts(unrelated, limit=100) if unrelated else ()
        scores = edit_apply.score(
            loaded,
            edits,
            protocol=typing.cast(Any, protocol),
            start=start or edits[0].start_token,
            facts=asked,
            unrelated=others,
            seed=seed,
        )
        store.save(scores, folder / "report")
        page = write_page(draw(edits, scores.report, scores.spectra), folder / "page.html")
    if as_json:
        body = {"edits": [one.name for one in edits], "scores": _scores(scores.report)}
        tell(json.dumps(body | {"folder": str(folder), "page": str(page)}, ensure_ascii=False))
        return
    _table(scores.report)
    tell(f"Page: {page}")


app.command("layers", epilog=layers_command.EXAMPLES)(layers_command.layers)
app.command("sequence", epilog=sequence_command.EXAMPLES)(sequence_command.sequence)
app.command("bench", epilog=bench_command.EXAMPLES)(bench_command.bench)
app.command("compare", epilog=compare_command.EXAMPLES)(compare_command.compare)
app.add_typer(facts_command.app, name="facts")
app.command("harness", epilog=harness_command.EXAMPLES)(harness_command.harness)
app.command("list", epilog=stack_command.LIST)(stack_command.list_)
app.command("undo", epilog=stack_command.UNDO)(stack_command.undo)
app.command("export", epilog=stack_command.EXPORT)(stack_command.export)


@app.command(epilog=examples("edit moments", "edit moments corpus.txt --layer 4,5,6 --tokens 100000"))
def moments(
    source: Annotated[str, typer.Argument(help="self, a text file, a folder, or a Hugging Face data set.")] = "self",
    layer: Annotated[str | None, typer.Option(help="Layers  [dim](default: the model's)[/dim]")] = None,
    tokens: Tokens = None,
    model: Model = "smollm2",
    seed: Seed = 0,
    start: Start = "auto",
    device: Device = None,
    dtype: Dtype = "float32",
    out: Annotated[Path | None, typer.Option(help="Where to keep them  [dim](default: the cache)[/dim]")] = None,
    as_json: Json = False,
) -> None:
    """Collect second moments of ordinary keys; done before, they are only shown. An interrupted one goes on."""
    from editing.solve.moments import Config, collect
    from editing.solve.values import check_layer
    from factscope.model.bridge import info

    loaded = common.loader(model, device, dtype)()
    wanted = numbers(layer) if layer else info(loaded).edit_layers
    for one in wanted:
        check_layer(loaded, one)
    config = Config(source=source, seed=seed, start=start, tokens=tokens or Config.tokens)
    found = collect(loaded, wanted, config, folder=out)
    if as_json:
        body = {"layers": list(found.matrices), "tokens": found.tokens, "left_out": found.left_out}
        body |= {"corpus": found.corpus, "changes": found.changes, "conditions": found.conditions}
        tell(json.dumps(body))
        return
    tell(f"{found.tokens} tokens counted, {found.left_out} at position 0 left out; corpus {found.corpus[:12]}")
    for name, changes in found.changes.items():
        moved = ", ".join(f"{change:.1%}" for change in changes) or "not measured"
        tell(f"layer {name:>3}  condition {found.conditions[name]:.3g}  an update's direction still moved by {moved}")


# ---- helpers ----


def _scores(report: Any) -> dict[str, Any]:
    named = {}
    for score in report.scores:
        values = {"n": score.n, "before": score.before, "after": score.after, "final": score.final}
        values |= {"low": score.low, "high": score.high}
        named[score.name] = {key: None if value != value else value for key, value in values.items()}
    return named


def _table(report: Any) -> None:
    from editing.pages.report import report_in_words

    tell(*report_in_words(report))


@contextlib.contextmanager
def _learning(config: Any, facts: int) -> Iterator[tuple[Any, Any]]:
    """Shows, at a terminal, the mean loss and probability while values are found, and how many facts are done."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None, None
        return
    steps, done, left = getattr(getattr(config, "descent", config), "steps", 0), 0, ""
    taken_up, begun = 0, time.monotonic()
    with console.status("Finding values ...") as status:

        def on_step(step: int, loss: Any, probability: Any) -> None:
            known = loss[~loss.isnan()]
            mean = float(known.mean()) if len(known) else 0.0
            said = f"loss {mean:.3f} nats, P(target) {float(probability.mean()):.3f}"
            status.update(f"{done} of {facts} facts done{left}; step {step + 1} of at most {steps}: {said}")

        def on_piece(count: int) -> None:
            nonlocal done, left, taken_up, begun
            done += count
            spent = time.monotonic() - begun
            if spent < 1:  # it was done before, by an interrupted run
                taken_up, begun = done, time.monotonic()
            else:
                left = f", about {spent / (done - taken_up) * (facts - done) / 60:.0f} min left"

        yield on_step, on_piece


def main() -> None:
    """Entry point."""
    run_app(app, "edit")


if __name__ == "__main__":
    main()
